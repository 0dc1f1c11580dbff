from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from forkd.link import MAX_PACKET, QUEUE_MAX, Link, link_pair
from forkd.messages import (
    AccountChanged,
    Answer,
    Drain,
    Kick,
    Ready,
    Unable,
)


@pytest.fixture
def ends() -> Iterator[tuple[Link, socket.socket]]:
    ours, theirs = link_pair()
    link = Link(ours)
    yield link, theirs
    link.close()
    theirs.close()


def test_messages_arrive_whole_and_in_order(ends: tuple[Link, socket.socket]) -> None:
    ours, other = ends[0], Link(ends[1])
    sent = [Ready(), Drain(None), Drain(1.5), Kick(7, "1-2"), Answer(7, {"kicked": True})]
    for message in sent:
        ours.send(message)
    assert other.receive() == sent
    assert other.receive() == []
    assert not other.eof
    assert not other.fault


def test_what_came_before_the_end_is_delivered(ends: tuple[Link, socket.socket]) -> None:
    ours, theirs = ends
    Link(theirs).send(Unable("no moon"))
    theirs.close()
    assert ours.receive() == [Unable("no moon")]
    assert ours.eof
    ours.send(Ready())  # nobody is there, and that is no error
    assert not ours.fault


def test_writing_to_the_dead_loses_nothing_they_said(ends: tuple[Link, socket.socket]) -> None:
    ours, theirs = ends
    Link(theirs).send(Ready())
    ours.send(Drain())  # unread when it dies
    theirs.close()
    ours.send(Drain())
    assert ours.receive() == [Ready()]
    assert ours.eof


def test_a_peer_that_reads_nothing_gets_a_queue_and_then_is_broken(
    ends: tuple[Link, socket.socket],
) -> None:
    ours, theirs = ends
    other = Link(theirs)
    message = AccountChanged("a" * 1000)
    while not ours.wants_write:
        ours.send(message)
    queued = 1
    while not ours.fault:
        ours.send(message)
        queued += 1
    assert queued == QUEUE_MAX + 1
    assert "does not read" in ours.fault
    assert other.receive()


def test_the_queue_is_sent_when_the_peer_reads_again(ends: tuple[Link, socket.socket]) -> None:
    ours, theirs = ends
    other = Link(theirs)
    sent, got = 0, 0
    while not ours.wants_write:
        ours.send(AccountChanged("a" * 1000))
        sent += 1
    while got < sent:
        got += len(other.receive())
        ours.flush()
    assert not ours.wants_write


@pytest.mark.parametrize("packet", [b"{}", b"hello", b'{"m":"drain","timeout":"x"}', b'{"m":"no"}'])
def test_what_is_no_message_breaks_the_link(
    ends: tuple[Link, socket.socket], packet: bytes
) -> None:
    ours, theirs = ends
    theirs.send(packet)
    theirs.send(b'{"m":"ready"}')
    assert ours.receive() == []
    assert "no message" in ours.fault
    assert ours.receive() == []


def test_a_packet_that_is_too_long_is_never_taken_in_part(
    ends: tuple[Link, socket.socket],
) -> None:
    ours, theirs = ends
    with pytest.raises(ValueError, match="does not fit"):
        ours.send(Unable("x" * MAX_PACKET))
    theirs.send(b'{"m":"ready"}' + b" " * MAX_PACKET)
    assert ours.receive() == []
    assert "more than" in ours.fault
