"""Sockets as the sessions see them: plain and TLS alike, and every end told apart."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
import threading
from collections.abc import Iterator

import pytest

from forkd.config import Config, Server, Tls
from forkd.serving import tlscontext
from forkd.serving.bulktls import BulkTls
from forkd.serving.transport import (
    READABLE,
    WRITABLE,
    Plain,
    Transport,
    broken,
    open_transport,
    wait_briefly,
)
from forkd.serving.transport import Tls as TlsTransport

LONG = 30.0


@pytest.fixture(scope="module")
def server_context(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    config = Config(
        server=Server(state_dir=str(tmp_path_factory.mktemp("state"))), tls=Tls(mode="auto")
    )
    tlscontext.ensure_certificate(config)
    context = tlscontext.server_context(config)
    assert context is not None
    return context


def client_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """(server's end that does not block, client's end) over loopback TCP."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname(), LONG)
        server, _ = listener.accept()
    server.setblocking(False)
    yield server, client
    server.close()
    client.close()


def until_open(sock: socket.socket, context: ssl.SSLContext | None) -> Transport:
    while (transport := open_transport(sock, context)) is None:
        assert wait_briefly(Plain(sock), LONG)
    return shaken(transport)


def shaken(transport: Transport) -> Transport:
    while not transport.handshake():
        assert wait_briefly(transport, LONG)
    return transport


def opened(sock: socket.socket, context: ssl.SSLContext, *, bulk: bool) -> Transport:
    return shaken(BulkTls(sock, context)) if bulk else until_open(sock, context)


def joined(
    server: socket.socket, client: socket.socket, context: ssl.SSLContext, *, bulk: bool
) -> tuple[Transport, ssl.SSLSocket]:
    """Both ends after the handshake."""
    made: list[ssl.SSLSocket] = []
    shaking = threading.Thread(target=lambda: made.append(client_context().wrap_socket(client)))
    shaking.start()
    transport = opened(server, context, bulk=bulk)
    shaking.join()
    return transport, made[0]


@pytest.fixture(params=["plain", "tls", "bulk"])
def ends(
    request: pytest.FixtureRequest,
    pair: tuple[socket.socket, socket.socket],
    server_context: ssl.SSLContext,
) -> Iterator[tuple[Transport, socket.socket]]:
    server, client = pair
    if request.param == "plain":
        yield Plain(server), client
        return
    transport, made = joined(server, client, server_context, bulk=request.param == "bulk")
    yield transport, made
    transport.sock.close()
    made.close()


def read_all(transport: Transport, count: int) -> bytes:
    buffer, got = memoryview(bytearray(count)), 0
    while got < count:
        read = transport.receive_into(buffer[got:])
        if read is None:
            assert transport.wants == READABLE
            assert wait_briefly(transport, LONG)
        else:
            assert read
            got += read
    return bytes(buffer)


def test_bytes_pass_both_ways(ends) -> None:
    transport, client = ends
    client.sendall(b"hello")
    assert read_all(transport, 5) == b"hello"
    assert transport.receive_into(memoryview(bytearray(9))) is None
    assert not wait_briefly(transport, 0.0)
    assert transport.send(b"answer") == 6
    assert client.recv(9) == b"answer"


def test_a_peer_that_does_not_read_blocks_and_goes_on(ends) -> None:
    transport, client = ends
    data = memoryview(bytes(1 << 20))
    sent = 0
    while (count := transport.send(data)) is not None:
        sent += count
    assert transport.wants == WRITABLE
    got = 0
    while got < sent:
        transport.flush()  # under TLS some of it may wait here
        got += len(client.recv(1 << 20))
    assert transport.flush()
    assert wait_briefly(transport, LONG)
    assert transport.send(data)


def test_little_is_held_for_a_peer_that_does_not_read(pair, server_context) -> None:
    """And much is sent at once to one that does."""
    server, client = pair
    transport, made = joined(server, client, server_context, bulk=True)
    least, data, sent, got = transport.piece, memoryview(bytes(1 << 20)), 0, 0
    for _ in range(3):
        sent += transport.send(data) or 0
        while got < sent:
            got += len(made.recv(1 << 20))
    assert sent == 7 * least
    while (count := transport.send(data)) is not None:
        sent += count
    assert transport.piece == least
    while got < sent:
        transport.flush()
        got += len(made.recv(1 << 20))
    made.close()


def test_what_cannot_be_sent_any_more_is_no_orderly_end(pair, server_context) -> None:
    server, client = pair
    transport, made = joined(server, client, server_context, bulk=True)
    while transport.send(bytes(1 << 20)):
        pass
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    made.close()
    assert wait_briefly(transport, LONG)
    with pytest.raises(ConnectionError):
        transport.close_notify()


def test_an_end_is_told(ends) -> None:
    transport, client = ends
    ending = threading.Thread(target=lambda: end(client))
    ending.start()
    assert wait_briefly(transport, LONG)
    buffer = memoryview(bytearray(9))
    while (count := transport.receive_into(buffer)) is None:
        assert wait_briefly(transport, LONG)
    assert count == 0
    transport.shutdown()
    ending.join()


def end(client: socket.socket) -> None:
    """As a client that has said all; with TLS it waits for the same from the server."""
    if isinstance(client, ssl.SSLSocket):
        client.unwrap()
    else:
        client.shutdown(socket.SHUT_WR)


def test_a_broken_connection_is_one_kind_of_error(ends) -> None:
    transport, client = ends
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    assert wait_briefly(transport, LONG)
    with pytest.raises(ConnectionError):
        transport.receive_into(memoryview(bytearray(9)))
    with pytest.raises(ConnectionError):
        send_for_ever(transport)
    transport.shutdown()


def send_for_ever(transport: Transport) -> None:
    while transport.send(b"x" * 1000):
        pass


@pytest.mark.parametrize("bulk", [False, True])
def test_tls_that_ends_without_a_word_is_broken(pair, server_context, bulk: bool) -> None:
    server, client = pair
    transport, made = joined(server, client, server_context, bulk=bulk)
    assert transport.label.startswith("TLSv1.")
    assert not transport.kernel
    with socket.socket(fileno=made.detach()) as raw:
        raw.shutdown(socket.SHUT_WR)  # a close would be a reset: the tickets were not read
        assert wait_briefly(transport, LONG)
        with pytest.raises(ConnectionError, match="TLS"):
            transport.receive_into(memoryview(bytearray(9)))
    transport.sock.close()


def test_the_first_byte_decides(pair, server_context) -> None:
    server, client = pair
    assert open_transport(server, server_context) is None
    client.sendall(b"\xf1")
    assert wait_briefly(Plain(server), LONG)
    transport = open_transport(server, server_context)
    assert isinstance(transport, Plain)
    assert read_all(transport, 1) == b"\xf1"


def test_without_a_context_all_is_plain(pair) -> None:
    server, client = pair
    client.sendall(b"\x16")
    assert isinstance(open_transport(server, None), Plain)


@pytest.mark.parametrize(
    "hello", [b"\x16" + bytes(300), b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"]
)
@pytest.mark.parametrize("bulk", [False, True])
def test_a_handshake_that_fails_is_a_broken_connection(
    pair, server_context, hello, bulk: bool
) -> None:
    server, client = pair
    client.sendall(hello)
    client.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionError, match="handshake"):
        opened(server, server_context, bulk=bulk)


def test_much_that_comes_at_once_is_the_same_as_a_socket_would_give(ends) -> None:
    """More than one read of ciphertext, in records of all sizes."""
    transport, client = ends
    pieces = [os.urandom(size) for size in (1, 16384, 16385, 300_000, 7, 1 << 20, 3)]

    def send() -> None:
        for piece in pieces:
            client.sendall(piece)
        end(client)

    sending = threading.Thread(target=send)
    sending.start()
    whole = b"".join(pieces)
    assert read_all(transport, len(whole)) == whole
    buffer = memoryview(bytearray(9))
    while (count := transport.receive_into(buffer)) is None:
        assert wait_briefly(transport, LONG)
    assert count == 0
    transport.shutdown()
    sending.join()


def test_what_came_before_a_fault_is_had_and_then_the_fault(pair, server_context) -> None:
    """Again and again: it must never be taken for an orderly end."""
    server, client = pair
    transport, made = joined(server, client, server_context, bulk=True)
    made.sendall(b"content")
    with socket.socket(fileno=made.detach()) as raw:
        raw.sendall(b"\x17\x03\x03\x00\x40" + bytes(64))  # a record that nobody enciphered
        assert read_all(transport, 7) == b"content"
        for _ in range(3):
            with pytest.raises(ConnectionError, match="TLS"):
                read_all(transport, 1)
    transport.sock.close()


def test_records_without_content_do_not_hold_the_thread(
    pair, server_context, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, client = pair
    transport, made = joined(server, client, server_context, bulk=True)
    fills = 0

    def fill(self: BulkTls, room: memoryview) -> bool:
        nonlocal fills
        fills += 1
        assert fills < 100
        return True

    monkeypatch.setattr(BulkTls, "_fill", fill)
    assert transport.receive_into(memoryview(bytearray(9))) is None
    assert transport.wants == READABLE
    made.close()


def test_whoever_leaves_before_the_first_byte_is_told(pair, server_context) -> None:
    server, client = pair
    client.close()
    assert wait_briefly(Plain(server), LONG)
    with pytest.raises(ConnectionError, match="left"):
        open_transport(server, server_context)


def test_a_socket_that_is_not_connected_any_more_is_closed_in_the_attempt(server_context) -> None:
    """As after a reset between the first byte and the handshake."""
    sock = socket.socket()
    sock.setblocking(False)
    with pytest.raises(ConnectionError):
        TlsTransport(sock, server_context).handshake()
    assert sock.fileno() == -1


def test_what_a_network_says_is_a_broken_connection() -> None:
    for error in (TimeoutError(110, "timed out"), OSError(113, "No route to host")):
        assert isinstance(broken(error), ConnectionError)
    reset = ConnectionResetError(104, "reset")
    assert broken(reset) is reset


def test_the_end_under_tls_waits_for_a_peer_that_does_not_read(pair, server_context) -> None:
    """One that is lost on its way would make a whole download look broken off."""
    server, client = pair
    transport, made = joined(server, client, server_context, bulk=False)
    with socket.socket(fileno=made.detach()) as raw:
        filled = 0
        with contextlib.suppress(BlockingIOError):
            while True:  # beneath TLS: the kernel takes not one byte more
                filled += socket.socket.send(transport.sock, bytes(1 << 16))
        assert not transport.close_notify()
        assert transport.wants == WRITABLE
        got = 0
        while got < filled:
            got += len(raw.recv(1 << 20))
        assert wait_briefly(transport, LONG)
        assert transport.close_notify()
        transport.sock.close()
        while piece := raw.recv(1 << 16):
            got += len(piece)
        assert got > filled
