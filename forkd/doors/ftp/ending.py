"""The end of an FTP session: what was said last reaches the client."""

from __future__ import annotations

import time

from forkd.doors.ftp.context import Context
from forkd.errors import Refusal
from forkd.serving.session import Closed, Outcome, Park

_LINGER_SECONDS = 2.0
"""How long the client may take to read the last reply."""


class Ending:
    """Begun once; what is said is sent, then the client may read it."""

    __slots__ = ("_context", "_linger_until", "reason")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._linger_until = 0.0
        self.reason: str | None = None
        """Why the session ends; None while it does not."""

    @property
    def lingering(self) -> bool:
        """All was sent, and our side is shut."""
        return self._linger_until > 0

    def begin(self, reason: str) -> None:
        """End the session after what was said."""
        self.reason = self.reason or reason

    def refuse(self, refusal: Refusal, reason: str) -> None:
        """Tell why, as the last word."""
        self._context.negative(refusal)
        self._context.say_farewell(refusal.message)
        self.begin(reason)

    def leave(self) -> None:
        """The worker leaves: the client is to connect again."""
        self._context.say_farewell("the server is being restarted; connect again")
        self.begin("going away")

    def finish(self) -> Outcome | None:
        """Send what was said."""
        wire = self._context.wire
        if not wire.flush():
            return Park(wire.transport.wants, self._context.core.config.limits.stall_timeout)
        wire.transport.shutdown()
        self._linger_until = time.monotonic() + _LINGER_SECONDS
        return None

    def linger(self) -> Outcome | None:
        """A close with unread bytes would destroy the last reply on its way."""
        count = self._context.wire.transport.receive_into(self._context.buffer)
        if count is None:
            return Park(self._context.wire.transport.wants, _LINGER_SECONDS)
        late = time.monotonic() > self._linger_until
        return self.closed() if late or not count else None

    def closed(self) -> Closed:
        return Closed(self.reason or "")

    def at_once(self, *, heard: bool) -> Closed:
        """An administrator ends it; `heard`: the client can be told."""
        context = self._context
        if heard:
            context.say_farewell("an administrator ended this session")
            context.core.row.add("refusals_total:kicked")
            context.wire.flush()
        return Closed("kicked")
