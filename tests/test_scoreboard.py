"""The scoreboard as a real file, shared by real processes."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from forkd.cells import CELLS, COUNTERS, DIRECTIONS, DOORS, DURATION_BOUNDS, GAUGES, SIZE_BOUNDS
from forkd.scoreboard import FILE_BYTES, MASTER_ROW, ROWS, SLOTS, Scoreboard, State


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "scoreboard")


def in_child(work: Callable[[], None]) -> int:
    """Run in a forked process; its exit status, 0 when `work` returned."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_the_file_is_allocated_whole(path: str) -> None:
    Scoreboard.create(path)
    found = os.stat(path)
    assert found.st_size == FILE_BYTES
    assert found.st_blocks * 512 >= FILE_BYTES
    assert found.st_mode & 0o007 == 0


def test_a_hole_in_the_file_is_filled(path: str) -> None:
    Scoreboard.create(path).rows[1].add("sessions_total", 5)
    sparse = path + ".copy"
    with open(path, "rb") as old, open(sparse, "wb") as new:
        new.write(old.read(16384))
        new.truncate(FILE_BYTES)
    assert Scoreboard.create(sparse).total("sessions_total") == 5
    assert os.stat(sparse).st_blocks * 512 >= FILE_BYTES


def test_children_write_what_all_read(path: str) -> None:
    board = Scoreboard.create(path)
    for slot in (1, SLOTS):
        assert in_child(lambda row=board.rows[slot]: row.add("sessions_total", 7)) == 0
    assert board.rows[SLOTS].get("sessions_total") == 7
    assert board.total("sessions_total") == 14


def test_counters_go_on_where_the_last_process_ended(path: str) -> None:
    board = Scoreboard.create(path)
    row = board.rows[5]
    row.take_seat(100, 1, 1000)
    row.set("sessions", 4)
    row.add("sessions_total", 4)
    row.take_seat(200, 2, 2000)
    assert {name: row.get(name) for name in GAUGES if row.get(name)} == {
        "pid": 200,
        "generation": 2,
        "started_ms": 2000,
        "state": State.STARTING,
    }
    assert row.get("sessions_total") == 4
    row.clear_gauges()
    assert [row.get(name) for name in GAUGES] == [0] * len(GAUGES)
    assert Scoreboard.create(path).total("sessions_total") == 4


def test_every_cell_is_its_own(path: str) -> None:
    board = Scoreboard.create(path)
    assert len(set(CELLS)) == len(CELLS) == len(GAUGES) + len(COUNTERS)
    for at, row in enumerate(board.rows):
        for i, name in enumerate(CELLS):
            row.set(name, at * 100_000 + i)
    again = Scoreboard.create(path)
    assert len(again.rows) == ROWS
    for at, row in enumerate(again.rows):
        assert [row.get(name) for name in CELLS] == [at * 100_000 + i for i in range(len(CELLS))]


def test_seats(path: str) -> None:
    board = Scoreboard.create(path)
    board.rows[MASTER_ROW].take_seat(1, 1, 1)
    assert list(board.seats()) == []
    for slot, state in ((1, State.SERVING), (2, State.FREE), (3, 99), (SLOTS, State.DRAINING)):
        board.rows[slot].take_seat(slot + 1000, 3, 42)
        board.rows[slot].set("state", state)
    board.rows[1].set("sessions", 9)
    assert [(seat.slot, seat.pid, seat.state) for seat in board.seats()] == [
        (1, 1001, State.SERVING),
        (SLOTS, 1000 + SLOTS, State.DRAINING),
    ]
    assert next(board.seats()).sessions == 9


def test_transfers(path: str) -> None:
    board = Scoreboard.create(path)
    row = board.rows[1]
    row.transfer("native", "up", 1024, 0.0051, True)
    row.transfer("native", "up", 1025, 9000.0, True)
    row.transfer("native", "up", 1 << 50, 0.0, True)
    row.transfer("native", "down", 77, 1.0, False)
    counted = {name: row.get(name) for name in COUNTERS if row.get(name)}
    assert counted == {
        "transfers_total:native:up:ok": 3,
        "transfers_total:native:down:failed": 1,
        "duration_us_sum:up": 9_000_005_100,
        "size_sum:up": 2049 + (1 << 50),
        "duration_bucket:up:0": 1,
        "duration_bucket:up:1": 1,
        f"duration_bucket:up:{len(DURATION_BOUNDS)}": 1,
        "size_bucket:up:0": 1,
        "size_bucket:up:1": 1,
        f"size_bucket:up:{len(SIZE_BOUNDS)}": 1,
    }


def test_each_door_counts_its_own(path: str) -> None:
    row = Scoreboard.create(path).rows[1]
    for door in DOORS:
        for direction in DIRECTIONS:
            row.transfer(door, direction, 1, 1.0, True)
            row.transfer(door, direction, 1, 1.0, False)
            row.add(f"bytes_total:{door}:{direction}")
    with pytest.raises(KeyError):
        row.transfer("gopher", "up", 1, 1.0, True)


@pytest.mark.parametrize("content", [b"", b"x" * FILE_BYTES, b"forkd scoreboard"])
def test_another_layout_is_made_anew(path: str, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
    before = os.stat(path).st_ino
    board = Scoreboard.create(path)
    assert board.total("sessions_total") == 0
    assert os.stat(path).st_size == FILE_BYTES
    assert os.stat(path).st_ino != before
    assert os.listdir(os.path.dirname(path)) == ["scoreboard"]


def test_a_missing_file_is_not_made_by_a_look(path: str) -> None:
    assert Scoreboard.existing(path) is None
    assert not os.path.exists(path)
    Scoreboard.create(path).rows[1].set("pid", 5)
    found = Scoreboard.existing(path)
    assert found
    assert found.rows[1].get("pid") == 5


def test_who_still_maps_the_old_file_is_not_disturbed(path: str) -> None:
    old = Scoreboard.create(path)
    old.rows[1].add("sessions_total", 3)
    with open(path, "r+b") as file:
        file.seek(16)
        file.write(b"another layout !")
    new = Scoreboard.create(path)
    new.rows[1].add("sessions_total", 1)
    assert (old.total("sessions_total"), new.total("sessions_total")) == (3, 1)


def test_no_room_for_the_file(path: str) -> None:
    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
        with pytest.raises(OSError) as refused:
            Scoreboard.create(path)
        assert refused.value.errno == errno.EFBIG

    assert in_child(work) == 0
    assert os.listdir(os.path.dirname(path)) == []


def test_no_descriptor_is_left_open(path: str) -> None:
    boards = [Scoreboard.create(path)]
    before = len(os.listdir("/proc/self/fd"))
    boards.append(Scoreboard.create(path))
    # the mapping itself keeps one duplicate, as mmap.mmap does
    assert len(os.listdir("/proc/self/fd")) - before <= 1
