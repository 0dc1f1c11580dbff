"""PASS, and what a change of the account means: who may come in, and as whom."""

from __future__ import annotations

from collections.abc import Callable

from forkd.doors.ftp.context import Context
from forkd.errors import Refusal
from forkd.ftp.replies import Negative
from forkd.ftp.requests import LogIn
from forkd.serving.admission import Attempt, Login, look_again
from forkd.serving.session import AGAIN, Job, Outcome, Weight


class Gate:
    """A session's way in."""

    __slots__ = ("_context", "_end", "_failures", "_kick")

    def __init__(
        self, context: Context, end: Callable[[str], None], kick: Callable[[], None]
    ) -> None:
        """`end` closes the session after what was said, `kick` at once."""
        self._context = context
        self._end = end
        self._kick = kick
        self._failures = 0

    def log_in(self, request: LogIn) -> LoggingIn:
        context = self._context
        attempt = Attempt(
            *(context.core, context.peer, context.activity),
            *(request.user, request.password, context.login),
        )
        return LoggingIn(context, attempt, self._welcome, self._refused)

    def _refused(self, refusal: Refusal) -> None:
        """Answers; a last word follows where it was one attempt too many."""
        context = self._context
        negative = context.negative(refusal)
        context.talk.finish(negative.code, negative.text)
        if refusal.code in ("banned", "too-many"):
            self._end(refusal.code)
        if refusal.code == "auth-failed":
            self._failures += 1
            if self._failures >= context.core.config.limits.login_attempts:
                context.say_farewell("too many failed log-ins")
                self._end("too many failed log-ins")

    def _welcome(self, login: Login) -> None:
        context, fxp = self._context, self._context.settings.config.fxp
        context.login = login
        context.data.foreign_allowed = login.account.name in fxp or "*" in fxp
        context.talk.entered(login.account.name)

    def look_again(self) -> Outcome:
        """The account was changed: what holds now holds for this session too; on a thread."""
        login = self._context.login
        if login is None:
            return AGAIN
        try:
            if not look_again(self._context.core, login):
                self._kick()
        except Refusal as refusal:
            told = refusal
            return Job(lambda: self._lost(told), Weight.SHORT)
        return AGAIN

    def _lost(self, refusal: Refusal) -> Outcome:
        """Nobody knows what the account may do by now."""
        self._context.negative(refusal)
        self._context.say_farewell(refusal.message)
        self._end("the account could not be looked up")
        return AGAIN


class LoggingIn:
    """A context.Task: PASS, until the password is verified, or the refusal's time has come."""

    def __init__(
        self,
        context: Context,
        attempt: Attempt,
        welcome: Callable[[Login], None],
        refused: Callable[[Refusal], None],
    ) -> None:
        self._context = context
        self._attempt = attempt
        self._welcome = welcome
        self._refused = refused

    def step(self) -> Outcome | None:
        try:
            result = self._attempt.step()
        except Refusal as refusal:
            self._attempt.close()
            self._refused(refusal)
            return None
        if not isinstance(result, Login):
            return result
        self._welcome(result)
        return None

    def abort(self) -> bool:
        return False

    def timed_out(self) -> Negative | None:
        return None

    def failed(self, reply: Negative, outcome: str) -> None:  # noqa: ARG002
        self._attempt.close()
        self._context.talk.finish(reply.code, reply.text)

    def abandon(self) -> None:
        self._attempt.close()
