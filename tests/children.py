"""Real child processes for the tests: forked, seated and linked as the master does it."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable
from pathlib import Path

from forkd.link import Link
from forkd.messages import LinkMessage, Ready
from forkd.seat import ChildSeat
from forkd.supervisor.processes import Process, fork_child

LONG = 30.0
"""Seconds until a test gives up on what must happen; nothing is measured with it."""


class Child:
    """A forked child, from the master's side."""

    def __init__(self, make_seat: Callable[[object], ChildSeat]) -> None:
        self.process: Process = fork_child(make_seat, lambda seat: None)
        self.pid = self.process.pid
        self.link: Link = self.process.link
        self._told: list[LinkMessage] = []
        self._exit = ""

    def told(self) -> LinkMessage:
        """The next message from the child."""
        while not self._told:
            assert not self.link.eof, "the child is gone"
            assert select.select([self.link], [], [], LONG)[0], "the child says nothing"
            self._told += self.link.receive()
        return self._told.pop(0)

    def ready(self) -> Child:
        message = self.told()
        assert isinstance(message, Ready), message
        return self

    def wait(self) -> str:
        """How it ended, such as "status 0"."""
        if not self._exit:
            ended = select.select([self.process.pidfd], [], [], LONG)[0]
            assert ended, "the child does not leave"
            self._exit = self.process.reap()
        return self._exit

    def leave_alone(self) -> None:
        """Do as a master that dies."""
        self.link.close()

    def signal(self, number: int) -> None:
        signal.pidfd_send_signal(self.process.pidfd, number)

    def title(self) -> str:
        raw = Path(f"/proc/{self.pid}/cmdline").read_bytes()
        return os.fsdecode(raw.split(b"\0")[0])

    def end(self) -> None:
        """For the end of a test, however it ended."""
        if not self._exit:
            self.process.kill()
            self.wait()
