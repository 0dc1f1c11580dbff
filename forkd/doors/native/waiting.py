"""Small files that must wait for their user's bandwidth before they are moved as a whole."""

from __future__ import annotations

from collections.abc import Callable

from forkd.doors.native.context import Context, Task
from forkd.errors import Refusal
from forkd.serving.session import Outcome, Pause
from forkd.serving.throttle import Flow


def when_paid(
    context: Context, ident: int, flow: Flow, size: int, move: Callable[[], None]
) -> Task | None:
    """Move a small file now, or the task that does it when its time has come.  Raises Refusal."""
    if not flow.whole(size):
        return _Waiting(context, ident, flow, size, move)
    move()
    return None


class _Waiting:
    def __init__(
        self, context: Context, ident: int, flow: Flow, size: int, move: Callable[[], None]
    ) -> None:
        self.ident = ident
        self._context = context
        self._flow = flow
        self._size = size
        self._move = move

    def step(self) -> Outcome | None:
        if not self._flow.whole(self._size):
            return Pause(self._flow.until)
        self._move()
        return None

    def failed(self, refusal: Refusal) -> None:
        self._context.refuse(self.ident, refusal)

    def abandon(self) -> None:
        return
