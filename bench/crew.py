"""Clients in processes of their own that begin at the same moment.

What they prepare and verify is not timed: the clock runs from the common start until the last of
them is done.
"""

from __future__ import annotations

import os
import select
import signal
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from typing import NoReturn, Protocol

from bench.processes import BenchError, Meter

_PATIENCE = 180.0
_READY, _DONE, _RIGHT, _FAILED = b"r", b"d", b"v", b"!"


class Task(Protocol):
    """What one client does, in three parts; all run in the client's process."""

    def prepare(self) -> None:
        """Connect, log in, build the requests."""

    def run(self) -> None:
        """What is timed."""

    def verify(self) -> None:
        """Raises BenchError when what came is wrong."""


def run_together(tasks: Sequence[Task], meter: Meter) -> float:
    """Seconds in which all tasks have run.  Raises BenchError when one fails or takes too long."""
    go, start = os.pipe()
    check, look = os.pipe()  # of its own: who is quick must not take the start of the slow
    told, tell = os.pipe()
    children: list[int] = []
    heard: Counter[int] = Counter()
    try:
        for task in tasks:
            pid = os.fork()
            if pid == 0:
                for fd in (start, look, told):
                    os.close(fd)
                _client(task, go, check, tell)
            children.append(pid)
        ends = time.monotonic() + _PATIENCE
        _await(told, heard, _READY, len(tasks), ends)
        meter.start()
        os.write(start, b"g" * len(tasks))
        _await(told, heard, _DONE, len(tasks), ends)
        seconds = meter.stop()
        os.write(look, b"c" * len(tasks))
        _await(told, heard, _RIGHT, len(tasks), ends)
        return seconds
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)  # not waited for yet, so still ours
            os.waitpid(pid, 0)
        for fd in (go, start, check, look, told, tell):
            os.close(fd)


def _client(task: Task, go: int, check: int, tell: int) -> NoReturn:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        task.prepare()
        os.write(tell, _READY)
        os.read(go, 1)
        task.run()
        os.write(tell, _DONE)
        os.read(check, 1)
        task.verify()
        os.write(tell, _RIGHT)
    except BaseException:
        traceback.print_exc()
        os.write(tell, _FAILED)
    while True:
        signal.pause()


def _await(told: int, heard: Counter[int], what: bytes, count: int, ends: float) -> None:
    """Until `what` was heard `count` times; words of a later stage are kept in `heard`."""
    poll = select.poll()
    poll.register(told, select.POLLIN)
    while heard[what[0]] < count:
        if not poll.poll(max(0.0, ends - time.monotonic()) * 1000):
            raise BenchError(f"a client took longer than {_PATIENCE:.0f} s")
        heard.update(os.read(told, 64))
        if heard[_FAILED[0]]:
            raise BenchError("a client failed; what it said is above")
