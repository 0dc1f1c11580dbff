"""The slots beside the fleet: heartbeats, orphans of a former master, and what the dead left.

Rules
  1. The kernel's lock on a slot tells whether somebody sits there, not what the scoreboard says.
  2. A slot whose process is gone is cleaned on the scoreboard at once, and handed to the keeper
     when one serves.  The keeper looks at the lock itself, so telling it twice does no harm.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from forkd.scoreboard import SLOTS, Scoreboard
from forkd.supervisor import orphans
from forkd.supervisor.fleet import Fleet
from forkd.supervisor.processes import Process

ALL_SLOTS = frozenset(range(1, SLOTS + 1))


class Slots:
    """`locked` asks the kernel which slots are held; `reap` tells a keeper of a slot, if it can."""

    def __init__(
        self,
        fleet: Fleet,
        board: Scoreboard,
        locked: Callable[[], Iterable[int]],
        reap: Callable[[int], bool],
    ) -> None:
        self._fleet = fleet
        self._board = board
        self._locked = locked
        self._reap = reap
        self._to_reap: set[int] = set()

    def begin(self) -> frozenset[int]:
        """At the start: what orphans still hold is left to them, all else is cleaned."""
        members = {member.slot for member in self._fleet.members.values()}
        return self._release_unheld(ALL_SLOTS - members)

    def look(self) -> frozenset[int]:
        """Which orphans still hold their slots; those that let go are cleaned."""
        return self._release_unheld(self._fleet.foreign) if self._fleet.foreign else frozenset()

    def end_standing(self, watchdog: float) -> list[int]:
        """End the orphans whose loop stands still for so many seconds (0: nobody); their pids."""
        slots = orphans.standing(self._board, self._fleet.foreign, watchdog) if watchdog else []
        return [pid for slot in slots if (pid := orphans.end(self._board, slot, self._locked))]

    def vacate(self, slot: int) -> None:
        """The process in this slot is gone."""
        self._board.rows[slot].clear_gauges()
        self._to_reap.add(slot)
        self.tell_keeper()

    def keeper_gone(self) -> None:
        """What it was told it may not have done: its successor hears of all empty slots."""
        held = {member.slot for member in self._fleet.members.values()}
        self._to_reap |= ALL_SLOTS - held - self._fleet.foreign

    def tell_keeper(self) -> None:
        """Hand over the slots that wait; without a keeper they go on waiting."""
        while self._to_reap and self._reap(min(self._to_reap)):
            self._to_reap.remove(min(self._to_reap))

    def beats(self, running: Mapping[int, Process]) -> dict[int, float]:
        """Seconds since each worker's loop last turned, by slot; those that have not begun: no."""
        now = time.monotonic_ns()
        ages: dict[int, float] = {}
        for member in self._fleet.members.values():
            row, process = self._board.rows[member.slot], running.get(member.key)
            beat = row.get("beat_ns")
            if member.slot and beat and process and row.get("pid") == process.pid:
                ages[member.slot] = (now - beat) / 1e9
        return ages

    def _release_unheld(self, slots: frozenset[int]) -> frozenset[int]:
        self._fleet.foreign = slots & frozenset(self._locked())
        for slot in slots - self._fleet.foreign:
            self.vacate(slot)
        return self._fleet.foreign
