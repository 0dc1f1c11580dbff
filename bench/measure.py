"""Rounds: A B C, A B C, ... with everything but the move itself outside of the clock."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.files import refresh_memory
from bench.moves import Kind, Move
from bench.peers import Way
from bench.processes import BenchError, Meter
from bench.stats import Result, Sample


def measure(
    move: Move, ways: Sequence[Way], rounds: int, tell: Callable[[str], None], folder: Path
) -> Result:
    """Measure each way once a round, after a round that does not count.  Raises BenchError.

    `folder` is on the disk that is used.
    """
    samples: dict[str, list[Sample]] = {way.label: [] for way in ways}
    counted = 1 if move.kind is Kind.MEMORY else rounds
    warm_up = 0 if move.kind is Kind.MEMORY else 1
    for number in range(warm_up + counted):
        for way in ways:
            tell(f"{move.name}: round {number + 1 - warm_up} of {counted}, {way.label}")
            try:
                sample = _sample(move, way, folder)
            except BenchError as error:
                raise BenchError(f"{move.name}, {way.label}: {error}") from error
            if number >= warm_up:
                samples[way.label].append(sample)
    return Result(move, samples)


def _sample(move: Move, way: Way, folder: Path) -> Sample:
    """One measurement.  Nothing of it is left to be written back when the next one begins."""
    way.clean()
    os.sync()
    if move.large and (move.kind is Kind.UP or move.kept):
        refresh_memory(folder, move.count * move.size)
    meter = Meter(way.server)
    measured = way.measure(meter)
    way.check()
    way.clean()
    os.sync()
    cost = None if meter.cpu is None else move.cost(meter.cpu)
    return Sample(move.value(measured), cost)
