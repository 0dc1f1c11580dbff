"""A data connection that is over for us and not yet for the client; what comes is dropped.

Of a refused upload: a close with unread bytes is a reset (RFC 1122 section 4.2.2.13), and a client
that meets one while it sends tells of that instead of the reply that says why.  Of a download: the
client still reads what the kernel took from us; it closes when it has all.
"""

from __future__ import annotations

import socket
import time

from forkd.serving.core import Core
from forkd.serving.transport import READABLE, Transport

_SECONDS = 30.0
"""For who goes on sending.  Who is silent is closed with his session, or for the next transfer."""


class Lingering:
    """Owns the connection, on the loop's thread; under TLS what comes is not deciphered."""

    __slots__ = ("_buffer", "_core", "_sock", "_until")

    def __init__(self, core: Core, transport: Transport, buffer: memoryview) -> None:
        """`buffer` is shared by all doors of the loop."""
        self._core = core
        self._sock = transport.sock
        self._buffer = buffer
        self._until = time.monotonic() + _SECONDS
        transport.shutdown()
        core.watch(self._sock.fileno(), self._drop, READABLE)

    def _drop(self) -> None:
        try:
            more = socket.socket.recv_into(self._sock, self._buffer)
        except BlockingIOError:
            more = 1
        except OSError:
            more = 0
        if not more or time.monotonic() > self._until:
            self.close()
            return
        self._core.watch(self._sock.fileno(), self._drop, READABLE)

    @property
    def is_busy(self) -> bool:
        """The client may still read or send."""
        return self._sock.fileno() >= 0 and time.monotonic() < self._until

    def close(self) -> None:
        if self._sock.fileno() >= 0:
            self._core.unwatch(self._sock.fileno())
            self._sock.close()
