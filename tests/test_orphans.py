"""Orphans that stand still are ended; everybody else is left alone."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from corerig import children, fork, wait

from forkd.ledger.file import LedgerFile, allocate, locked_slots
from forkd.scoreboard import Scoreboard
from forkd.supervisor import orphans
from forkd.supervisor.orphans import BUSY, InTheWay
from forkd.title import set_title

SLOT = 3
LIMIT = 30.0


class Site:
    """A ledger and a scoreboard, and processes that sit in SLOT."""

    def __init__(self, folder: Path, pids: list[int]) -> None:
        self.ledger = str(folder / "ledger")
        self.board = Scoreboard.create(str(folder / "scoreboard"))
        self._pids = pids
        allocate(self.ledger, 10)

    def locked(self) -> set[int]:
        return locked_slots(self.ledger)

    def sit(self, beat_age: float, title: str = "worker 1", *, lock: bool = True) -> int:
        """A process whose loop made its last turn so many seconds ago; its pid."""
        seen, sitting = os.pipe()

        def live() -> None:
            set_title(title)
            if lock:
                file = LedgerFile(self.ledger)
                assert file.hold_slot(SLOT)
            os.write(sitting, b"x")
            signal.pause()

        pid = fork(live)
        self._pids.append(pid)
        assert os.read(seen, 1)
        os.close(seen)
        os.close(sitting)
        row = self.board.rows[SLOT]
        row.take_seat(pid, 1, 1)
        row.set("beat_ns", time.monotonic_ns() - int(beat_age * 1e9))
        return pid

    def in_the_way(self, watchdog: float = LIMIT) -> InTheWay:
        return InTheWay(self.board, self.locked, watchdog)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with children() as pids:
        yield Site(tmp_path, pids)


def lives(pid: int) -> bool:
    return os.waitpid(pid, os.WNOHANG) == (0, 0)


def test_one_that_stands_still_is_ended(site: Site) -> None:
    pid = site.sit(LIMIT + 1)
    assert orphans.standing(site.board, site.locked(), LIMIT) == [SLOT]
    assert orphans.end(site.board, SLOT, site.locked) == pid
    assert wait(pid) == -signal.SIGKILL
    assert site.locked() == set()


def test_one_that_works_is_not(site: Site) -> None:
    site.sit(LIMIT - 1)
    assert orphans.standing(site.board, site.locked(), LIMIT) == []


def test_one_that_never_turned_its_loop_is_not(site: Site) -> None:
    site.sit(0)
    site.board.rows[SLOT].set("beat_ns", 0)
    assert orphans.standing(site.board, site.locked(), LIMIT) == []


@pytest.mark.parametrize("sit", [{"title": "keeper"}, {"lock": False}])
def test_whoever_else_has_its_pid_is_left_alone(site: Site, sit: dict[str, bool]) -> None:
    pid = site.sit(LIMIT + 1, **sit)
    assert orphans.end(site.board, SLOT, site.locked) == 0
    assert lives(pid)


def test_a_row_without_a_living_process_is_nobody(site: Site) -> None:
    assert orphans.end(site.board, SLOT, site.locked) == 0
    pid = site.sit(LIMIT + 1)
    os.kill(pid, signal.SIGKILL)
    wait(pid)
    assert orphans.end(site.board, SLOT, site.locked) == 0


@pytest.mark.parametrize(
    ("age", "waits", "ends"),
    [(0.0, False, False), (BUSY + 1, True, False), (LIMIT + 1, True, True)],
)
def test_the_start_waits_for_one_whose_time_comes(
    site: Site, age: float, waits: bool, ends: bool
) -> None:
    pid = site.sit(age)
    in_the_way = site.in_the_way()
    assert in_the_way() == waits
    assert in_the_way.ended == ([pid] if ends else [])
    if ends:
        assert wait(pid) == -signal.SIGKILL
        assert not in_the_way()
    else:
        assert lives(pid)


@pytest.mark.parametrize("blind", [{"watchdog": 0.0}, {"board": None}])
def test_without_a_watchdog_or_a_scoreboard_nobody_is_ended(
    site: Site, blind: dict[str, float | None]
) -> None:
    pid = site.sit(LIMIT + 1)
    chosen = {"board": site.board, "locked": site.locked, "watchdog": LIMIT} | blind
    assert not InTheWay(**chosen)()  # type: ignore[arg-type]
    assert lives(pid)
