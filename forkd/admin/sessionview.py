"""Sessions as tables, and the screen of `forkctl top`.  No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from forkd.admin.looks import TRANSFERS
from forkd.admin.render import age, clock, flow, table, table_within
from forkd.admin.results import Frame, Session, User
from forkd.admin.statusview import rate
from forkd.units import format_bytes, format_count

_ALL = ("ID", "USER", "FROM", "SLOT", "DOOR", "TLS", "STATE", "FILE", "DONE", "RATE", "ETA", "AGE")
_NUMBERS = "SLOT DONE RATE ETA AGE SESSIONS XFERS IN OUT"
_SPARE = "TLS SLOT DOOR AGE ETA ID FROM"
_LISTED = tuple(name for name in _ALL if name not in ("DOOR", "ETA"))
_MOVING = ("ID", "USER", "FROM", "STATE", "FILE", "DONE", "RATE", "ETA")
_TOP = ("USER", "FROM", "STATE", "FILE", "RATE", "DONE", "ETA")
_USERS = ("USER", "SESSIONS", "XFERS", "IN", "OUT")
_USERS_SHOWN = 5
_BARS = "▁▂▃▄▅▆▇█"
_FILE_LEAST = 12
"""Characters of a path that are shown at least."""


def sessions_table(sessions: Sequence[Session], now: float, wide: bool) -> str:
    """The sessions, and how many there are; `wide` is with every column."""
    headings = _ALL if wide else _LISTED
    rows = [_cells(session, now, headings) for session in sessions]
    transfers = sum(session.state in TRANSFERS for session in sessions)
    count = f"{format_count(len(rows), 'session')}, {format_count(transfers, 'transfer')}"
    return f"{table(headings, rows, _NUMBERS)}\n{count}" if rows else count


def transfers_table(sessions: Sequence[Session], now: float) -> str:
    """The files under way, and what they are together."""
    rows = [_cells(session, now, _MOVING) for session in sessions]
    ups = sum(session.state == "upload" for session in sessions)
    count = f"{format_count(len(rows), 'transfer')}: {len(rows) - ups} down, {ups} up"
    moved = [sum(filter(None, rates)) for rates in _rates(sessions)]
    total = f"{count}; out {rate(moved[1])}, in {rate(moved[0])}"
    return f"{table(_MOVING, rows, _NUMBERS)}\n{total}" if rows else "no transfers"


def top_screen(
    frame: Frame, history: Sequence[tuple[float, float]], width: int, height: int | None
) -> str:
    """One look; `history` are the rates (in, out) of the looks so far, the newest last.

    `height` None: every session; else what fits in so many lines.
    """
    lines = _summary(frame, history, width)
    lines += ["", *_users(frame.users[:_USERS_SHOWN], len(frame.users), width)]
    room = None if height is None else max(0, height - len(lines) - 2)
    shown = frame.busiest if room is None else frame.busiest[:room]
    rows = [_cells(session, frame.at, _TOP) for session in shown]
    if rows:
        lines += ["", *_fitting(width, _TOP, rows).splitlines()]
    most = None if height is None else max(1, height - 1)
    return "\n".join(line[:width].rstrip() for line in lines[:most])


def sparkline(values: Sequence[float], most: float) -> str:
    """A bar for each value, of `most` a whole one."""
    steps = len(_BARS) - 1
    return "".join(
        " " if value <= 0 else _BARS[min(steps, round(steps * value / most))] for value in values
    )


def _summary(frame: Frame, history: Sequence[tuple[float, float]], width: int) -> list[str]:
    limit = "" if frame.sessions_limit is None else f" of {frame.sessions_limit:,}"
    facts = [
        f"forkd {frame.state} {clock(frame.at)}",
        f"{format_count(frame.sessions, 'session')}{limit}",
        f"{format_count(frame.transfers, 'transfer')} ({frame.downloads} down, {frame.uploads} up)",
        f"cpu {frame.cpu_percent:.0f}% of {100 * frame.cpus}%",
        f"log-ins {frame.logins_rate:.1f}/s ({frame.logins_failed_rate:.1f} failed)",
    ]
    most = max((max(pair) for pair in history), default=0.0) or 1.0
    bars = history[-max(1, width - 22) :]
    lines = flow(facts, width, "  ")
    for name, place, now in (("out", 1, frame.rate_down), ("in", 0, frame.rate_up)):
        drawn = sparkline([pair[place] for pair in bars], most)
        lines.append(f"{name:<3} {rate(now):>13}  {drawn}")
    return lines


def _users(users: Sequence[User], of: int, width: int) -> list[str]:
    rows = [
        (
            user.user or "-",
            str(user.sessions),
            str(user.transfers),
            rate(user.rate_up),
            rate(user.rate_down),
        )
        for user in users
    ]
    if not rows:
        return ["nobody is connected"]
    lines = table_within(width, _USERS, rows, _NUMBERS).splitlines()
    return [*lines, f"and {of - len(rows)} users more"] if of > len(rows) else lines


def _fitting(width: int, headings: Sequence[str], rows: list[tuple[str, ...]]) -> str:
    """A table in which long paths lose their beginning before columns are left out."""
    place = headings.index("FILE")
    over = max(map(len, table(headings, rows, _NUMBERS).splitlines())) - width
    if over > 0:
        longest = max(len(row[place]) for row in rows)
        room = max(_FILE_LEAST, longest - over)
        rows = [(*row[:place], _tail(row[place], room), *row[place + 1 :]) for row in rows]
    return table_within(width, headings, rows, _NUMBERS, _SPARE)


def _tail(path: str, room: int) -> str:
    return path if len(path) <= room else f"…{path[len(path) - room + 1 :]}"


def _cells(session: Session, now: float, headings: Iterable[str]) -> tuple[str, ...]:
    moved, size = session.moved, session.size
    measured = session.rate_up is not None
    cells = {
        "ID": session.id,
        "USER": session.user or "-",
        "FROM": session.peer,
        "SLOT": str(session.slot),
        "DOOR": session.door,
        "TLS": session.tls or "-",
        "STATE": session.state,
        "FILE": session.path or "-",
        "DONE": f"{100 * moved // size}%" if size else (format_bytes(moved) if moved else "-"),
        "RATE": rate(session.rate) if measured and session.rate else "-",
        "ETA": "-" if session.eta is None else age(session.eta),
        "AGE": age(now - session.since),
    }
    return tuple(cells[heading] for heading in headings)


def _rates(sessions: Iterable[Session]) -> tuple[list[float | None], list[float | None]]:
    found = [(session.rate_up, session.rate_down) for session in sessions]
    return [up for up, _ in found], [down for _, down in found]
