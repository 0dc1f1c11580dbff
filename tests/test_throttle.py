"""One session's flow: what it may move, what goes back when it ends."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from forkd.config import Accounts, Config, Server
from forkd.limits.file import LimitsFile, allocate, limits_path
from forkd.limits.policy import SECOND
from forkd.limits.table import UP, LimitTable, Seat
from forkd.serving.throttle import FREE, Flow, Metered, flow
from forkd.units import Bytes

RATE = 100_000


@pytest.fixture
def seat(tmp_path: Path) -> Iterator[Seat]:
    config = Config(server=Server(runtime_dir=str(tmp_path)), accounts=Accounts(max=10))
    allocate(config, in_use=False)
    file = LimitsFile(limits_path(config))
    taken = LimitTable(file, 1, 60.0).enter("u:alice", 0)
    assert taken is not None
    yield taken
    file.close()


def drain(meter: Flow, count: int) -> float:
    """Move so many bytes as they are allowed; the seconds that took."""
    began = time.monotonic()
    while count:
        allowed = meter.take(count)
        if not allowed:
            time.sleep(max(0.0, meter.until - time.monotonic()))
            continue
        meter.spend(allowed)
        count -= allowed
    return time.monotonic() - began


def test_without_a_limit_everything_is_allowed(seat: Seat) -> None:
    for free in (flow(None, UP, Bytes(RATE)), flow(seat, UP, "unlimited")):
        assert free is FREE
        assert free.take(1 << 40) == 1 << 40
        assert free.whole(1 << 40)


def test_two_flows_share_one_rate(seat: Seat) -> None:
    one, other = (flow(seat, UP, Bytes(RATE)) for _ in range(2))
    began = time.monotonic()
    for _ in range(5):
        drain(one, 5000)
        drain(other, 5000)
    took = time.monotonic() - began
    assert took >= 50_000 / RATE - 0.2 - 0.07  # the burst, and the last piece goes at once


def test_what_is_allowed_stays_allowed_until_it_is_spent(seat: Seat) -> None:
    meter = Metered(seat, UP, RATE)
    assert meter.take(100) == 100
    assert meter.take(100) == 100
    meter.spend(60)
    assert meter.take(100) == 40
    meter.spend(40)
    assert meter.take(1 << 30) == 6250  # a piece


def test_a_small_file_waits_for_its_turn_and_is_paid_once(seat: Seat) -> None:
    first, second = Metered(seat, UP, RATE), Metered(seat, UP, RATE)
    assert first.whole(40_000)  # the burst allows its beginning
    assert not second.whole(1000)
    until = second.until
    assert not second.whole(1000)
    assert second.until == until
    time.sleep(max(0.0, until - time.monotonic()))
    assert second.whole(1000)
    assert second.whole(0)


def test_what_a_session_leaves_behind_goes_back(seat: Seat) -> None:
    leaver, stayer = Metered(seat, UP, RATE), Metered(seat, UP, RATE)
    assert leaver.take(1000)
    leaver.spend(400)
    assert leaver.whole(1_000_000)
    assert not leaver.whole(1_000_000)
    paid = seat.table.file.paid_until(seat.cell, UP)
    leaver.close()
    leaver.close()
    back = paid - seat.table.file.paid_until(seat.cell, UP)
    assert back == 1_000_600 * SECOND // RATE
    assert not stayer.whole(100)  # what was moved is not given back


def test_a_table_that_stands_still_is_asked_again(tmp_path: Path, seat: Seat) -> None:
    meter = Metered(seat, UP, RATE)
    other = LimitsFile(str(tmp_path / "limits"))
    with other.locked(seat.cell):
        assert meter.take(100) == 0
        assert not meter.whole(100)
        assert meter.until > time.monotonic()
        meter.close()
    time.sleep(max(0.0, meter.until - time.monotonic()))
    assert meter.take(100) == 100
    other.close()


def test_what_was_moved_unasked_is_claimed_with_the_next_piece(seat: Seat) -> None:
    """A small FTP upload is in memory before anybody knows that it is to be paid for."""
    meter = Metered(seat, UP, RATE)
    drain(meter, 1000)
    before = seat.table.file.paid_until(seat.cell, UP)
    meter.spend(RATE // 2)
    drain(meter, 1000)
    paid = seat.table.file.paid_until(seat.cell, UP)
    assert paid - before >= (RATE // 2 + 1000) * SECOND // RATE
    meter.spend(2000)
    meter.close()  # nothing goes back of what was moved
    assert seat.table.file.paid_until(seat.cell, UP) == paid
