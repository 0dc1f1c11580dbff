"""Changes that a session has made durable: submitted to the committer, answered in their turn."""

from __future__ import annotations

from collections.abc import Callable

from forkd import protocol
from forkd.doors.native.context import Context, Slot
from forkd.doors.native.wire import error_frame
from forkd.errors import Refusal
from forkd.protocol import Type
from forkd.storage.commit import Change, Folders, Result


def submit(
    context: Context,
    ident: int,
    apply: Callable[[Folders], object],
    *,
    meta: Callable[[object], object],
    ended: Callable[[str], None],
    data: int | None = None,
    fail: Callable[[], None] = lambda: None,
) -> None:
    """Submit a change; `meta` makes the reply of what `apply` answered, `ended` hears the outcome.

    `data` is a file to flush first, `fail` is called when that does not work.
    """
    slot = Slot()

    def done(result: Result) -> None:
        try:
            slot.frame = answer(result)
        except Exception as fault:  # one session's trouble, not that of all in the round
            slot.frame = error_frame(ident, _unexpected(context, fault))
        context.change_done()

    def answer(result: Result) -> bytes:
        if not isinstance(result, BaseException):
            ended("ok")
            return protocol.frame(Type.REPLY, ident, meta(result))
        refusal = result if isinstance(result, Refusal) else _unexpected(context, result)
        context.core.row.add(f"refusals_total:{refusal.code}")
        ended(refusal.code)
        return error_frame(ident, refusal)

    context.pending.append(slot)
    context.changes += 1
    context.core.committer.submit(Change(data, apply, fail, done))


def _unexpected(context: Context, error: BaseException) -> Refusal:
    context.core.log.unexpected("change-failed", error, session=context.peer.session)
    return Refusal("internal", "the change could not be made; see the server's log")
