"""Changes that the committer makes durable, and the tasks that wait for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from forkd.doors.ftp.context import Context
from forkd.errors import Refusal
from forkd.events.journal import UNTOLD, Ticket
from forkd.ftp.replies import Negative
from forkd.serving.session import FOREVER, Outcome, Park
from forkd.serving.transport import READABLE
from forkd.storage.commit import Folders
from forkd.storage.tree import Parts


class Pending:
    """A commit.Change whose end is waited for."""

    __slots__ = ("_apply", "_context", "_ended", "_fail", "data", "over", "refusal", "ticket")

    def __init__(
        self,
        context: Context,
        apply: Callable[[Folders], object],
        ticket: Ticket = UNTOLD,
        data: int | None = None,
        fail: Callable[[], None] = lambda: None,
        ended: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Submits it; on the loop's thread.

        `fail` is called when `data` cannot be flushed; `ended` hears "ok" or a refusal's code, on
        the loop's thread, whether the session still lives or not.
        """
        self.data = data
        self.ticket = ticket
        self.over = False
        self.refusal: Refusal | None = None
        self._context = context
        self._apply = apply
        self._fail = fail
        self._ended = ended
        context.changes += 1
        context.core.committer.submit([self])

    def apply(self, folders: Folders) -> object:
        return self._apply(folders)

    def fail(self) -> None:
        self._fail()

    def done(self, result: object) -> None:
        self.over = True
        if isinstance(result, Refusal):
            self.refusal = result
        elif isinstance(result, BaseException):
            context = self._context
            context.core.log.unexpected("change-failed", result, session=context.peer.session)
            told = context.signed("the change could not be made; see the server's log")
            self.refusal = Refusal("internal", told)
        self._ended(self.refusal.code if self.refusal is not None else "ok")
        self._context.change_done()


def parked(context: Context) -> Outcome:
    """Until the committer wakes us; the client may say something meanwhile."""
    return Park(0 if context.talk.full else READABLE, FOREVER)


class Reshaping:
    """A context.Task: a change of names, durable before it is answered."""

    def __init__(
        self,
        context: Context,
        work: Callable[[], object],
        touched: Sequence[Parts],
        reply: tuple[int, str | bytes],
        ticket: Ticket = UNTOLD,
    ) -> None:
        """`touched` are the folders that `work` changes."""
        tree = context.require_login().files.tree

        def apply(folders: Folders) -> object:
            result = work()
            for parts in touched:
                folders.get(tree, parts)
            return result

        self._context = context
        self._reply = reply
        self._change = Pending(context, apply, ticket)

    def step(self) -> Outcome | None:
        if not self._change.over:
            return parked(self._context)
        if self._change.refusal is not None:
            raise self._change.refusal
        self._context.talk.finish(*self._reply)
        return None

    def abort(self) -> bool:
        return False

    def timed_out(self) -> Negative | None:
        return None

    def failed(self, reply: Negative, outcome: str) -> None:  # noqa: ARG002
        self._context.talk.finish(reply.code, reply.text)

    def abandon(self) -> None:
        return
