"""A connection's bytes, plain or TLS, behind one small vocabulary.  Sockets never block here.

`receive_into` and `send` answer with a count, or None when they would block: then `wants` tells
what to wait for.  A peer that is gone, or cannot be reached any more, raises ConnectionError; a TLS
connection that ends without close_notify is such a break, not an end.
"""

from __future__ import annotations

import select
import socket
import ssl
from typing import Protocol

READABLE = select.EPOLLIN
WRITABLE = select.EPOLLOUT
LEAVING = select.EPOLLRDHUP
"""The peer has ended its side, whatever of its bytes is not read yet."""
_PIECE = 256 * 1024
_TLS_HANDSHAKE = 0x16  # RFC 8446 section 5.1, ContentType


class Transport(Protocol):
    """See the module."""

    @property
    def sock(self) -> socket.socket: ...

    @property
    def kernel(self) -> bool:
        """The kernel may move bytes between this socket and a file."""

    @property
    def label(self) -> str:
        """'' or the TLS version."""

    wants: int
    """After a None or False: READABLE or WRITABLE."""
    piece: int
    """How many bytes are best sent at once, where they come through a buffer."""

    @property
    def unsent(self) -> int:
        """Bytes that were taken and are not sent yet."""

    def handshake(self) -> bool:
        """Go on with the handshake; True when there is none to wait for.  ConnectionError."""

    def receive_into(self, buffer: memoryview) -> int | None:
        """Bytes read, 0 at the peer's end."""

    def send(self, data: bytes | memoryview) -> int | None:
        """Bytes taken; they are on their way when `flush` says so."""

    def flush(self) -> bool:
        """Send what was taken; False when the peer takes no more at the moment."""

    def close_notify(self) -> bool:
        """Flush, and say the end of the content; False when the peer takes no more at the moment.

        There is no such word on plain connections.
        """

    def shutdown(self) -> None:
        """Tell the peer that nothing more comes, as far as that is possible without waiting."""


class Plain:
    """TCP or AF_UNIX as it is."""

    kernel = True
    label = ""
    piece = _PIECE
    unsent = 0

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.wants = READABLE

    def handshake(self) -> bool:
        return True

    def receive_into(self, buffer: memoryview) -> int | None:
        try:
            return self.sock.recv_into(buffer)
        except BlockingIOError:
            self.wants = READABLE
            return None
        except OSError as error:
            raise broken(error) from error

    def send(self, data: bytes | memoryview) -> int | None:
        try:
            return self.sock.send(data)
        except BlockingIOError:
            self.wants = WRITABLE
            return None
        except OSError as error:
            raise broken(error) from error

    def flush(self) -> bool:
        return True

    def close_notify(self) -> bool:
        return True

    def shutdown(self) -> None:
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass


class Tls:
    """TLS over TCP.  The handshake goes on by itself with the first reads."""

    kernel = False
    piece = _PIECE
    unsent = 0

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        """Takes the socket over, also where it raises ConnectionError."""
        try:
            self.sock: ssl.SSLSocket = context.wrap_socket(
                sock, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=False
            )
        except OSError as error:
            sock.close()
            raise broken(error) from error
        self.wants = READABLE
        self.label = "tls"

    @property
    def resumed(self) -> bool:
        """The handshake took up an earlier session."""
        return bool(self.sock.session_reused)

    def handshake(self) -> bool:
        """Go on with the handshake; True when it is done.  Raises ConnectionError."""
        try:
            self.sock.do_handshake()
        except ssl.SSLWantReadError:
            self.wants = READABLE
            return False
        except ssl.SSLWantWriteError:
            self.wants = WRITABLE
            return False
        except OSError as error:
            raise ConnectionError(f"TLS handshake failed: {error}") from None
        self.label = self.sock.version() or "tls"
        return True

    def receive_into(self, buffer: memoryview) -> int | None:
        try:
            return self.sock.recv_into(buffer)
        except ssl.SSLWantReadError:
            self.wants = READABLE
        except ssl.SSLWantWriteError:
            self.wants = WRITABLE
        except ssl.SSLZeroReturnError:
            return 0
        except OSError as error:
            raise broken(error) from error
        return None

    def send(self, data: bytes | memoryview) -> int | None:
        try:
            return self.sock.send(data)
        except ssl.SSLWantWriteError:
            self.wants = WRITABLE
        except ssl.SSLWantReadError:
            self.wants = READABLE
        except OSError as error:
            raise broken(error) from error
        return None

    def flush(self) -> bool:
        return True

    def close_notify(self) -> bool:
        try:
            self.sock.unwrap()
        except ssl.SSLWantWriteError:
            self.wants = WRITABLE
            return False
        except (OSError, ValueError):
            pass  # ours is sent and the peer's is not awaited, or there is nobody any more
        return True

    def shutdown(self) -> None:
        self.close_notify()
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass


def open_transport(sock: socket.socket, context: ssl.SSLContext | None) -> Transport | None:
    """The transport that the peer's first byte asks for; None while there is none.

    Without a context everything is plain.  Raises ConnectionError.
    """
    if context is None:
        return Plain(sock)
    try:
        first = sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return None
    except OSError as error:
        raise broken(error) from error
    if not first:
        raise ConnectionError("the client left before it said anything")
    return Tls(sock, context) if first[0] == _TLS_HANDSHAKE else Plain(sock)


def wait_briefly(transport: Transport, seconds: float) -> bool:
    """Wait on this thread until the transport can go on; False after `seconds`."""
    poll = select.poll()
    poll.register(transport.sock, transport.wants)  # EPOLLIN and POLLIN are the same bits
    return bool(poll.poll(int(seconds * 1000)))


def has_left(transport: Transport) -> bool:
    """The peer has ended its side, or is gone."""
    poll = select.poll()
    poll.register(transport.sock, LEAVING)  # POLLRDHUP, and POLLHUP and POLLERR always
    return bool(poll.poll(0))


def broken(error: OSError) -> ConnectionError:
    """What a socket says as the one error that means: this connection is over."""
    if isinstance(error, ConnectionError):
        return error
    if isinstance(error, ssl.SSLError):
        return ConnectionError(f"TLS: {error.reason or error}")
    return ConnectionError(error.strerror or str(error))
