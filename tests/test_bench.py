"""The pure parts of the benchmarks: what is reported of what was measured."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # bench is not installed

from bench.moves import GIB, MIB, QUICK, Kind, Move, Scale, Speech
from bench.processes import BenchError
from bench.report import as_json, as_markdown, as_text, figure
from bench.run import all_moves, chosen
from bench.stats import Result, Sample, ratio

LARGE = Move("up", "1 GiB up", Kind.UP, ("raw", "rsync"), size=GIB)
SMALL = Move("small", "2,000 x 4 KiB up", Kind.UP, ("raw",), files=2000, size=4096)


def samples(*values: float, cpu: float | None = None) -> list[Sample]:
    return [Sample(value, cpu) for value in values]


def test_a_ratio_is_taken_within_a_round():
    """The machine halves its speed in the second round, for both: the ratio stays what it is."""
    assert ratio(samples(300, 150, 330), samples(100, 50, 100)) == 3.0


def test_a_ratio_of_other_rounds_is_refused():
    with pytest.raises(ValueError, match="zip"):
        ratio(samples(1, 2), samples(1))


def test_a_row_has_median_range_and_cost():
    result = Result(LARGE, {"raw": samples(5, 1, 3), "forkd": samples(1, 1, 1, cpu=0.25)})
    raw, forkd = result.rows()
    assert (raw.middle, raw.low, raw.high, raw.cpu) == (3, 1, 5, None)
    assert forkd.cpu == 0.25
    assert forkd.ratios == {"raw": pytest.approx(1 / 3)}
    assert raw.ratios == {}  # none to itself, none to an rsync that was not measured


def test_large_moves_are_told_in_bytes_and_small_ones_in_files():
    assert (LARGE.unit, LARGE.value(2.0), LARGE.cost(0.5)) == ("MiB/s", 512, 0.5)
    assert (SMALL.unit, SMALL.value(2.0), SMALL.cost(0.5)) == ("files/s", 1000, 0.25)


def test_all_streams_of_a_move_count():
    eight = Move("up-8", "", Kind.UP, (), streams=8, size=128 * MIB)
    assert eight.value(1.0) == 1024
    visits = Move("login-8", "", Kind.LOGIN, (), files=4, streams=8)
    assert (visits.unit, visits.value(2.0)) == ("1/s", 16)


def test_memory_is_told_in_kib_a_session():
    idle = Move("memory", "", Kind.MEMORY, (), files=100)
    assert (idle.unit, idle.value(2048)) == ("KiB/session", 2)


@pytest.mark.parametrize("scale", [Scale(), QUICK])
def test_every_move_has_a_name_of_its_own_and_something_to_do(scale: Scale):
    moves = all_moves(scale)
    assert len({move.name for move in moves}) == len(moves)
    assert all(move.count >= 1 for move in moves)
    transfers = [move for move in moves if move.kind in (Kind.DOWN, Kind.UP)]
    assert all(move.size for move in transfers)


def test_tables_are_asked_for_by_name_or_by_its_beginning():
    moves = all_moves(QUICK)
    assert chosen(moves, []) == moves
    assert [move.name for move in chosen(moves, ["up", "one"])] == ["up", "one"]
    ftp = chosen(moves, ["ftp"])
    assert ftp == [move for move in moves if move.speech is Speech.FTP]
    with pytest.raises(BenchError, match="'nothing'"):
        chosen(moves, ["up", "nothing"])


@pytest.mark.parametrize(
    ("value", "shown"), [(0.5, "0.50"), (12.34, "12.3"), (123.4, "123"), (12345.6, "12,346")]
)
def test_figures_have_as_many_digits_as_mean_something(value: float, shown: str):
    assert figure(value) == shown


def test_the_table_has_a_column_for_each_reference_that_was_measured():
    result = Result(LARGE, {"raw": samples(100, 200), "forkd": samples(50, 100, cpu=0.2)})
    assert as_text(result).splitlines() == [
        "1 GiB up",
        "         MiB/s   min-max  x raw  server CPU s/GiB",
        "  raw      150   100-200      1",
        "  forkd   75.0  50.0-100   0.50              0.20",
    ]
    assert as_markdown(result).splitlines() == [
        "| **1 GiB up** | MiB/s | min-max | x raw | server CPU s/GiB |",
        "| - | -: | -: | -: | -: |",
        "| raw | 150 | 100-200 | 1 |  |",
        "| forkd | 75.0 | 50.0-100 | 0.50 | 0.20 |",
    ]


def test_json_has_every_sample():
    told = as_json([Result(LARGE, {"raw": samples(100, 200)})], {"processors": 2})
    assert told["machine"] == {"processors": 2}
    (move,) = told["moves"]
    assert move["ways"]["raw"]["samples"] == [100, 200]
