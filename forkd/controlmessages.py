"""What is said at the control socket, an AF_UNIX stream.

One request a line, in JSON; one or more answers a line each, the last one `Done` or `Failed`.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from forkd.messages import LogLevel

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
    """All sessions, or those of one user, or in one state."""

    user: str = ""
    state: str = ""


class KickSession(_Control, frozen=True, tag="kick"):
    session: str


class KickSessions(_Control, frozen=True, tag="kick-user"):
    """All sessions of a user."""

    user: str


class StopServing(_Control, frozen=True, tag="drain"):
    """Take no new session; answered when the last one has ended, `CloseDoors` says how."""

    timeout: float | None = None


class ReplaceWorker(_Control, frozen=True, tag="replace"):
    """The worker in this slot drains and leaves, another one takes its place at once."""

    slot: int
    timeout: float | None = None


class ServeAgain(_Control, frozen=True, tag="undrain"):
    """After `StopServing`."""


class ChangeLogLevel(_Control, frozen=True, tag="loglevel"):
    """Of all processes, until the next reload."""

    level: LogLevel


class Check(_Control, frozen=True, tag="check"):
    """Would a reload be accepted?  Nothing changes."""


class ListAccounts(_Control, frozen=True, tag="accounts"):
    """All accounts, or the one of this name."""

    name: str = ""


class ListBans(_Control, frozen=True, tag="bans"):
    pass


class LiftBan(_Control, frozen=True, tag="bans-lift"):
    """`origin` as policy.read_origin gives it."""

    origin: str


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
    | Check
    | Stop
    | Sessions
    | KickSession
    | KickSessions
    | StopServing
    | ServeAgain
    | ReplaceWorker
    | Workers
    | ChangeLogLevel
    | TellAccountChanged
    | ListAccounts
    | VerifyQuota
    | ListBans
    | LiftBan
)
LOOKING = (Status, Sessions, ListAccounts, ListBans)
"""Requests that change nothing: operators may make them too."""


# master -> forkctl


class _ControlAnswer(Struct, frozen=True, tag_field="a"):
    pass


class Progress(_ControlAnswer, frozen=True, tag="progress"):
    """A line to show while the request is worked on."""

    line: str


class Done(_ControlAnswer, frozen=True, tag="done"):
    """`body` is one of reports.py; read from the socket, it is a dict."""

    body: Any = {}


class Failed(_ControlAnswer, frozen=True, tag="failed"):
    """`code` is for programs, `message` for people."""

    code: str
    message: str


ControlAnswer = Progress | Done | Failed

decode_control = msgspec.json.Decoder(ControlRequest).decode
decode_answer = msgspec.json.Decoder(ControlAnswer).decode
