"""Two looks at the daemon, and the rates between them.  `take` asks, all else is pure."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from forkd import controlmessages, reports
from forkd.admin.controlclient import ControlClient
from forkd.admin.results import Frame, Session, User
from forkd.messages import SessionInfo

TRANSFERS = ("download", "upload")
"""The states of a session that moves a file."""
STATES = ("login", "idle", "download", "upload", "listing", "running")
"""All states a session tells."""
SORTS = ("rate", "user", "age", "done")


@dataclass(frozen=True, slots=True)
class Look:
    """The sessions at `at` seconds of CLOCK_MONOTONIC; the bytes they had moved by id."""

    at: float
    found: reports.SessionList
    moved: Mapping[str, tuple[int, int]] = field(default_factory=dict)


def take(control: ControlClient, user: str = "", state: str = "") -> Look:
    """Look at the sessions.  Raises CtlError."""
    found = control.get(controlmessages.Sessions(user, state), reports.SessionList)
    moved = {each.id: (each.bytes_up, each.bytes_down) for each in found.sessions}
    return Look(time.monotonic(), found, moved)


def between(before: Look, after: Look) -> list[Session]:
    """The sessions of the later look with their rates since the earlier one."""
    seconds = max(after.at - before.at, 1e-3)
    shown = []
    for info in after.found.sessions:
        up, down = before.moved.get(info.id, (0, 0))
        rates = (info.bytes_up - up) / seconds, (info.bytes_down - down) / seconds
        left = info.size - info.moved
        eta = left / sum(rates) if info.size and info.state in TRANSFERS and any(rates) else None
        shown.append(_session(info, *rates, eta))
    return shown


def unmeasured(look: Look) -> list[Session]:
    """The sessions of a single look."""
    return [_session(info, None, None, None) for info in look.found.sessions]


def ordered(sessions: Iterable[Session], by: str) -> list[Session]:
    """By one of SORTS; what is most is first, but users are by name."""
    keys = {
        "rate": lambda one: (-one.rate, one.since),
        "user": lambda one: (one.user, one.since),
        "age": lambda one: one.since,
        "done": lambda one: (-one.moved, one.since),
    }
    return sorted(sessions, key=keys[by])


def users_of(sessions: Iterable[Session]) -> list[User]:
    """What each user does, the busiest first."""
    found: dict[str, list[Session]] = {}
    for session in sessions:
        found.setdefault(session.user, []).append(session)
    users = [
        User(
            user=name,
            sessions=len(theirs),
            transfers=sum(one.state in TRANSFERS for one in theirs),
            rate_up=sum(one.rate_up or 0.0 for one in theirs),
            rate_down=sum(one.rate_down or 0.0 for one in theirs),
        )
        for name, theirs in found.items()
    ]
    return sorted(users, key=lambda u: (-(u.rate_up + u.rate_down), -u.sessions, u.user))


def frame(
    before: reports.Status,
    after: reports.Status,
    sessions: list[Session],
    rows: int | None,
    at: float,
) -> Frame:
    """What happened between two states of one daemon; `at` in seconds since 1970.

    Of the sessions, `rows` are told of one by one; None: all.
    """
    seconds = max(after.uptime - before.uptime, 1e-3)
    was, now = before.totals, after.totals
    busy = {process.pid: process.cpu_seconds for process in (*before.workers, *before.helpers)}
    used = sum(
        process.cpu_seconds - busy.get(process.pid, process.cpu_seconds)
        for process in (*after.workers, *after.helpers)
    )
    return Frame(
        at=at,
        interval=seconds,
        state=after.state,
        generation=after.generation,
        sessions=now.sessions_now,
        sessions_limit=after.sessions_limit,
        transfers=now.transfers_now,
        downloads=now.downloads_now,
        uploads=now.uploads_now,
        rate_up=(now.bytes_up - was.bytes_up) / seconds,
        rate_down=(now.bytes_down - was.bytes_down) / seconds,
        logins_rate=(now.logins - was.logins) / seconds,
        logins_failed_rate=(now.logins_failed - was.logins_failed) / seconds,
        cpu_percent=100 * used / seconds,
        cpus=os.cpu_count() or 1,
        users=users_of(sessions),
        busiest=sessions[:rows],
    )


def _session(info: SessionInfo, up: float | None, down: float | None, eta: float | None) -> Session:
    fields = {name: getattr(info, name) for name in SessionInfo.__struct_fields__}
    return Session(**fields, rate_up=up, rate_down=down, eta=eta)
