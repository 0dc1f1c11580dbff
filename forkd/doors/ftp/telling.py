"""What a session may ask of the server and of itself: STAT, AVBL, SITE QUOTA, SITE WHO."""

from __future__ import annotations

from forkd.doors.ftp.context import Context
from forkd.errors import Refusal
from forkd.serving.admission import Login
from forkd.units import format_bytes


def tell_status(context: Context) -> None:
    """STAT without a path; during a transfer too."""
    activity = context.activity
    lines: list[str | bytes] = [
        f"You are {activity.user or 'not logged in'}, from {context.peer.address}.",
        f"The connection is {'under ' + activity.tls if activity.tls else 'in clear'}.",
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


def tell_who(context: Context, login: Login) -> None:
    """SITE WHO.  Raises Refusal (denied)."""
    if login.account.name not in context.settings.config.admins:
        raise Refusal("denied", "SITE WHO is for administrators")
    lines: list[str | bytes] = [
        f"{info.user or '-'} {info.peer} {info.door} {info.state} {info.path}"
        for info in context.core.sessions()
    ]
    context.talk.say_lines(200, "Sessions of this worker:", lines, "That is all.")
    context.talk.finish()
