"""Rates between two looks, and what the screens make of them."""

from __future__ import annotations

import msgspec
import pytest

from forkd.admin.looks import Look, between, frame, ordered, unmeasured, users_of
from forkd.admin.results import Frame, Session
from forkd.admin.sessionview import sessions_table, sparkline, top_screen, transfers_table
from forkd.messages import SessionInfo
from forkd.reports import Process, SessionList, Status, Totals, Worker

MIB = 1 << 20


def info(ident: str, user: str, up: int = 0, down: int = 0, **more: object) -> SessionInfo:
    fixed = {"slot": 1, "peer": f"192.0.2.{len(ident)}:5", "tls": "", "door": "native"}
    given = fixed | {"state": "idle", "since": 1000.0} | more
    return SessionInfo(id=ident, user=user, bytes_up=up, bytes_down=down, **given)  # type: ignore[arg-type]


def look(at: float, *sessions: SessionInfo) -> Look:
    moved = {each.id: (each.bytes_up, each.bytes_down) for each in sessions}
    return Look(at, SessionList(sessions=list(sessions)), moved)


def two_seconds() -> list[Session]:
    """alice sends 1 MiB/s and gets small files, bob, who is new, got 4 MiB; carol does nothing."""
    moving = {"state": "upload", "path": "/in/big", "size": 10 * MIB, "moved": 4 * MIB}
    before = look(10.0, info("a", "alice", 2 * MIB), info("c", "carol", 9 * MIB))
    after = look(
        12.0,
        info("a", "alice", 4 * MIB, MIB, **moving),
        info("b", "bob", down=4 * MIB, state="download", path="/out", since=1500.0),
        info("c", "carol", 9 * MIB),
    )
    return between(before, after)


def test_rates_are_what_moved_between_two_looks() -> None:
    alice, bob, carol = two_seconds()
    assert (alice.rate_up, alice.rate_down) == (MIB, MIB / 2)
    assert (bob.rate_up, bob.rate_down) == (0.0, 2 * MIB)
    assert (carol.rate, carol.eta, bob.eta) == (0.0, None, None)
    assert alice.eta == pytest.approx(6 * MIB / (1.5 * MIB))
    (single,) = unmeasured(look(1.0, info("a", "alice", 5)))
    assert (single.rate_up, single.rate_down, single.rate) == (None, None, 0.0)


def test_sessions_are_ordered_as_asked() -> None:
    def names(by: str) -> list[str]:
        return [session.user for session in ordered(reversed(two_seconds()), by)]

    assert names("rate") == ["bob", "alice", "carol"]
    assert names("user") == ["alice", "bob", "carol"]
    assert names("done")[0] == "alice"
    assert names("age")[-1] == "bob"


def test_users_are_the_sum_of_their_sessions() -> None:
    sessions = [*two_seconds(), *two_seconds()]
    bob, alice, carol = users_of(sessions)
    assert (bob.user, bob.sessions, bob.transfers, bob.rate_down) == ("bob", 2, 2, 4 * MIB)
    assert (alice.rate_up, carol.transfers, carol.rate_up) == (2 * MIB, 0, 0.0)


def a_frame(rows: int | None = None) -> Frame:
    def status(uptime: float, cpu: float, **totals: int) -> Status:
        worker = Worker(pid=7, state="serving", cpu_seconds=cpu)
        return Status(
            uptime=uptime,
            workers=[worker],
            helpers=[Process(pid=8, cpu_seconds=uptime)],
            totals=Totals(**totals),
            sessions_limit=100,
        )

    before = status(5.0, 1.0, bytes_up=0, logins=3)
    after = status(7.0, 2.0, bytes_up=6 * MIB, bytes_down=MIB, logins=7, sessions_now=3)
    return frame(
        before,
        after,
        ordered(two_seconds(), "rate"),
        rows,
        1600.0,
    )


def test_a_frame_is_what_happened_to_the_whole_daemon() -> None:
    found = a_frame(rows=2)
    assert (found.interval, found.rate_up, found.rate_down) == (2.0, 3 * MIB, MIB / 2)
    assert (found.logins_rate, found.logins_failed_rate, found.cpu_percent) == (2.0, 0.0, 150.0)
    assert [session.user for session in found.busiest] == ["bob", "alice"]
    assert len(found.users) == 3
    assert msgspec.convert(msgspec.to_builtins(found), Frame) == found


def test_the_screen_of_top_fits() -> None:
    history = [(0.0, 1.0), (MIB, 2 * MIB)]
    everything = top_screen(a_frame(), history, 200, None)
    for said in ("3 sessions of 100", "log-ins 2.0/s", "cpu 150% of ", "/in/big", "2.0 MiB/s", "█"):
        assert said in everything
    for width, height in ((40, 12), (80, 24), (20, 5), (100, 8)):
        lines = top_screen(a_frame(), history, width, height).splitlines()
        assert max(map(len, lines)) <= width
        assert len(lines) < height


def test_a_curve_has_a_bar_for_each_look() -> None:
    assert sparkline([0, 1, 50, 100], 100) == " ▁▅█"
    assert sparkline([], 1.0) == ""


def test_tables_tell_what_moves() -> None:
    sessions = two_seconds()
    assert sessions_table(sessions, 2000.0, False).endswith("3 sessions, 2 transfers")
    wide = sessions_table(sessions, 2000.0, True)
    assert "DOOR" in wide
    assert "16m 40s" in wide
    moving = [session for session in sessions if session.state != "idle"]
    told = transfers_table(moving, 2000.0)
    assert "40%" in told
    assert "4s" in told
    assert told.endswith("2 transfers: 1 down, 1 up; out 2.5 MiB/s, in 1.0 MiB/s")
    assert transfers_table([], 0.0) == "no transfers"
