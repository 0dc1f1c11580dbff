"""Where jobs run: hashes few at a time and in nobody's way."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from forkd.config import Log as LogSettings
from forkd.log import open_log
from forkd.serving.pool import Mailbox, Pool
from forkd.serving.session import Activity, Closed, Job, Outcome, Session, Weight
from forkd.serving.sessions import HASHERS, HASHES_MAX, Sessions


class OneJob:
    """A door whose session does one job and is over."""

    name = "one-job"

    def __init__(self, job: Job) -> None:
        self._job = job
        self.closed = False

    def step(self) -> Outcome:
        return self._job

    def failed(self, error: BaseException) -> Outcome:
        return Closed(str(error))

    def timed_out(self) -> Outcome:
        return Closed("timed out")

    def drain(self) -> None: ...

    def kick(self) -> None: ...

    def account_changed(self) -> None: ...

    def close(self) -> None:
        self.closed = True


class Loop:
    """Sessions with all they need, and the turns of their loop."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._epoll = stack.enter_context(select.epoll())
        self._mailbox = Mailbox()
        log = open_log(LogSettings())
        self.sessions = Sessions(self._epoll, Pool(), self._mailbox, log)

    def open(self, weight: Weight, work: Callable[[], Outcome]) -> OneJob:
        ours, theirs = socket.socketpair()
        self._stack.enter_context(ours)
        self._stack.enter_context(theirs)
        door = OneJob(Job(work, weight))
        fd = ours.fileno()
        self.sessions.open(Session(f"s{fd}", "", 0.0, fd, door, Activity()))
        return door

    def turn_until(self, what: Callable[[], bool]) -> None:
        ends = time.monotonic() + 30
        while not what():
            assert time.monotonic() < ends
            self._mailbox.deliver()
            time.sleep(0.001)


@pytest.fixture
def loop() -> Iterator[Loop]:
    with ExitStack() as stack:
        yield Loop(stack)


def test_hashes_are_few_at_a_time_and_hold_up_no_other_job(loop: Loop) -> None:
    gate, lock = threading.Event(), threading.Lock()
    under_way: list[int] = [0, 0]  # now, at most

    def slowly() -> Outcome:
        with lock:
            under_way[0] += 1
            under_way[1] = max(under_way)
        gate.wait(30)
        with lock:
            under_way[0] -= 1
        return Closed("hashed")

    hashing = [loop.open(Weight.HASH, slowly) for _ in range(50)]
    other = loop.open(Weight.LONG, lambda: Closed("done"))
    loop.turn_until(lambda: other.closed)
    assert not any(door.closed for door in hashing)
    gate.set()
    loop.turn_until(lambda: all(door.closed for door in hashing))
    assert under_way == [0, HASHERS]
    assert len(loop.sessions) == 0


def test_when_too_many_hashes_wait_the_next_is_told(loop: Loop) -> None:
    gate = threading.Event()

    def slowly() -> Outcome:
        gate.wait(30)
        return Closed("hashed")

    for _ in range(HASHES_MAX):
        assert not loop.sessions.hashes_full
        loop.open(Weight.HASH, slowly)
    assert loop.sessions.hashes_full
    gate.set()
    loop.turn_until(lambda: len(loop.sessions) == 0)
    loop.turn_until(lambda: not loop.sessions.hashes_full)
