"""Bytes in and out of one socket, plain or TLS, as one thing that never blocks.

`connect` makes it: address, TCP options, TLS handshake, the certificate's check.  Whoever uses a
Wire sends and receives what goes without waiting, then `wait`s for more to go.

A dead network is found by TCP itself (keepalive, TCP_USER_TIMEOUT; tcp(7)); a server that lives
but does nothing, by `stall`.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
from collections import deque
from contextlib import suppress
from itertools import islice

from forkd.client.errors import LostError, TrustError
from forkd.client.trust import Trust
from forkd.client.url import Url

CONNECT_TIMEOUT = 20.0
_DEAD_PEER_MS = 60_000
_IOV_MAX = 64
_SENDFILE_STEP = 4 << 20


class Wire:
    """A connected, non-blocking socket.  Every method raises LostError when it broke."""

    def __init__(self, sock: socket.socket, peer: str, stall: float) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._tls = sock if isinstance(sock, ssl.SSLSocket) else None
        self._peer = peer
        self._stall = stall
        self._poll = select.poll()
        self._poll.register(sock, 0)
        self._read_wants_write = False
        self._write_wants_read = False

    @property
    def encrypted(self) -> bool:
        """Whether the bytes travel in TLS."""
        return self._tls is not None

    def receive(self, buffer: memoryview) -> int | None:
        """Bytes read into `buffer`; None when none are there yet."""
        try:
            count = self._sock.recv_into(buffer)
        except (BlockingIOError, ssl.SSLWantReadError):
            return None
        except ssl.SSLWantWriteError:
            self._read_wants_write = True
            return None
        except OSError as error:
            raise self._lost(error) from None
        if not count:
            raise LostError(f"{self._peer} closed the connection")
        return count

    def send(self, pieces: deque[memoryview]) -> int:
        """Bytes of `pieces`, from the first on, that went; 0 when none go at the moment."""
        try:
            if self._tls is not None:
                return self._tls.send(pieces[0])
            return self._sock.sendmsg(list(islice(pieces, _IOV_MAX)))
        except (BlockingIOError, ssl.SSLWantWriteError):
            return 0
        except ssl.SSLWantReadError:
            self._write_wants_read = True
            return 0
        except OSError as error:
            raise self._lost(error) from None

    def sendfile(self, fd: int, offset: int, count: int) -> int | None:
        """sendfile(2): bytes that went; 0 at the end of the file, None when none go now."""
        try:
            return os.sendfile(self._sock.fileno(), fd, offset, min(count, _SENDFILE_STEP))
        except BlockingIOError:
            return None
        except OSError as error:
            raise self._lost(error) from None

    def wait(self, *, write: bool) -> tuple[bool, bool]:
        """Wait until (readable, writable).  `write`: whether there is something to write."""
        if self._tls is not None and self._tls.pending():
            return True, write
        mask = select.POLLIN
        if (write and not self._write_wants_read) or self._read_wants_write:
            mask |= select.POLLOUT
        self._poll.modify(self._sock, mask)
        ready = self._poll.poll(self._stall * 1000)
        if not ready:
            raise LostError(f"nothing moved for {self._stall:.0f} s to or from {self._peer}")
        seen = ready[0][1]
        broken = bool(seen & (select.POLLERR | select.POLLHUP | select.POLLNVAL))
        readable = bool(seen & select.POLLIN) or broken
        writable = bool(seen & select.POLLOUT) or (broken and write)
        if self._read_wants_write and writable:
            self._read_wants_write, readable = False, True
        if self._write_wants_read and readable:
            self._write_wants_read, writable = False, write
        return readable, writable

    def interrupt(self) -> None:
        """End the connection from another thread: whoever waits on it gets LostError."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close; in TLS with a close_notify where that goes without waiting."""
        if self._tls is not None:
            with suppress(OSError, ValueError):
                self._tls.unwrap()
        self._sock.close()

    def _lost(self, error: OSError) -> LostError:
        return LostError(f"the connection to {self._peer} broke: {_words(error)}")


def connect(url: Url, trust: Trust, stall: float) -> Wire:
    """Reach the server of `url`; `stall` is the longest silence in seconds while something is due.

    Raises LostError, TrustError.
    """
    try:
        sock = _reach(url)
    except OSError as error:
        raise LostError(f"no connection to {url.server}: {_words(error)}") from None
    try:
        return Wire(_secure(sock, url, trust) if url.tls else sock, url.server, stall)
    except BaseException:
        sock.close()
        raise


def _reach(url: Url) -> socket.socket:
    if url.scheme == "forkd+unix":
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(CONNECT_TIMEOUT)
            sock.connect(url.host)
        except BaseException:
            sock.close()
            raise
        return sock
    sock = socket.create_connection((url.host, url.port), CONNECT_TIMEOUT)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 20)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_PEER_MS)
    return sock


def _secure(sock: socket.socket, url: Url, trust: Trust) -> ssl.SSLSocket:
    context = trust.context()
    try:
        tls = context.wrap_socket(sock, server_hostname=url.host, suppress_ragged_eofs=False)
    except ssl.SSLCertVerificationError as error:
        raise TrustError(
            f"the certificate of {url.server} is not accepted: {error.verify_message}"
        ) from None
    except (ssl.SSLError, OSError) as error:
        hint = ""
        if isinstance(error, (ssl.SSLError, ConnectionError)):
            hint = " (a server without TLS is reached as forkd+plain://)"
        raise LostError(f"no TLS with {url.server}: {_words(error)}{hint}") from None
    certificate = tls.getpeercert(binary_form=True)
    try:
        if not certificate:
            raise TrustError(f"{url.server} showed no certificate")
        trust.check(url.server, certificate)
    except BaseException:
        tls.close()
        raise
    return tls


def _words(error: OSError) -> str:
    if isinstance(error, ssl.SSLEOFError):
        return "it ended in the middle"
    if isinstance(error, ssl.SSLError):
        return error.reason or str(error)
    if isinstance(error, TimeoutError):
        return "no answer"
    return error.strerror or str(error)
