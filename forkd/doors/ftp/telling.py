"""What a session may ask of the server and of itself: STAT, AVBL, SITE QUOTA, SITE WHO."""

from __future__ import annotations

from forkd.doors.ftp.context import Context
from forkd.errors import Refusal
from forkd.ftp.replies import Negative
from forkd.messages import SessionInfo
from forkd.serving.admission import Login
from forkd.serving.session import Outcome, Park
from forkd.serving.transport import READABLE
from forkd.units import format_bytes

_WHO_MOST = 200
"""Sessions that SITE WHO tells."""
_WHO_SECONDS = 5.0
"""How long the other workers may take."""


def tell_status(context: Context) -> None:
    """STAT without a path; during a transfer too."""
    activity = context.activity
    lines: list[str | bytes] = [
        f"You are {activity.user or 'not logged in'}, from {context.peer.address}.",
        f"The connection is {'under ' + activity.tls if activity.tls else 'in clear'}.",
        f"The session is {context.peer.session}.",
        f"TYPE is {context.talk.state.type}.",
    ]
    if activity.transferring:
        size = f" of {activity.size}" if activity.size else ""
        lines.append(f"{activity.state}: {activity.moved}{size} bytes moved.")
    context.talk.say_lines(211, "Status:", lines, "End")


def room(login: Login) -> int:
    """Bytes that the account can store now."""
    usage, free = login.files.usage(), login.files.tree.free_bytes()
    return free if usage.limit is None else max(0, min(free, usage.limit - usage.used))


def tell_quota(context: Context, login: Login) -> None:
    """SITE QUOTA."""
    usage, left = login.files.usage(), room(login)
    limit = "unlimited" if usage.limit is None else f"{format_bytes(usage.limit)}, {usage.limit}"
    lines: list[str | bytes] = [
        f"limit {limit}",
        f"used {format_bytes(usage.used)}, {usage.used}",
        f"left {format_bytes(left)}, {left}",
    ]
    context.talk.say_lines(200, "Your quota, in bytes:", lines, "That is all.")
    context.talk.finish()


class TellingWho:
    """SITE WHO, a context.Task: the sessions of all workers, which the master knows."""

    def __init__(self, context: Context, login: Login) -> None:
        """Raises Refusal (denied)."""
        if login.account.name not in context.settings.config.admins:
            raise Refusal("denied", "SITE WHO is for administrators")
        self._context = context
        self._found: list[SessionInfo] | None = None
        self._forget = context.core.ask_sessions(self._told)

    def _told(self, found: list[SessionInfo]) -> None:
        self._found = found
        self._context.peer.wake()

    def step(self) -> Outcome | None:
        context = self._context
        if self._found is None:
            return Park(0 if context.talk.full else READABLE, _WHO_SECONDS)
        lines: list[str | bytes] = [
            f"{info.user or '-'} {info.peer} {info.door} {info.state} {info.path}".rstrip()
            for info in self._found[:_WHO_MOST]
        ]
        more = len(self._found) - len(lines)
        last = f"and {more} more: forkctl sessions tells all" if more else "That is all."
        context.talk.say_lines(200, "Sessions:", lines, last)
        context.talk.finish()
        return None

    def abort(self) -> bool:
        self.failed(Negative(426, "broken off as you wish"), "broken-off")
        return True

    def timed_out(self) -> Negative | None:
        return Negative(450, "the other processes did not answer; try again")

    def failed(self, reply: Negative, outcome: str) -> None:  # noqa: ARG002
        self.abandon()
        self._context.talk.finish(reply.code, reply.text)

    def abandon(self) -> None:
        self._forget()
