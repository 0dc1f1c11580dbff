"""The connection against a peer that says exactly what the test wants."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from forkd.client.calls import Sink
from forkd.client.connection import Connection
from forkd.client.errors import LocalError, LostError, ProtocolError, RemoteError
from forkd.client.wire import Wire
from forkd.protocol import Type, frame
from forkd.verbs import Quota, Stat

Script = Callable[[socket.socket], None]


class Ends:
    """Both ends of one connection; the far one is spoken for by a script in a thread."""

    def __init__(self) -> None:
        near, self.far = socket.socketpair()
        self.far.settimeout(20)
        self.connection = Connection(Wire(near, "peer", stall=20.0))
        self.threads: list[threading.Thread] = []

    def script(self, script: Script) -> None:
        thread = threading.Thread(target=script, args=(self.far,), daemon=True)
        self.threads.append(thread)
        thread.start()


@pytest.fixture
def ends() -> Iterator[Ends]:
    ends = Ends()
    yield ends
    ends.connection.close()
    ends.far.close()
    for thread in ends.threads:
        thread.join()


class Collect(Sink):
    def __init__(self) -> None:
        self.begun: list[bytes] = []
        self.content = b""

    def begin(self, meta: bytes, /) -> None:
        self.begun.append(meta)

    def data(self, view: memoryview, meta: bytes, /) -> None:
        self.content += view


def error(ident: int, code: str, retry: bool = False) -> bytes:
    meta = {"code": code, "message": "sentence", "retry": retry, "fault": "peer"}
    return frame(Type.ERROR, ident, meta)


def test_answers_find_their_calls_in_any_pieces(ends: Ends) -> None:
    sinks = [Collect() for _ in range(3)]
    calls = [ends.connection.call(Quota(), sink=sink) for sink in sinks]
    stream = (
        frame(Type.REPLY, 2, {"n": 2}, b"two")
        + frame(Type.INTERIM, 1, {"first": 1}, b"a")
        + frame(Type.DATA, 1, None, b"bcd")
        + frame(Type.DATA, 1)
        + frame(Type.REPLY, 1, {"n": 1}, b"e")
        + error(3, "not-found")
    )

    def drip(far: socket.socket) -> None:
        for i in range(len(stream)):
            far.sendall(stream[i : i + 1])

    ends.script(drip)
    assert ends.connection.wait(calls[0]).meta == b'{"n":1}'
    assert ends.connection.wait(calls[1]).meta == b'{"n":2}'
    with pytest.raises(RemoteError, match=r"sentence \(not-found\)") as caught:
        ends.connection.wait(calls[2])
    assert (caught.value.code, caught.value.repeatable) == ("not-found", False)
    assert [sink.content for sink in sinks] == [b"abcde", b"two", b""]
    assert sinks[0].begun == [b'{"first":1}']
    assert not ends.connection.busy
    assert not ends.connection.lost


def test_it_reads_while_it_writes(ends: Ends) -> None:
    """Neither side may wait for the other to read first."""
    count = 400
    payload = bytes(100_000)

    def stubborn(far: socket.socket) -> None:
        for ident in range(1, count + 1):  # all answers before the first request is read
            far.sendall(frame(Type.REPLY, ident, None, payload))
        with contextlib.suppress(OSError):  # the test may be over and close it
            while far.recv(1 << 20):
                pass

    calls = [ends.connection.call(Quota(), payload) for _ in range(count)]
    ends.script(stubborn)
    for call in calls:
        ends.connection.wait(call)
    ends.connection.interrupt()


def test_a_failing_sink_spoils_only_its_call(ends: Ends) -> None:
    class Full(Collect):
        def data(self, view: memoryview, meta: bytes, /) -> None:
            raise OSError(28, "No space left on device")

    bad = ends.connection.call(Quota(), sink=Full())
    good = ends.connection.call(Quota(), sink=Collect())
    ends.far.sendall(frame(Type.DATA, 1, None, bytes(50_000)) + frame(Type.REPLY, 1, None, b"x"))
    ends.far.sendall(frame(Type.REPLY, 2, {"ok": 1}))
    assert ends.connection.wait(good).meta == b'{"ok":1}'
    with pytest.raises(LocalError, match="No space left"):
        ends.connection.wait(bad)


def test_the_end_is_a_loss_and_stays_one(ends: Ends) -> None:
    call = ends.connection.call(Quota())
    ends.far.close()
    with pytest.raises(LostError) as caught:
        ends.connection.wait(call)
    assert caught.value.carried_out
    assert ends.connection.lost


def test_what_the_server_said_before_it_closed_is_told(ends: Ends) -> None:
    call = ends.connection.call(Quota())
    ends.far.sendall(error(0, "kicked"))
    ends.far.close()
    with pytest.raises(RemoteError, match="kicked"):
        ends.connection.wait(call)
    assert ends.connection.lost


def test_a_broken_pipe_does_not_hide_the_reason(ends: Ends) -> None:
    ends.far.sendall(error(0, "kicked"))
    ends.far.close()
    call = ends.connection.call(Quota(), bytes(1 << 20))
    with pytest.raises(RemoteError, match="kicked"):
        ends.connection.wait(call)


def test_a_timeout_of_the_server_is_worth_a_reconnect(ends: Ends) -> None:
    call = ends.connection.call(Quota())
    ends.far.sendall(error(0, "timeout", retry=True))
    with pytest.raises(LostError, match="timeout"):
        ends.connection.wait(call)


def test_going_away_lets_answers_come(ends: Ends) -> None:
    first, second = ends.connection.call(Quota()), ends.connection.call(Quota())
    ends.far.sendall(frame(Type.NOTICE, 0, {"notice": "going-away"}) + frame(Type.REPLY, 1))
    ends.connection.wait(first)
    assert ends.connection.leaving
    ends.far.close()
    with pytest.raises(LostError) as caught:
        ends.connection.wait(second)
    assert not caught.value.carried_out


def test_unknown_news_are_ignored(ends: Ends) -> None:
    call = ends.connection.call(Quota())
    ends.far.sendall(frame(Type.NOTICE, 0, {"notice": "lunch"}) + frame(Type.REPLY, 1))
    ends.connection.wait(call)
    assert not ends.connection.leaving


@pytest.mark.parametrize(
    "garbage",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        frame(Type.REPLY, 77),
        frame(Type.DATA, 77, None, b"x"),
        frame(Type.REQUEST, 1, {"op": "quota"}),
        frame(Type.ERROR, 1, {"code": 5}),
        frame(Type.NOTICE, 0, {"notice": 5}),
    ],
)
def test_what_is_not_the_protocol_ends_the_connection(ends: Ends, garbage: bytes) -> None:
    call = ends.connection.call(Quota())
    ends.far.sendall(garbage)
    with pytest.raises(ProtocolError):
        ends.connection.wait(call)
    assert ends.connection.lost


def test_a_request_that_no_frame_can_hold(ends: Ends) -> None:
    with pytest.raises(LocalError, match="too long"):
        ends.connection.call(Stat(path="\x01" * 4000))
    call = ends.connection.call(Quota())
    ends.far.sendall(frame(Type.REPLY, call.id))
    ends.connection.wait(call)


def test_silence_is_a_loss() -> None:
    near, far = socket.socketpair()
    connection = Connection(Wire(near, "peer", stall=0.05))
    try:
        call = connection.call(Quota())
        with pytest.raises(LostError, match="nothing moved"):
            connection.wait(call)
    finally:
        connection.close()
        far.close()


def test_it_can_be_ended_from_another_thread(ends: Ends) -> None:
    call = ends.connection.call(Quota())
    ends.script(lambda far: (far.recv(100), ends.connection.interrupt())[1])
    with pytest.raises(LostError):
        ends.connection.wait(call)
