"""The daemon as a service: what the service manager is told of it, and when.

Rules
  1. READY follows every changeover, however it ended: the daemon serves then.
  2. The watchdog is fed while there is progress (pulse.py), about three times within its limit.  It
     does not wait for that before the daemon is ready.
  3. The status line is told when it has changed, and not more often than every STATUS_EVERY
     seconds: the manager tells everybody who listens.
"""

from __future__ import annotations

from collections.abc import Mapping

from forkd.scoreboard import Scoreboard
from forkd.supervisor.fleet import Fleet
from forkd.supervisor.leaving import KILL_GRACE
from forkd.supervisor.notify import Notifier
from forkd.supervisor.pulse import Pulse
from forkd.units import format_count

STATUS_EVERY = 5.0
STOP_MARGIN = 30.0
"""Seconds that a stop may take beyond the time for transfers: helpers, flushes, a slow machine."""
_NEVER = float("inf")


class Service:
    """Everything the manager hears after the start goes through here.

    Times are seconds of one monotonic clock.
    """

    def __init__(self, notifier: Notifier, fleet: Fleet, board: Scoreboard, now: float) -> None:
        self._notifier = notifier
        self._fleet = fleet
        self._board = board
        self._pulse = Pulse(now)
        self._feed_every = notifier.watchdog / 3 or _NEVER
        self._next_feed = now if notifier.watchdog else _NEVER
        self._next_status = now if notifier.heard else _NEVER
        self._told = ""

    def ready(self) -> None:
        self._told = self._doing()
        self._notifier.ready(self._told)

    def reloading(self) -> None:
        self._notifier.reloading()

    def stopping(self, timeout: float) -> None:
        """Transfers have `timeout` seconds to end."""
        status = f"stopping within {timeout:g} s" if timeout else "stopping at once"
        self._notifier.stopping(status, timeout + KILL_GRACE + STOP_MARGIN)

    def turn(self, now: float, ages: Mapping[int, float]) -> None:
        """To be called with every turn of the master's loop."""
        if self._fleet.current is None:
            return
        if now >= self._next_feed:
            self._next_feed = now + self._feed_every
            if self._pulse.beats(self._fleet, ages, now):
                self._notifier.alive()
        if now >= self._next_status and not self._fleet.stopping:
            self._next_status = now + STATUS_EVERY
            if (doing := self._doing()) != self._told:
                self._told = doing
                self._notifier.status(doing)

    def wake_at(self) -> float | None:
        """When the watchdog wants to be fed, if it does."""
        waits = self._next_feed == _NEVER or self._fleet.current is None
        return None if waits else self._next_feed

    def _doing(self) -> str:
        """'serving, generation 2: 2 workers, 3 sessions, 1 transfer'."""
        workers = [m for m in self._fleet.members.values() if m.role == "worker"]
        counts = [format_count(len(workers), "worker")]
        for name in ("session", "transfer"):
            total = sum(self._board.rows[m.slot].get(f"{name}s") for m in workers)
            counts.append(format_count(total, name))
        generation = self._fleet.current.id if self._fleet.current else 0
        return f"serving, generation {generation}: {', '.join(counts)}"
