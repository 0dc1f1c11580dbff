"""The limits' file and what it counts: exact over processes, whatever dies in between."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from corerig import fork, wait

from forkd.config import Accounts, Config, Server
from forkd.errors import Refusal, StartError
from forkd.limits import file as limitsfile
from forkd.limits import layout, policy
from forkd.limits.file import LimitsFile, allocate, limits_path
from forkd.limits.table import ADDRESS, DOWN, UP, Failing, LimitTable, Seat

WINDOW = 60.0


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(server=Server(runtime_dir=str(tmp_path)), accounts=Accounts(max=100))


@pytest.fixture
def file(config: Config) -> Iterator[LimitsFile]:
    allocate(config, in_use=False)
    opened = LimitsFile(limits_path(config))
    yield opened
    opened.close()


@pytest.fixture
def table(file: LimitsFile) -> LimitTable:
    return LimitTable(file, 1, WINDOW)


def keys_of_one_set(file: LimitsFile, count: int, start: str = "u:x") -> list[str]:
    """Keys that share a set of cells."""
    first = file.spot(start).first
    found = (f"u:{number}" for number in range(10**7))
    same = (key for key in found if file.spot(key).first == first)
    return [next(same) for _ in range(count)]


# the file


def test_the_file_is_as_large_as_the_accounts_need(config: Config) -> None:
    for accounts, mebibytes in ((1, 2), (4096, 2), (10_000, 8), (50_000, 32), (1_000_000, 32)):
        large = Config(server=config.server, accounts=Accounts(max=accounts))
        assert layout.size_for(layout.sets_for(large)) == (mebibytes << 20) + layout.PAGE


def test_the_file_is_allocated_whole_and_for_us_alone(config: Config) -> None:
    allocate(config, in_use=False)
    status = os.stat(limits_path(config))
    assert status.st_blocks * 512 >= status.st_size == layout.size_for(layout.sets_for(config))
    assert status.st_mode & 0o777 == 0o600


def test_a_file_in_use_keeps_its_counts_whatever_its_size(config: Config) -> None:
    allocate(config, in_use=False)
    file = LimitsFile(limits_path(config))
    LimitTable(file, 1, WINDOW).enter("u:alice", 0)
    larger = Config(server=config.server, accounts=Accounts(max=20_000))
    for again, in_use, kept in ((config, False, 1), (larger, True, 1), (larger, False, 0)):
        allocate(again, in_use=in_use)
        now = LimitsFile(limits_path(config))
        assert LimitTable(now, 2, WINDOW).sessions("u:alice") == kept
        now.close()
    file.close()


@pytest.mark.parametrize("offset", [0, 24])
def test_a_file_of_another_version_or_boot_is_made_anew(config: Config, offset: int) -> None:
    allocate(config, in_use=False)
    file = LimitsFile(limits_path(config))
    LimitTable(file, 1, WINDOW).enter("u:alice", 0)
    file.close()
    with open(limits_path(config), "r+b") as raw:
        raw.seek(offset)
        raw.write(b"other")
    allocate(config, in_use=True)
    file = LimitsFile(limits_path(config))
    assert LimitTable(file, 1, WINDOW).sessions("u:alice") == 0
    file.close()


def test_what_cannot_be_made_is_told(tmp_path: Path) -> None:
    config = Config(server=Server(runtime_dir=str(tmp_path / "none")))
    with pytest.raises(StartError, match="limits: no room"):
        allocate(config, in_use=False)


# sessions


def test_seats_are_given_up_to_the_limit_and_given_back(table: LimitTable) -> None:
    seats = [table.enter("u:alice", 3) for _ in range(3)]
    assert all(seats)
    assert table.enter("u:alice", 3) is None
    assert table.enter("u:bob", 3) is not None
    assert table.enter("u:alice", 0) is not None  # no limit, but counted
    assert table.sessions("u:alice") == 4
    for seat in seats:
        assert isinstance(seat, Seat)
        seat.leave()
        seat.leave()
    assert table.sessions("u:alice") == 1


def test_slots_are_counted_apart_and_summed(file: LimitsFile) -> None:
    tables = [LimitTable(file, slot, WINDOW) for slot in (1, 2, 64)]
    for each in tables:
        assert each.enter("u:alice", 5)
    assert tables[0].enter("u:alice", 3) is None
    file.forget_slot(64)
    assert tables[0].sessions("u:alice") == 2
    file.forget_slot(64)
    file.forget_slot(1)
    assert tables[1].sessions("u:alice") == 1


def test_processes_that_race_and_die_pass_no_limit(config: Config) -> None:
    """Each takes seats as fast as it can and is killed; what it had is forgotten by slot."""
    allocate(config, in_use=False)
    limit, slots = 7, (1, 2, 3)

    def taker(slot: int) -> None:
        own = LimitTable(LimitsFile(limits_path(config)), slot, WINDOW)
        seats: list[Seat] = []
        while True:
            seat = own.enter("u:alice", limit)
            if seat is not None:
                seats.append(seat)
            elif seats:
                seats.pop().leave()

    watch = LimitsFile(limits_path(config))
    table = LimitTable(watch, 4, WINDOW)
    most = 0
    for _ in range(5):
        pids = [fork(lambda slot=slot: taker(slot)) for slot in slots]
        ends = time.monotonic() + 0.2
        while time.monotonic() < ends:
            most = max(most, table.sessions("u:alice"))
        for slot, pid in zip(slots, pids, strict=True):
            os.kill(pid, signal.SIGKILL)
            assert wait(pid) == -signal.SIGKILL
            watch.forget_slot(slot)
    assert most == limit
    assert table.sessions("u:alice") == 0
    seats = [table.enter("u:alice", limit) for _ in range(limit + 1)]
    assert seats.count(None) == 1
    watch.close()


def test_a_lock_that_stands_still_refuses_instead_of_guessing(
    config: Config, table: LimitTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = LimitsFile(limits_path(config))
    spot = other.spot("u:alice")
    with other.locked(spot.first):
        for ask in (
            lambda: table.enter("u:alice", 1),
            lambda: table.failed("u:alice"),
            lambda: table.sessions("u:alice"),
        ):
            with pytest.raises(Refusal) as caught:
                ask()
            assert caught.value.code == "busy"
    assert table.enter("u:alice", 1)
    other.close()


# a full set


def test_no_cell_with_sessions_is_ever_given_away(file: LimitsFile, table: LimitTable) -> None:
    keys = keys_of_one_set(file, layout.WAYS + 2)
    seats = {key: table.enter(key, 1) for key in keys[: layout.WAYS]}
    for key in keys[layout.WAYS :]:
        with pytest.raises(Refusal) as caught:
            table.enter(key, 1)
        assert caught.value.code == "busy"
        assert table.failed(key) == policy.HISTORY  # as bad as can be, for want of room
    assert all(table.enter(key, 1) is None for key in seats)
    seat = seats[keys[3]]
    assert seat is not None
    seat.leave()
    assert table.enter(keys[-1], 1)
    assert table.enter(keys[-1], 1) is None
    with pytest.raises(Refusal):
        table.enter(keys[3], 1)


def test_unpaid_bandwidth_is_not_forgotten_for_want_of_room(
    file: LimitsFile, table: LimitTable
) -> None:
    keys = keys_of_one_set(file, layout.WAYS + 1)
    for key in keys[:-1]:
        seat = table.enter(key, 1)
        assert seat is not None
        table.claim(seat, UP, 1000, 1)
        seat.leave()
    with pytest.raises(Refusal):
        table.enter(keys[-1], 1)
    again = table.enter(keys[0], 1)
    assert again is not None
    assert table.claim(again, UP, 1, 1) > time.monotonic() + 900
    assert table.claim(again, DOWN, 1, 1) < time.monotonic()


def test_failures_yield_oldest_first_and_bans_last(file: LimitsFile, table: LimitTable) -> None:
    first = file.spot("a:0").first
    found = (str(number) for number in range(10**7))
    same = (one for one in found if file.spot(ADDRESS + one).first == first)
    origins = [next(same) for _ in range(layout.WAYS + 2)]
    for origin in origins[: layout.WAYS - 1]:
        table.failed(ADDRESS + origin)
        table.ban(origin, 1000)
    table.failed(ADDRESS + origins[layout.WAYS - 1])
    table.failed(ADDRESS + origins[layout.WAYS])  # takes the place of the one without a ban
    told = {one.origin for one in table.failing()}
    assert told == set(origins[: layout.WAYS - 1]) | {origins[layout.WAYS]}
    seats = [table.enter(ADDRESS + f"{origin}", 1) for origin in origins[-2:]]
    assert all(seats)  # a session takes even a ban's place
    assert sum(one.until is not None for one in table.failing()) == layout.WAYS - 2


def test_a_cell_whose_maker_is_killed_is_nobody_s(config: Config, file: LimitsFile) -> None:
    spot = file.spot("u:alice")
    for stores in range(3):

        def doomed(stores: int = stores) -> None:
            own = LimitsFile(limits_path(config))
            view, left = own._view, [stores]

            class Fuse:
                def __setitem__(self, at: object, value: bytes) -> None:
                    if not left[0]:
                        os.kill(os.getpid(), signal.SIGKILL)
                    left[0] -= 1
                    view[at] = value  # type: ignore[index]

            own._view = Fuse()  # type: ignore[assignment]
            own.give(spot.first, spot)

        status = wait(fork(doomed))
        if stores < 2:
            assert status == -signal.SIGKILL
            assert file.find(spot) is None
            assert not file.used(spot.first)
    assert file.find(spot) == spot.first


# bandwidth


def test_claims_are_served_in_their_order_and_can_be_given_back(table: LimitTable) -> None:
    seat = table.enter("u:alice", 0)
    assert seat is not None
    now = time.monotonic()
    times = [table.claim(seat, UP, 1000, 1000) for _ in range(4)]
    assert times[0] <= now
    assert [round(b - a, 6) for a, b in itertools.pairwise(times)] == [1.0] * 3
    table.unclaim(seat, UP, 3000, 1000)
    assert table.claim(seat, UP, 1, 1000) == pytest.approx(times[1], abs=1e-6)


# failed log-ins


def test_failures_are_counted_banned_shown_and_lifted(table: LimitTable) -> None:
    assert [table.failed("a:192.0.2.1") for _ in range(3)] == [1, 2, 3]
    assert table.failed("u:alice") == 1
    assert list(table.failing()) == [Failing("192.0.2.1", 3, None)]
    assert table.banned_for("192.0.2.1") == 0
    table.ban("192.0.2.1", 100)
    assert 99 < table.banned_for("192.0.2.1") <= 100
    assert table.file.bans_in_force(time.monotonic_ns()) == 1
    assert table.banned_for("192.0.2.2") == 0
    assert table.lift("192.0.2.1")
    assert not table.lift("192.0.2.1")
    assert not table.lift("192.0.2.2")
    assert list(table.failing()) == []
    assert table.failed("a:192.0.2.1") == 1


def test_failures_count_no_more_after_the_window(file: LimitsFile) -> None:
    table = LimitTable(file, 1, 0.3)
    assert [table.failed("a:192.0.2.1") for _ in range(2)] == [1, 2]
    table.ban("192.0.2.1", 0.05)
    time.sleep(0.6)
    assert list(table.failing()) == []
    assert table.file.bans_in_force(time.monotonic_ns()) == 0
    assert table.failed("a:192.0.2.1") == 1


def test_more_failures_than_are_remembered(table: LimitTable) -> None:
    counts = [table.failed("a:192.0.2.1") for _ in range(policy.HISTORY + 5)]
    assert counts[-6:] == [policy.HISTORY] * 6


def test_a_name_as_long_as_it_may_be_has_a_cell_of_its_own(table: LimitTable) -> None:
    longest = "u:" + "x" * 32
    assert len(longest.encode()) <= layout.KEY_BYTES
    assert table.enter(longest, 1)
    assert table.enter(longest[:-1], 1)
    assert table.enter(longest, 1) is None


def test_sets_are_chosen_by_a_secret(config: Config, file: LimitsFile) -> None:
    spots = [file.spot(f"u:{n}").first for n in range(64)]
    os.unlink(limits_path(config))
    allocate(config, in_use=False)
    other = limitsfile.LimitsFile(limits_path(config))
    assert spots != [other.spot(f"u:{n}").first for n in range(64)]
    other.close()
