"""No new sessions: the whole daemon from `drain` to `undrain`, or one worker that is replaced.

A closed worker stays.  It tells newcomers why it does not serve them, so nobody waits in vain, and
is open again at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from forkd import reports
from forkd.messages import CloseDoors, LinkMessage, OpenDoors
from forkd.supervisor.control import Asker
from forkd.supervisor.orders import Orders
from forkd.units import format_count

EVERY = 1.0
"""Seconds between two lines of progress."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is under way in some workers; `closed`: none of them takes anything new any more."""

    workers: int
    sessions: int
    transfers: int
    closed: bool


class Workers(Protocol):
    """Who is drained."""

    def workers(self) -> list[int]:
        """The keys of all there are."""

    def load(self, keys: Iterable[int]) -> Load: ...

    def send(self, key: int, message: LinkMessage) -> None: ...

    def replace(self, slot: int, timeout: float | None) -> int:
        """Drain the worker in this slot; its key.  Raises ValueError with a sentence."""


@dataclass(slots=True)
class Wait:
    """Somebody waits until nothing is left: in all workers, or in those that leave (`keys`)."""

    asker: Asker
    begun: float
    sessions: int
    keys: frozenset[int] | None
    told: str = ""


class Drainage:
    """Carries out drain and undrain, and tells how far it is."""

    def __init__(self, workers: Workers, orders: Orders, clock: Callable[[], float]) -> None:
        self._workers = workers
        self._orders = orders
        self._clock = clock
        self._waits: list[Wait] = []
        self._next = 0.0

    def close(self, timeout: float | None, asker: Asker) -> None:
        """Answered when the last session has ended."""
        now = self._clock()
        self._orders.closed = True
        self._orders.closed_until = None if timeout is None else now + timeout
        keys = self._workers.workers()
        load = self._workers.load(keys)
        for key in keys:
            self._workers.send(key, CloseDoors(timeout))
        self._wait(Wait(asker, now, load.sessions, None), load)

    def open(self, asker: Asker) -> None:
        """Take sessions again."""
        self._orders.closed, self._orders.closed_until = False, None
        for key in self._workers.workers():
            self._workers.send(key, OpenDoors())
        asker.done(reports.Serving())
        for wait in [each for each in self._waits if each.keys is None]:
            self._waits.remove(wait)
            wait.asker.failed("undrained", "somebody let forkd serve again (undrain)")

    def replace(self, slot: int, timeout: float | None, asker: Asker) -> None:
        """Answered when the worker in this slot has gone."""
        try:
            key = self._workers.replace(slot, timeout)
        except ValueError as error:
            asker.failed("not-found", str(error))
            return
        load = self._workers.load([key])
        self._wait(Wait(asker, self._clock(), load.sessions, frozenset([key])), load)

    def gone(self, key: int) -> None:
        """This worker's process has ended."""
        for wait in [each for each in self._waits if each.keys and key in each.keys]:
            self._done(wait)

    def stopping(self) -> None:
        """The daemon is told to stop."""
        for wait in self._waits:
            wait.asker.failed("busy", "forkd is stopping")
        self._waits.clear()

    def tick(self) -> None:
        """Look who is still there, once in a while."""
        now = self._clock()
        if not self._waits or now < self._next:
            return
        self._next = now + EVERY
        for wait in list(self._waits):
            load = self._workers.load(self._workers.workers() if wait.keys is None else wait.keys)
            if wait.keys is None and load.closed and not load.sessions:
                self._done(wait)
            else:
                self._tell(wait, load)

    def wake_at(self) -> float | None:
        return self._next if self._waits else None

    def _wait(self, wait: Wait, load: Load) -> None:
        self._waits.append(wait)
        self._next = wait.begun + EVERY / 4
        self._tell(wait, load)

    def _tell(self, wait: Wait, load: Load) -> None:
        line = (
            f"draining {format_count(load.workers, 'worker')}: "
            f"{format_count(load.sessions, 'session')}, {format_count(load.transfers, 'transfer')}"
        )
        if line != wait.told:
            wait.told = line
            wait.asker.progress(line)

    def _done(self, wait: Wait) -> None:
        self._waits.remove(wait)
        took = self._clock() - wait.begun
        wait.asker.done(reports.Drained(sessions=wait.sessions, took=took))
