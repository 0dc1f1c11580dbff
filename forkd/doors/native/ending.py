"""The end of a native session: the last answers are sent, and the client may read them."""

from __future__ import annotations

import time

from forkd.doors.native.context import Context
from forkd.doors.native.patience import Patience
from forkd.errors import Refusal
from forkd.serving.session import FOREVER, Closed, Outcome, Park

_LINGER_SECONDS = 2.0
"""How long the client may take to read the last answer."""
LEFT = "the client left"


class Ending:
    """`reason` is why the session ends, None while it does not."""

    def __init__(self, context: Context, patience: Patience) -> None:
        self._context = context
        self._patience = patience
        self._until = 0.0
        self.reason: str | None = None
        self.lingering = False

    def begin(self, reason: str) -> None:
        """Take no further request; the first reason counts."""
        self.reason = self.reason or reason

    def at_once(self, *, answering: bool) -> Outcome:
        """An administrator ends it; in the middle of an answer only the break can tell that."""
        if not answering:
            self._context.refuse(0, Refusal("kicked", "an administrator ended this session"))
            self._context.wire.flush()
        return Closed("kicked")

    def await_changes(self) -> Outcome:
        """Wait for the commit of all changes that were submitted."""
        wire = self._context.wire
        if not wire.flush():
            return Park(wire.transport.wants, self._patience.stall())
        return Park(0, FOREVER)

    def finish(self, reason: str) -> Outcome | None:
        """Send what is still to be answered, then let the client read it."""
        wire = self._context.wire
        if self._context.pending:
            return self.await_changes()
        if not wire.flush():
            return Park(wire.transport.wants, self._patience.stall())
        if reason == LEFT:
            return Closed(reason)
        wire.transport.shutdown()
        self.lingering = True
        self._until = time.monotonic() + _LINGER_SECONDS
        return None

    def linger(self) -> Outcome | None:
        """A close with unread bytes would destroy the last answer on its way."""
        wire = self._context.wire
        count = wire.fill()
        wire.engine.discard()
        if count is None:
            return Park(wire.transport.wants, _LINGER_SECONDS)
        late = time.monotonic() > self._until
        return Closed(self.reason or "") if late or not count else None
