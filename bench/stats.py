"""Medians and ratios of what was measured in rounds.  Pure.

In every round each way of doing a move is measured once, so the machine's mood is the same for all
of a round: a ratio is taken within a round, and the median of these ratios is what is shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from bench.moves import Move


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement: `value` in the unit of its move, and what it cost the server."""

    value: float
    cpu: float | None
    """Seconds of processor time per `Move.cpu_unit`, of all processes of the server."""


@dataclass(frozen=True, slots=True)
class Row:
    """What is known about one way of doing a move; `ratios` is by the name of the reference."""

    label: str
    middle: float
    low: float
    high: float
    ratios: dict[str, float]
    cpu: float | None


@dataclass(frozen=True, slots=True)
class Result:
    """A move, measured: samples by label, one a round and in the same order for all labels."""

    move: Move
    samples: Mapping[str, Sequence[Sample]]

    def rows(self) -> list[Row]:
        """In the order of the samples; without a row for what was never measured."""
        present = [r for r in self.move.references if self.samples.get(r)]
        return [self._row(label, present) for label, taken in self.samples.items() if taken]

    def _row(self, label: str, references: Sequence[str]) -> Row:
        taken = self.samples[label]
        values = [sample.value for sample in taken]
        costs = [sample.cpu for sample in taken if sample.cpu is not None]
        return Row(
            label=label,
            middle=median(values),
            low=min(values),
            high=max(values),
            ratios={r: ratio(taken, self.samples[r]) for r in references if r != label},
            cpu=median(costs) if costs else None,
        )


def ratio(taken: Sequence[Sample], reference: Sequence[Sample]) -> float:
    """The median of value / reference value of the same round.

    Raises ValueError where the rounds are not the same.
    """
    pairs = zip(taken, reference, strict=True)
    return median(mine.value / its.value for mine, its in pairs)
