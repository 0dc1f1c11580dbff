"""What master and children say to each other over a child's link.

A link is a SOCK_SEQPACKET pair: one message a packet, in JSON.  controlmessages.py has what is said
at the control socket.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct

LogLevel = Literal["debug", "info", "warning", "error"]


class _Link(Struct, frozen=True, tag_field="m"):
    pass


# master -> child


class Drain(_Link, frozen=True, tag="drain"):
    """Take no new session, end the idle ones, leave when the transfers are done.

    After `timeout` seconds the rest is cut; None: a transfer may take as long as it progresses.
    """

    timeout: float | None = None


class ListSessions(_Link, frozen=True, tag="list-sessions"):
    """Ask a worker for `SessionPage`s; of one user and in one state only where these are named."""

    tag: int
    user: str = ""
    state: str = ""


class Kick(_Link, frozen=True, tag="kick"):
    """End one session; answered by `Answer` with {"kicked": int}."""

    tag: int
    session: str


class KickUser(_Link, frozen=True, tag="kick-user"):
    """End all sessions of a user; answered as `Kick` is."""

    tag: int
    user: str


class CloseDoors(_Link, frozen=True, tag="close-doors"):
    """To a worker: end idle sessions, let transfers finish, turn newcomers away, but stay.

    After `timeout` seconds the rest is cut; None: a transfer may take as long as it progresses.
    """

    timeout: float | None = None


class OpenDoors(_Link, frozen=True, tag="open-doors"):
    """To a worker: take sessions again."""


class SetLogLevel(_Link, frozen=True, tag="set-log-level"):
    """To every child: log from this level on, whatever the configuration says."""

    level: LogLevel


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


class Reopen(_Link, frozen=True, tag="reopen"):
    """Log to the files whose descriptors come with this; -1: none.

    On the way each is a position among these descriptors.
    """

    log: int = -1
    xferlog: int = -1


class Try(_Link, frozen=True, tag="try"):
    """To the trial: execute this, which takes the descriptor `estate` over as far as to look.

    Answered by `Answer` with {"version": str}, or `Unable`.
    """

    command: list[str]
    estate: int


class Inform(_Link, frozen=True, tag="inform"):
    """To the keeper: tell what the files say; answered by `Rows`.

    `about` is accounts (AccountReport, all or that of `name`), bans (BanReport), or lift: forget
    the failures of the address `name`, answered by a row where there were any.
    """

    tag: int
    about: Literal["accounts", "bans", "lift"]
    name: str = ""


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


class AskSessions(_Link, frozen=True, tag="ask-sessions"):
    """A worker wants to know of the sessions of all; told in `SessionPage`s with its tag."""

    tag: int


class Answer(_Link, frozen=True, tag="answer"):
    """The answer to a tagged question."""

    tag: int
    body: dict[str, Any]


class Rows(_Link, frozen=True, tag="rows"):
    """A part of the answer to `Inform`; `failure` says why there is none."""

    tag: int
    rows: list[dict[str, Any]]
    more: bool
    failure: str = ""


class SessionInfo(Struct, frozen=True):
    """A session as forkctl shows it.  `since` is seconds since 1970.

    `moved` of the `size` bytes of the file under way are there; of a stream, `size` is 0.
    `bytes_up` and `bytes_down` are what moved since the session began, all files together.
    """

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
    bytes_up: int = 0
    bytes_down: int = 0


LinkMessage = (
    Drain
    | ListSessions
    | Kick
    | KickUser
    | CloseDoors
    | OpenDoors
    | SetLogLevel
    | AccountChanged
    | Reap
    | Verify
    | Reopen
    | Try
    | Inform
    | Ready
    | Unable
    | SessionPage
    | AskSessions
    | Answer
    | Rows
)

encode = msgspec.json.Encoder().encode
decode_link = msgspec.json.Decoder(LinkMessage).decode
