"""Changes that a session has made durable: submitted to the committer, answered in their turn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from forkd import protocol
from forkd.doors.native.context import Context, Slot
from forkd.doors.native.wire import error_frame
from forkd.errors import Refusal
from forkd.events.journal import UNTOLD, Ticket
from forkd.protocol import Type
from forkd.storage.commit import Folders, Result


class Answered(Slot, ABC):
    """A change (see commit.Change) that is also the place of its answer.

    Subclasses say what is done, and what is told of it.
    """

    __slots__ = ("_context", "_ident")
    data: int | None = None
    ticket: Ticket = UNTOLD

    def __init__(self, context: Context, ident: int) -> None:
        super().__init__()
        self._context = context
        self._ident = ident

    @abstractmethod
    def apply(self, folders: Folders) -> object:
        """Make the change."""

    def fail(self) -> None:
        """The data could not be flushed."""

    def reply(self, result: object) -> object:
        """The meta of the answer to what `apply` came to."""
        return result

    def ended(self, outcome: str) -> None:
        """Hear how it ended: "ok" or the code of a refusal."""

    def done(self, result: Result) -> None:
        try:
            self.frame = self._answer(result)
        except Exception as fault:  # one session's trouble, not that of all in the round
            self.frame = error_frame(self._ident, as_refusal(self._context, fault))
        self._context.change_done()

    def _answer(self, result: Result) -> bytes:
        if not isinstance(result, BaseException):
            self.ended("ok")
            return protocol.frame(Type.REPLY, self._ident, self.reply(result))
        context = self._context
        refusal = as_refusal(context, result)
        context.core.refused(context.peer, context.activity.user, refusal)
        self.ended(refusal.code)
        return error_frame(self._ident, refusal)


class Reshaping(Answered):
    """A change of names: `work` makes it, and its answer is what that came to."""

    __slots__ = ("_work", "ticket")

    def __init__(
        self, context: Context, ident: int, work: Callable[[Folders], object], ticket: Ticket
    ) -> None:
        super().__init__(context, ident)
        self._work = work
        self.ticket = ticket

    def apply(self, folders: Folders) -> object:
        return self._work(folders)


def submit(context: Context, changes: list[Answered]) -> None:
    """Have changes of one session made durable, in this order; there may be none."""
    if not changes:
        return
    context.pending.extend(changes)
    context.changes += len(changes)
    context.core.committer.submit(changes)


def as_refusal(context: Context, error: BaseException) -> Refusal:
    """What the client is told; of what nobody expected, the log tells the rest."""
    if isinstance(error, Refusal):
        return error
    context.core.log.unexpected("change-failed", error, session=context.peer.session)
    return Refusal("internal", "the change could not be made; see the server's log")
