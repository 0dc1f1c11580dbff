"""Housekeeping: what nobody owns goes, and every byte is given back once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from corerig import ALICE, Place, children, fork, place_in

from forkd.helpers import keeper as keeper_module
from forkd.helpers.keeper import Keeper
from forkd.ledger.file import LedgerFile
from forkd.limits.file import LimitsFile, allocate, limits_path
from forkd.limits.table import LimitTable
from forkd.link import Link, link_pair
from forkd.log import log_to
from forkd.messages import Drain, Reap
from forkd.quota import MappedLedger
from forkd.scoreboard import KEEPER_ROW, Scoreboard
from forkd.storage import partials
from forkd.storage.sidecar import Source

SOURCE = Source("f", "c", 1000, "v1", False, None)
BORN = 1234
WEEK = 7 * 86400


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with place_in(tmp_path) as made:
        allocate(made.config, in_use=False)
        yield made


@pytest.fixture
def board(tmp_path: Path) -> Scoreboard:
    return Scoreboard.create(str(tmp_path / "scoreboard"))


@pytest.fixture
def round_of(place: Place, board: Scoreboard, tmp_path: Path) -> Callable[..., str]:
    """One round of the keeper after these messages; what it logged."""
    ours, its = link_pair()
    master = Link(ours)
    log = log_to(os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT), place.config.log)
    limits = LimitsFile(limits_path(place.config))
    keeper = Keeper(place.config, board, place.file, limits, Link(its), log)

    def once(*messages: Reap) -> str:
        for message in (*messages, Drain(None)):
            master.send(message)
        keeper.serve()
        return (tmp_path / "log").read_text()

    return once


def test_sessions_of_a_dead_worker_are_counted_no_more(
    place: Place, round_of: Callable[..., str]
) -> None:
    file = LimitsFile(limits_path(place.config))
    living, dead = LimitTable(file, 2, 60.0), LimitTable(file, 3, 60.0)
    held = place.ledger(2)  # a process has slot 2, nobody slot 3
    for table in (living, dead, dead):
        assert table.enter("u:alice", 3)
    assert living.enter("u:alice", 3) is None
    round_of(Reap(3), Reap(2))
    assert living.sessions("u:alice") == 1
    assert held.file.hold_slot(2)
    file.close()


def stage(place: Place, name: str, size: int) -> bytes:
    """A staged object that is charged."""
    (place.staging / name).write_bytes(b"x" * size)
    ledger = MappedLedger(place.file, 0)
    ledger.adopt(ALICE, place.charged + size)
    return name.encode()


def partial(place: Place, size: int) -> bytes:
    folder = os.open(place.staging, os.O_RDONLY)
    staged = partials.create(folder, SOURCE, b"f", None)
    os.write(staged.fd, b"x" * size)
    staged.close()
    os.close(folder)
    MappedLedger(place.file, 0).adopt(ALICE, place.charged + size)
    return staged.ident


@pytest.fixture
def week_later(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time
    monkeypatch.setattr(keeper_module.time, "time", lambda: now() + WEEK + 60)


def test_a_dead_slot_is_reaped_without_being_asked(place: Place, round_of) -> None:
    MappedLedger(place.file, 3).reserve(ALICE, b"s3.1-1", 500, 0)
    round_of()
    assert place.charged == 0
    assert list(place.file.leases()) == []


def test_a_living_slot_is_left_alone(place: Place, board: Scoreboard, round_of) -> None:
    board.rows[1].take_seat(os.getpid(), 1, BORN)
    ledger = place.ledger(1)
    ledger.reserve(ALICE, b"s1.1234-1", 500, 0)
    (place.staging / "s1.1234-1").write_bytes(b"x" * 10)
    stage(place, "s1.1234-2", 20)  # between the end of its lease and its name
    stage(place, "t1.1234-3", 30)
    round_of(Reap(1))
    assert place.charged == 550
    assert len(place.staged()) == 3


def test_what_a_dead_process_left_without_a_lease_goes(place: Place, board, round_of) -> None:
    board.rows[1].take_seat(os.getpid(), 1, BORN)
    assert place.file is not None
    place.ledger(1)
    stage(place, "s1.1233-1", 10)  # the slot's process before
    stage(place, "s2.1234-1", 20)  # another slot's
    (place.staging / "t2.1234-2").symlink_to("far/away/and/uncharged")
    (place.home / "f").write_bytes(b"x" * 7)
    MappedLedger(place.file, 0).adopt(ALICE, place.charged + 7)
    round_of()
    assert place.staged() == []
    assert place.charged == 7 == place.on_disk()


@pytest.mark.usefixtures("week_later")
def test_what_a_living_process_could_not_remove_goes_in_time(
    place: Place, board: Scoreboard, round_of
) -> None:
    board.rows[1].take_seat(os.getpid(), 1, BORN)
    ledger = place.ledger(1)
    ledger.reserve(ALICE, b"s1.1234-1", 500, 0)
    (place.staging / "s1.1234-1").write_bytes(b"x" * 10)
    stage(place, "s1.1234-2", 20)
    stage(place, "t1.1234-3", 30)
    round_of()
    assert place.staged() == ["s1.1234-1"]
    assert place.charged == 500


def test_an_unknown_object_is_not_ours_to_remove(place: Place, round_of) -> None:
    stage(place, "what is this", 10)
    round_of()
    assert place.staged() == ["what is this"]
    assert place.charged == 10


def test_partials_stay_until_they_expire(place: Place, board: Scoreboard, round_of) -> None:
    ident = partial(place, 100)
    round_of()
    assert place.charged == 100
    assert board.rows[KEEPER_ROW].get("partials") == 1
    assert ident.decode() in place.staged()


@pytest.mark.usefixtures("week_later")
def test_expired_partials_give_their_bytes_back(place: Place, board, round_of) -> None:
    partial(place, 100)
    assert "partial-expired" in round_of()
    assert (place.charged, place.staged()) == (0, [])
    assert board.rows[KEEPER_ROW].get("partials_expired_total") == 1


def test_a_partial_from_the_future_begins_to_age(place: Place, round_of, monkeypatch) -> None:
    path = place.staging / partial(place, 100).decode()
    before, now = path.stat(), time.time
    monkeypatch.setattr(keeper_module.time, "time", lambda: now() - 3600)  # the clock was set back
    round_of()
    after = path.stat()
    assert place.charged == 100
    assert after.st_ctime_ns > before.st_ctime_ns
    assert after.st_mtime_ns == before.st_mtime_ns


def test_the_client_s_time_of_a_complete_partial_does_not_make_it_old(place: Place, round_of):
    ident = partial(place, 100)
    os.utime(place.staging / ident.decode(), (0, 0))
    round_of()
    assert place.charged == 100


@pytest.mark.usefixtures("week_later")
def test_a_partial_that_somebody_holds_stays(place: Place, round_of) -> None:
    ident = partial(place, 100)
    folder = os.open(place.staging, os.O_RDONLY)
    lock = partials.open_locked(folder, ident)
    round_of()
    assert place.charged == 100
    os.close(lock)
    os.close(folder)


@pytest.mark.parametrize("damage", ["gone", "torn"])
def test_a_partial_that_nothing_describes_goes(place: Place, round_of, damage: str) -> None:
    ident = partial(place, 100)
    journal = place.staging / (ident.decode() + ".j")
    if damage == "gone":
        journal.unlink()
    else:
        journal.write_bytes(journal.read_bytes()[:-3])
    round_of()
    assert (place.charged, place.staged()) == (0, [])


def test_orphaned_sidecars_go(place: Place, round_of) -> None:
    (place.staging / "pdead-0.j").write_bytes(b"{}")
    round_of()
    assert place.staged() == []


def test_a_keeper_that_died_is_reaped_by_the_next(place: Place) -> None:
    ident = stage(place, "s1.1-1", 100)

    def die() -> None:
        ledger = MappedLedger(LedgerFile(place.path), KEEPER_ROW)
        ledger.claim(ALICE, ident, 100)
        (place.staging / ident.decode()).unlink()

    with children() as pids:
        pids.append(fork(die))
        os.waitpid(pids.pop(), 0)
    assert place.charged == 100
    place.reap(KEEPER_ROW)
    assert place.charged == 0


def test_an_object_that_vanishes_is_not_given_back_twice(
    place: Place, round_of, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process's reaper ends between the look at the folder and the removal."""
    stage(place, "s2.1-1", 100)
    (place.home / "f").write_bytes(b"x" * 500)
    ledger = MappedLedger(place.file, 0)
    ledger.adopt(ALICE, 600)
    real = partials.staged_objects

    def staged_objects(folder: int):
        found = list(real(folder))
        for ident, status in found:
            os.unlink(ident, dir_fd=folder)
            ledger.adopt(ALICE, place.charged - status.st_size)
        return iter(found)

    monkeypatch.setattr(partials, "staged_objects", staged_objects)
    round_of()
    assert place.charged == 500 == place.on_disk()


def test_what_its_dead_owner_leased_last_is_left_to_the_reaper(
    place: Place, round_of, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was leased after the keeper had looked at the leases, then its process died."""
    stage(place, "s2.1-1", 100)
    real, looks = MappedLedger.leased, []

    def leased(ledger: MappedLedger, account: int) -> set[bytes]:
        found = real(ledger, account)
        looks.append(account)
        if len(looks) == 1:
            MappedLedger(place.file, 2).claim(ALICE, b"s2.1-1", 100)
        return found

    monkeypatch.setattr(MappedLedger, "leased", leased)
    round_of()
    assert place.staged() == ["s2.1-1"]
    place.reap(2)
    assert (place.charged, place.staged()) == (0, [])


def test_one_account_s_trouble_is_not_another_s(place: Place, round_of) -> None:
    MappedLedger(place.file, 0).adopt(2, 0)
    other = Path(place.storage) / ".forkd" / "2"
    other.write_bytes(b"not a folder")
    stage(place, "s2.1-1", 100)
    assert "sweep-failed" in round_of()
    assert place.charged == 0
