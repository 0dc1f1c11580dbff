"""The children of the master by key: their links and ends as events, messages to them.

The selector's data of each descriptor is a callable taking the event mask.
"""

from __future__ import annotations

import os
import selectors
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from forkd.link import Link
from forkd.messages import LinkMessage
from forkd.seat import ChildSeat
from forkd.supervisor.estate import HeldChild
from forkd.supervisor.processes import Process, fork_child

SeatMaker = Callable[[socket.socket], ChildSeat]
"""Makes a seat around the child's end of its link."""


class Parent(Protocol):
    """Who is told what the children do."""

    def on_message(self, key: int, message: LinkMessage) -> None: ...

    def on_broken(self, key: int, why: str) -> None:
        """The link does not work any more; the process may still run."""

    def on_exit(self, key: int, process: Process, reason: str) -> None:
        """The process is gone and collected; its last messages came before this."""


class Children:
    """All processes that run, by the key their parent gave them."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        parent: Parent,
        release: Callable[[ChildSeat], None],
    ) -> None:
        self._selector = selector
        self._parent = parent
        self._release = release
        self._masks: dict[int, int] = {}
        self.running: dict[int, Process] = {}

    def fork(self, key: int, make_seat: SeatMaker) -> Process:
        """Start a child.  Raises OSError where the machine has no room for one."""
        process = fork_child(make_seat, self._enter)
        self.adopt(key, process)
        return process

    def adopt(self, key: int, process: Process) -> None:
        """Look after a child that runs already."""
        self.running[key] = process
        self._selector.register(
            process.pidfd, selectors.EVENT_READ, lambda _mask: self._on_pidfd(key, process)
        )
        self._watch(key, process.link)

    def take_over(self, held: Iterable[HeldChild]) -> None:
        """Look after those of the program that this process was before.

        Nobody has waited for them, so their pids are still theirs.
        """
        for child in held:
            link = Link(socket.socket(fileno=child.link), child.unsent)
            pidfd = os.pidfd_open(child.pid)
            process = Process(
                *(child.role, child.slot, child.number, child.pid, pidfd, link),
                *(child.started, child.unable),
            )
            self.adopt(child.key, process)

    def send(self, key: int, message: LinkMessage, files: Sequence[int] = ()) -> None:
        """Send a message and duplicates of descriptors; who is gone or reads nothing gets none."""
        process = self.running.get(key)
        if process:
            process.link.send(message, files)
            self._after(key, process.link)

    def kill(self, key: int) -> None:
        process = self.running.get(key)
        if process:
            process.kill()

    def kill_all(self) -> None:
        """End and collect whoever is left, telling nobody."""
        for key, process in list(self.running.items()):
            process.kill()
            self._forget(key, process)
            process.reap()

    def _enter(self, seat: ChildSeat) -> None:
        """In a new child: close what leads to its sisters and to the master's own things."""
        for process in self.running.values():
            process.release()
        self._release(seat)

    def _on_link(self, key: int, link: Link) -> None:
        if key not in self.running:
            return
        link.flush()
        for message in link.receive():
            self._parent.on_message(key, message)
        self._after(key, link)

    def _on_pidfd(self, key: int, process: Process) -> None:
        if key not in self.running:
            return
        self._on_link(key, process.link)
        self._forget(key, process)
        self._parent.on_exit(key, process, process.reap())

    def _after(self, key: int, link: Link) -> None:
        if link.eof or link.fault:
            if self._masks.pop(key, 0):
                self._selector.unregister(link)
                self._parent.on_broken(key, link.fault or "closed its link to the master")
        else:
            self._watch(key, link)

    def _watch(self, key: int, link: Link) -> None:
        mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if link.wants_write else 0)
        before = self._masks.get(key, 0)
        if not before:
            self._selector.register(link, mask, lambda _mask: self._on_link(key, link))
        elif before != mask:
            self._selector.modify(link, mask, lambda _mask: self._on_link(key, link))
        self._masks[key] = mask

    def _forget(self, key: int, process: Process) -> None:
        del self.running[key]
        self._selector.unregister(process.pidfd)
        if self._masks.pop(key, 0):
            self._selector.unregister(process.link)
