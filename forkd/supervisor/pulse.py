"""Whether the daemon makes progress, so that a service manager's watchdog may be fed.  No I/O.

Rules
  1. A worker whose loop stands still is the master's to replace.  The manager hears of it only
     when that does not help: no worker's loop turned for `patience` seconds.
  2. While the daemon starts or stops, the manager has other deadlines for it.
  3. A master that stands still does not come here, so it feeds nobody.
"""

from __future__ import annotations

from collections.abc import Mapping

from forkd.supervisor.fleet import Fleet
from forkd.supervisor.leaving import START_TIMEOUT
from forkd.supervisor.roster import MemberState

_ALIVE = (MemberState.READY, MemberState.DRAINING)


class Pulse:
    """Remembers when a worker last made progress, in the seconds of the caller's clock."""

    def __init__(self, now: float) -> None:
        self._last = now

    def beats(self, fleet: Fleet, ages: Mapping[int, float], now: float) -> bool:
        """`ages` as Fleet.tick has them: seconds since the last turn of each slot's loop."""
        if fleet.stopping or fleet.current is None or progress(fleet, ages):
            self._last = now
        return now - self._last <= patience(fleet)


def progress(fleet: Fleet, ages: Mapping[int, float]) -> bool:
    """Whether any worker's loop has turned within the time that a turn may take."""
    limit = fleet.current.spec.watchdog if fleet.current else 0.0
    return any(
        member.role == "worker" and member.state in _ALIVE and ages.get(member.slot, 0.0) <= limit
        for member in fleet.members.values()
    )


def patience(fleet: Fleet) -> float:
    """Seconds in which the master can find that a worker stands still, and have another serve."""
    limit = fleet.current.spec.watchdog if fleet.current else 0.0
    return limit + START_TIMEOUT
