"""The sessions of a worker, told in pages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from forkd.config import Log as LogSettings
from forkd.link import Link, link_pair
from forkd.log import open_log
from forkd.messages import ListSessions, SessionPage
from forkd.serving.roll import PAGE_SESSIONS, Roll
from forkd.serving.session import Activity, Session


@dataclass
class Door:
    """Notes what it is told."""

    name: str = "native"
    told: list[str] = field(default_factory=list)

    def kick(self) -> None:
        self.told.append("kick")

    def drain(self) -> None:
        self.told.append("drain")

    def account_changed(self) -> None:
        self.told.append("changed")


class Sessions(list[Session]):
    """As the worker's, with what was woken."""

    def __init__(self) -> None:
        self.woken: list[str] = []

    def wake(self, fd: int, ident: str) -> None:
        self.woken.append(ident)

    def come(self, user: str, state: str = "idle", path: str = "") -> Door:
        door = Door()
        activity = Activity(user=user, state=state, path=path)
        ident = f"1-{len(self)}"
        self.append(Session(ident, "p", 1.0, len(self), door, activity))  # type: ignore[arg-type]
        return door


class Rig:
    def __init__(self) -> None:
        ours, theirs = link_pair()
        self.sessions = Sessions()
        self.link = Link(ours)
        self.master = Link(theirs)
        log = open_log(LogSettings(level="error"))
        self.roll = Roll(self.sessions, 1, self.link, log)  # type: ignore[arg-type]

    def pages(self, turns: int = 1) -> list[SessionPage]:
        for _ in range(turns):
            self.roll.turn()
        return [page for page in self.master.receive() if isinstance(page, SessionPage)]


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.link.close()
    rig.master.close()


def test_a_turn_tells_a_page(rig: Rig) -> None:
    for _ in range(2 * PAGE_SESSIONS + 1):
        rig.sessions.come("alice")
    rig.roll.call(ListSessions(7))
    assert rig.roll.patience(1.0) == 0.0
    sizes = []
    for more in (True, True, False):
        (page,) = rig.pages()
        assert (page.tag, page.more) == (7, more)
        sizes.append(len(page.sessions))
    assert sizes == [PAGE_SESSIONS, PAGE_SESSIONS, 1]
    assert rig.pages() == []
    assert rig.roll.patience(1.0) == 1.0


def test_nobody_is_a_page_too(rig: Rig) -> None:
    rig.roll.call(ListSessions(1))
    assert [(page.sessions, page.more) for page in rig.pages()] == [([], False)]


def test_only_those_who_are_asked_for(rig: Rig) -> None:
    for number in range(PAGE_SESSIONS + 5):
        rig.sessions.come("bob" if number % 50 == 0 else "alice", "upload" if number else "idle")
    rig.roll.call(ListSessions(1, user="bob"))
    rig.roll.call(ListSessions(2, user="bob", state="upload"))
    found = {1: 0, 2: 0}
    for page in rig.pages(turns=4):
        found[page.tag] += len(page.sessions)
    assert found == {1: 3, 2: 2}


def test_long_paths_make_small_pages(rig: Rig) -> None:
    for _ in range(30):
        rig.sessions.come("alice", path="ä" * 4000)
    rig.roll.call(ListSessions(1))
    pages = [page for _ in range(30) for page in rig.pages()]
    assert len(pages) > 2
    assert sum(len(page.sessions) for page in pages) == 30


def test_a_master_who_does_not_read_is_waited_for(rig: Rig) -> None:
    for _ in range(40 * PAGE_SESSIONS):
        rig.sessions.come("alice", path="x" * 300)
    rig.roll.call(ListSessions(1))
    for _ in range(200):
        rig.roll.turn()
    assert rig.link.wants_write
    assert 0 < rig.roll.patience(1.0) < 1.0
    found = 0
    for _ in range(200):
        found += sum(len(page.sessions) for page in rig.pages())
    assert found == 40 * PAGE_SESSIONS


def test_sessions_are_told_and_woken(rig: Rig) -> None:
    alice, bob, again = (rig.sessions.come(user) for user in ("alice", "bob", "alice"))
    assert (rig.roll.kick_user("alice"), rig.roll.kick("1-1"), rig.roll.kick("9-9")) == (2, 1, 0)
    assert rig.sessions.woken == ["1-0", "1-2", "1-1"]
    rig.roll.account_changed("bob")
    rig.roll.drain()
    assert alice.told == again.told == ["kick", "drain"]
    assert bob.told == ["kick", "changed", "drain"]
