"""What a worker that leaves waits for: transfers that move, and for how long.

Without a deadline (a new generation serves already) a transfer may take as long as it moves at
`limits.drain_floor` bytes a second, measured over `server.graceful_timeout`.  Whatever moves less
is ended, and so is a session without a transfer that was told to leave and is still there.

Who waits for us is not slow: for a flush, for the bandwidth that we allow, for a command's output.
"""

from __future__ import annotations

from collections.abc import Iterable

from forkd.config import Config
from forkd.serving.session import FOREVER, Session

_LEAST_WINDOW = 1.0


class Draining:
    """Times are seconds of CLOCK_MONOTONIC."""

    def __init__(self, config: Config) -> None:
        self._window = max(_LEAST_WINDOW, float(config.server.graceful_timeout))
        self._floor = config.limits.drain_floor * self._window
        self._deadline = FOREVER
        self._next_look = FOREVER
        self._seen: dict[str, tuple[str, int]] = {}

    @property
    def begun(self) -> bool:
        return self._next_look != FOREVER

    def begin(self, sessions: Iterable[Session], now: float) -> None:
        """From now on sessions are watched."""
        self._look(sessions, now)

    def limit(self, deadline: float) -> None:
        """Everything ends then.  The first one to come counts, as it does for the master."""
        self._deadline = min(self._deadline, deadline)

    def over(self, now: float) -> bool:
        """Whether the deadline has come."""
        return now >= self._deadline

    def laggards(self, sessions: Iterable[Session], now: float) -> list[Session]:
        """Those that are to be ended now: some once in a window, else nobody."""
        if now < self._next_look or not self._floor:
            return []
        sessions = list(sessions)
        before = self._seen
        self._look(sessions, now)
        return [session for session in sessions if self._lags(session, before.get(session.id))]

    def _look(self, sessions: Iterable[Session], now: float) -> None:
        self._seen = {s.id: (s.activity.path, s.activity.moved) for s in sessions}
        self._next_look = now + self._window

    def _lags(self, session: Session, before: tuple[str, int] | None) -> bool:
        activity = session.activity
        if before is None or session.deadline == FOREVER or activity.state == "running":
            return False
        if not activity.transferring:
            return not session.in_job
        path, moved = before
        return activity.path == path and moved <= activity.moved < moved + self._floor
