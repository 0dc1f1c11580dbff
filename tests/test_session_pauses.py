"""Pauses of sessions: alarms of the loop, no threads, and a peer that leaves meanwhile."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from forkd.config import Log as LogSettings
from forkd.log import open_log
from forkd.serving.pool import Mailbox, Pool
from forkd.serving.session import Activity, Closed, Outcome, Park, Pause, Session
from forkd.serving.sessions import Sessions

LONG = 30.0


class Door:
    """Answers each step with what `script` says."""

    name = "test"

    def __init__(self, script: Callable[[], Outcome]) -> None:
        self._script = script
        self.steps: list[float] = []
        self.closed = False
        self.timeouts = 0

    def step(self) -> Outcome:
        self.steps.append(time.monotonic())
        return self._script()

    def failed(self, error: BaseException) -> Outcome:
        raise error

    def timed_out(self) -> Outcome:
        self.timeouts += 1
        return Closed("timed out")

    def drain(self) -> None: ...
    def kick(self) -> None: ...
    def account_changed(self) -> None: ...

    def close(self) -> None:
        self.closed = True


class Loop:
    """The part of a worker's loop that sessions need."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.pool = Pool()
        self.sessions = Sessions(self.epoll, self.pool, Mailbox(), open_log(LogSettings()))
        self.peers: list[socket.socket] = []
        self._ours: list[socket.socket] = []

    def open(self, script: Callable[[], Outcome]) -> tuple[Door, Session]:
        ours, its = socket.socketpair()
        self._ours.append(ours)
        self.peers.append(its)
        door = Door(script)
        session = Session(str(len(self.peers)), "", 0.0, ours.fileno(), door, Activity())
        self.sessions.open(session)
        return door, session

    def turn(self, most: float = LONG) -> None:
        for fd, mask in self.epoll.poll(self.sessions.patience(most)):
            self.sessions.on_event(fd, mask)
        self.sessions.ring()
        self.sessions.step_queued()

    def close(self) -> None:
        for sock in (*self._ours, *self.peers):
            sock.close()
        self.epoll.close()


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


def after(seconds: float, then: Outcome | None = None) -> Callable[[], Outcome]:
    """Pause until so many seconds from now, then something else."""
    until = time.monotonic() + seconds

    def script() -> Outcome:
        over = time.monotonic() >= until
        return (then or Park(0, LONG)) if over else Pause(until)

    return script


def test_each_pause_ends_at_its_time_and_not_before(loop: Loop) -> None:
    began = time.monotonic()
    spans = (0.2, 0.05, 0.1, 0.05)
    doors = [loop.open(after(seconds))[0] for seconds in spans]
    while any(len(door.steps) < 2 for door in doors):
        loop.turn()
    for seconds, door in zip(spans, doors, strict=True):
        assert len(door.steps) == 2
        assert door.steps[1] >= began + seconds
    assert doors[1].steps[1] < doors[2].steps[1] < doors[0].steps[1]


def test_many_pauses_take_no_thread(loop: Loop) -> None:
    doors = [loop.open(after(0.1))[0] for _ in range(200)]
    while any(len(door.steps) < 2 for door in doors):
        loop.turn()
    assert loop.pool._threads == 0


def test_who_is_woken_early_may_pause_on_and_has_one_alarm(loop: Loop) -> None:
    door, session = loop.open(after(0.2))
    for _ in range(50):
        loop.sessions.wake(session.fd, session.id)
        loop.turn()
    assert len(door.steps) == 51
    assert len(loop.sessions._alarms) == 1
    loop.turn()
    assert len(door.steps) == 52
    loop.turn(0.05)
    assert len(door.steps) == 52


def test_an_alarm_of_an_earlier_pause_does_not_end_a_later_one(loop: Loop) -> None:
    now = time.monotonic()
    pauses = iter([Pause(now + 0.05), Pause(now + 0.2), Park(0, LONG)])
    door, session = loop.open(lambda: next(pauses))
    loop.sessions.wake(session.fd, session.id)
    while len(door.steps) < 3:
        loop.turn()
    assert door.steps[2] >= now + 0.2


def test_a_pause_is_not_timed_out_and_not_ended_by_what_arrives(loop: Loop) -> None:
    door, _ = loop.open(after(0.15))
    loop.peers[0].send(b"x")
    loop.sessions.time_out(time.monotonic() + 3600)
    while len(door.steps) < 2:
        loop.turn()
    assert not door.timeouts
    assert door.steps[1] >= door.steps[0] + 0.1


def test_a_peer_that_leaves_in_a_pause_is_gone_at_once(loop: Loop) -> None:
    released = []
    door, session = loop.open(after(LONG))
    session.release = lambda: released.append(True)
    loop.peers[0].close()
    loop.turn()
    assert door.closed
    assert released == [True]
    assert len(loop.sessions) == 0


def test_a_peer_that_ends_its_side_in_a_pause_is_gone_at_once(loop: Loop) -> None:
    door, session = loop.open(after(LONG))
    released = []
    session.release = lambda: released.append(True)
    loop.peers[0].send(b"what nobody reads any more")
    loop.peers[0].shutdown(socket.SHUT_WR)  # all that TCP tells of a close
    loop.turn(0.0)
    assert door.closed
    assert released == [True]


def test_the_alarm_of_a_session_that_ended_rings_for_nobody(loop: Loop) -> None:
    loop.open(after(0.05))
    loop.peers[0].close()
    loop.turn()
    time.sleep(0.06)
    loop.turn(0.0)
    assert loop.sessions.patience(LONG) == LONG
