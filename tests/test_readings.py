"""Counters of a board that is damaged, as a scraper sees them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from forkd.cells import CELLS, COUNTERS
from forkd.helpers.readings import CEILING, Readings
from forkd.scoreboard import ROWS, Scoreboard


@pytest.fixture
def board(tmp_path: Path) -> Scoreboard:
    return Scoreboard.create(str(tmp_path / "board"))


def garbage(board: Scoreboard, number: int) -> None:
    """Over a whole row, guards too, as a wild writer would."""
    size = os.stat(board.path).st_size
    row = (size - 4096) // ROWS
    with open(board.path, "r+b", buffering=0) as file:
        file.seek(4096 + number * row)
        file.write(os.urandom(row))


def test_all_rows_are_summed(board: Scoreboard) -> None:
    for number, row in enumerate(board.rows):
        row.add("sessions_total", number)
    reading = Readings(board).take()
    assert reading.totals["sessions_total"] == sum(range(ROWS))
    assert set(reading.totals) == set(COUNTERS)
    assert reading.damaged == 0


def test_a_damaged_row_counts_what_it_had(board: Scoreboard) -> None:
    readings = Readings(board)
    for row in board.rows[1:4]:
        row.take_seat(9, 1, 1)
        row.add("sessions_total", 10)
    assert readings.take().totals["sessions_total"] == 30
    garbage(board, 2)
    board.rows[3].add("sessions_total", 5)
    reading = readings.take()
    assert (reading.totals["sessions_total"], reading.damaged) == (35, 1)
    board.rows[2].take_seat(10, 1, 1)
    assert board.rows[2].get("sessions_total") == 0
    reading = readings.take()
    assert (reading.totals["sessions_total"], reading.damaged) == (35, 0)
    board.rows[2].add("sessions_total", 2)
    assert readings.take().totals["sessions_total"] == 37


def test_a_reader_that_never_saw_it_sound_leaves_it_out(board: Scoreboard) -> None:
    board.rows[1].add("sessions_total", 10)
    board.rows[2].add("sessions_total", 10)
    garbage(board, 2)
    reading = Readings(board).take()
    assert (reading.totals["sessions_total"], reading.damaged) == (10, 1)
    assert board.total("sessions_total") == 10


def test_what_no_counter_reaches_is_damage(board: Scoreboard) -> None:
    readings = Readings(board)
    row = board.rows[5]
    row.add("events_total", 7)
    readings.take()
    row.set("events_total", CEILING)
    reading = readings.take()
    assert (reading.totals["events_total"], reading.damaged) == (7, 1)


def test_a_row_that_fell_goes_on_above(board: Scoreboard) -> None:
    readings = Readings(board)
    row = board.rows[5]
    row.add("events_total", 7)
    row.add("bans_total", 1)
    readings.take()
    for name in CELLS:
        row.set(name, 0)
    row.add("events_total", 2)
    totals = readings.take().totals
    assert (totals["events_total"], totals["bans_total"]) == (9, 1)
