"""What the processes say to each other: over a child's link, and over the control socket.

A link is a SOCK_SEQPACKET pair: one message a packet, in JSON.  The control socket is an AF_UNIX
stream: one request a line, one or more answers a line each, the last one `Done` or `Failed`.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct


class _Link(Struct, frozen=True, tag_field="m"):
    pass


# master -> child


class Drain(_Link, frozen=True, tag="drain"):
    """Take no new session, end the idle ones, leave when the transfers are done.

    After `timeout` seconds the rest is cut; None: a transfer may take as long as it progresses.
    """

    timeout: float | None = None


class ListSessions(_Link, frozen=True, tag="list-sessions"):
    """Ask a worker for `SessionPage`s."""

    tag: int


class Kick(_Link, frozen=True, tag="kick"):
    """End one session; answered by `Answer` with {"kicked": bool}."""

    tag: int
    session: str


class AccountChanged(_Link, frozen=True, tag="account-changed"):
    """An account was changed or removed: forget what is remembered of it, look at it anew."""

    name: str


class Reap(_Link, frozen=True, tag="reap"):
    """To the keeper: the process in this slot is gone, return what it had reserved."""

    slot: int


class Verify(_Link, frozen=True, tag="verify"):
    """To the keeper: compare ledger and disk; answered by `Answer` with {"accounts": [...]}.

    Each account: {"user", "charged", "actual", "drift", "fixed", "exact"}.
    """

    tag: int
    user: str | None = None
    fix: bool = False


class Try(_Link, frozen=True, tag="try"):
    """To the trial: execute this, which takes the descriptor `estate` over as far as to look.

    Answered by `Answer` with {"version": str}, or `Unable`.
    """

    command: list[str]
    estate: int


# child -> master


class Ready(_Link, frozen=True, tag="ready"):
    """The child serves."""


class Unable(_Link, frozen=True, tag="unable"):
    """The child cannot start, and why; it exits."""

    reason: str


class SessionPage(_Link, frozen=True, tag="session-page"):
    """A part of the answer to `ListSessions`."""

    tag: int
    sessions: list[SessionInfo]
    more: bool


class Answer(_Link, frozen=True, tag="answer"):
    """The answer to a tagged question."""

    tag: int
    body: dict[str, Any]


class SessionInfo(Struct, frozen=True):
    """A session as forkctl shows it.  `since` is seconds since 1970, `moved` and `size` bytes."""

    id: str
    slot: int
    user: str
    peer: str
    tls: str
    door: str
    state: str
    since: float
    path: str = ""
    moved: int = 0
    size: int = 0


LinkMessage = (
    Drain
    | ListSessions
    | Kick
    | AccountChanged
    | Reap
    | Verify
    | Try
    | Ready
    | Unable
    | SessionPage
    | Answer
)


# forkctl -> master


class _Control(Struct, frozen=True, tag_field="op"):
    pass


class Status(_Control, frozen=True, tag="status"):
    pass


class Reload(_Control, frozen=True, tag="reload"):
    pass


class Upgrade(_Control, frozen=True, tag="upgrade"):
    """Go on as the version that is installed now."""


class Stop(_Control, frozen=True, tag="stop"):
    now: bool = False


class Sessions(_Control, frozen=True, tag="sessions"):
    pass


class KickSession(_Control, frozen=True, tag="kick"):
    session: str


class Workers(_Control, frozen=True, tag="workers"):
    """Serve with this many workers until the next reload; 0 = one for each CPU."""

    count: int


class TellAccountChanged(_Control, frozen=True, tag="account-changed"):
    name: str


class VerifyQuota(_Control, frozen=True, tag="quota-verify"):
    user: str | None = None
    fix: bool = False


ControlRequest = (
    Status
    | Reload
    | Upgrade
    | Stop
    | Sessions
    | KickSession
    | Workers
    | TellAccountChanged
    | VerifyQuota
)


# master -> forkctl


class _ControlAnswer(Struct, frozen=True, tag_field="a"):
    pass


class Progress(_ControlAnswer, frozen=True, tag="progress"):
    """A line to show while the request is worked on."""

    line: str


class Done(_ControlAnswer, frozen=True, tag="done"):
    body: dict[str, Any] = {}


class Failed(_ControlAnswer, frozen=True, tag="failed"):
    """`code` is for programs, `message` for people."""

    code: str
    message: str


ControlAnswer = Progress | Done | Failed

encode = msgspec.json.Encoder().encode
decode_link = msgspec.json.Decoder(LinkMessage).decode
decode_control = msgspec.json.Decoder(ControlRequest).decode
decode_answer = msgspec.json.Decoder(ControlAnswer).decode


_PAGE_BYTES = 48 * 1024
"""Sessions in one message, as JSON: it must fit in a packet."""


def pages(infos: list[SessionInfo]) -> list[list[SessionInfo]]:
    """At least one page, none too large for a packet."""
    pages: list[list[SessionInfo]] = [[]]
    size = 0
    for info in infos:
        own = len(encode(info))
        if size + own > _PAGE_BYTES:
            pages.append([])
            size = 0
        pages[-1].append(info)
        size += own
    return pages
