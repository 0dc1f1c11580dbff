from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from forkd.link import Link
from forkd.messages import AskSessions, SessionInfo, SessionPage
from forkd.serving.census import Census


@pytest.fixture
def ends() -> Iterator[tuple[Link, Link]]:
    """A worker's end and the master's."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        yield Link(one), Link(other)


def info(ident: str) -> SessionInfo:
    return SessionInfo(ident, 1, "alice", "127.0.0.1:1", "", "ftp", "idle", 0.0)


def test_pages_of_one_question_are_told_together(ends: tuple[Link, Link]) -> None:
    ours, master = ends
    census, told = Census(ours), []
    census.ask(told.append)
    census.ask(told.append)
    first, second = master.receive()
    assert isinstance(first, AskSessions)
    assert isinstance(second, AskSessions)
    assert first.tag != second.tag
    census.on_page(SessionPage(second.tag, [info("a")], True))
    census.on_page(SessionPage(first.tag, [], False))
    assert told == [[]]
    census.on_page(SessionPage(second.tag, [info("b")], False))
    assert [session.id for session in told[1]] == ["a", "b"]


def test_who_does_not_want_to_know_any_more_is_not_told(ends: tuple[Link, Link]) -> None:
    ours, master = ends
    census, told = Census(ours), []
    forget = census.ask(told.append)
    forget()
    (asked,) = master.receive()
    assert isinstance(asked, AskSessions)
    census.on_page(SessionPage(asked.tag, [info("a")], False))
    assert told == []
