from __future__ import annotations

import pytest

from forkd.config import Config, Limits, Server
from forkd.serving.draining import Draining
from forkd.serving.session import FOREVER, Activity, Session
from forkd.units import Bytes, Seconds

WINDOW = 10.0
FLOOR = 100


def draining(floor: int = FLOOR, window: float = WINDOW) -> Draining:
    server = Server(graceful_timeout=Seconds(window))
    return Draining(Config(server=server, limits=Limits(drain_floor=Bytes(floor))))


def session(**activity: object) -> Session:
    doing = Activity(transferring=True, path="f", state="upload")
    for name, value in activity.items():
        setattr(doing, name, value)
    # Nothing of a door is asked here.
    return Session("1", "peer", 0.0, 3, None, doing, deadline=5.0)  # type: ignore[arg-type]


def test_it_begins_once_and_ends_at_the_first_deadline() -> None:
    drain = draining()
    assert not drain.begun
    assert drain.laggards([session()], 1e9) == []
    drain.begin([], 0.0)
    assert drain.begun
    assert not drain.over(1e9)
    drain.limit(50.0)
    drain.limit(20.0)
    drain.limit(90.0)  # the master kills who is there after 20.0
    assert not drain.over(19.0)
    assert drain.over(20.0)


def test_a_transfer_lives_as_long_as_it_moves_faster_than_the_floor() -> None:
    drain, one = draining(), session()
    drain.begin([one], 0.0)
    for window in range(1, 20):
        one.activity.moved += int(FLOOR * WINDOW)
        assert drain.laggards([one], window * WINDOW - 0.1) == []
        assert drain.laggards([one], window * WINDOW) == []
    one.activity.moved += int(FLOOR * WINDOW) - 1
    assert drain.laggards([one], 20 * WINDOW) == [one]


def test_another_transfer_is_counted_anew() -> None:
    drain, one = draining(), session(moved=10_000)
    drain.begin([one], 0.0)
    one.activity.moved, one.activity.path = 0, "g"
    assert drain.laggards([one], WINDOW) == []
    one.activity.moved = 10
    assert drain.laggards([one], 2 * WINDOW) == [one]


@pytest.mark.parametrize("state", ["waits for us", "runs a command"])
def test_who_waits_for_us_is_not_slow(state: str) -> None:
    one = session()
    if state == "waits for us":
        one.deadline = FOREVER
    else:
        one.activity.state, one.activity.transferring = "running", False
    drain = draining()
    drain.begin([one], 0.0)
    assert drain.laggards([one], WINDOW) == []


def test_who_was_told_to_leave_and_stays_is_ended() -> None:
    idle, listing = session(state="idle", transferring=False), session(transferring=False)
    listing.in_job = True
    drain = draining()
    drain.begin([idle, listing], 0.0)
    assert drain.laggards([idle, listing], WINDOW) == [idle]


def test_without_a_floor_nobody_is_too_slow() -> None:
    drain, one = draining(floor=0), session()
    drain.begin([one], 0.0)
    assert drain.laggards([one], WINDOW) == []


def test_a_window_is_a_second_at_least() -> None:
    drain, one = draining(window=0.0), session()
    drain.begin([one], 0.0)
    assert drain.laggards([one], 0.9) == []
    assert drain.laggards([one], 1.0) == [one]
