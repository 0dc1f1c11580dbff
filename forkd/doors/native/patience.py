"""How long a native session may keep us waiting, in seconds."""

from __future__ import annotations

import time

from forkd.doors.native.context import Context
from forkd.serving.session import FOREVER

_FAREWELL_SECONDS = 5.0
"""How long a client that was told to leave may stay silent, or go on with requests."""


class Patience:
    """A stranger has one time for all he does, whether he sends, reads, or neither."""

    def __init__(self, context: Context, turned_away: bool) -> None:
        self._context = context
        self.farewell = False
        """The client was told to leave."""
        self._leave_by = FOREVER
        login_timeout = float(context.core.config.limits.login_timeout)
        self._login_by = time.monotonic() + (
            min(login_timeout, _FAREWELL_SECONDS) if turned_away else login_timeout
        )

    def bid_farewell(self) -> None:
        """The client is told to leave."""
        self.farewell = True
        self._leave_by = time.monotonic() + _FAREWELL_SECONDS

    @property
    def left_too_late(self) -> bool:
        """It goes on with requests long after it was told to leave."""
        return time.monotonic() > self._leave_by

    @property
    def over(self) -> bool:
        """It is a stranger, whose time is up."""
        return self._context.login is None and time.monotonic() >= self._login_by

    def stall(self) -> float:
        """Until the client takes what is sent to it."""
        return min(float(self._context.core.config.limits.stall_timeout), self._strangers())

    def idle(self) -> float:
        """Until its next request; never short of what we owe the client."""
        context = self._context
        if context.changes:
            return FOREVER
        usual = min(float(context.core.config.limits.idle_timeout), self._strangers())
        return min(_FAREWELL_SECONDS, usual) if self.farewell else usual

    def _strangers(self) -> float:
        if self._context.login is not None:
            return FOREVER
        return max(0.0, self._login_by - time.monotonic())
