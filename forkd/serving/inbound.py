"""A TLS connection that takes much and says little: uploads on a connection of their own.

OpenSSL reads a socket twice for each record of 16 KiB: its head, then the rest.  Here what came is
read in large pieces, and OpenSSL takes the records from memory: a sixth less processor time.
"""

from __future__ import annotations

import socket
import ssl

from forkd.serving.transport import READABLE, WRITABLE, broken

_PIECE = 256 * 1024
"""Bytes of one read at most: who sends slowly has no more of them in memory than came."""


class TlsInbound:
    """See transport.Transport."""

    kernel = False

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        """Takes the socket over.  Raises ConnectionError, and closes it then."""
        self.sock = sock
        self.wants = READABLE
        self.label = "tls"
        self._came = ssl.MemoryBIO()
        self._goes = ssl.MemoryBIO()
        self._unsent = b""
        self._taken = 0
        """Bytes of the last `send` that are enciphered and not all sent."""
        try:
            self._tls = context.wrap_bio(self._came, self._goes, server_side=True)
        except OSError as error:
            sock.close()
            raise broken(error) from error

    @property
    def resumed(self) -> bool:
        return bool(self._tls.session_reused)

    def handshake(self) -> bool:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                if not self._flush() or not self._fill():
                    return False
            except OSError as error:
                self._flush()  # the alert that says why
                raise ConnectionError(f"TLS handshake failed: {error}") from None
            else:
                self.label = self._tls.version() or "tls"
                return self._flush()

    def receive_into(self, buffer: memoryview) -> int | None:
        while True:
            try:
                return self._tls.read(len(buffer), buffer)  # type: ignore[return-value]
            except ssl.SSLWantReadError:
                if not self._flush() or not self._fill():
                    return None
            except ssl.SSLZeroReturnError:
                return 0
            except OSError as error:
                raise broken(error) from error

    def send(self, data: bytes | memoryview) -> int | None:
        """After a None the next call is for the same bytes: they are on their way."""
        try:
            self._taken = self._taken or self._tls.write(data)
        except OSError as error:
            raise broken(error) from error
        if not self._flush():
            return None
        count, self._taken = self._taken, 0
        return count

    def close_notify(self) -> bool:
        """What is said to one who sends is short: it is not waited for."""
        try:
            self._tls.unwrap()
        except (OSError, ValueError):
            pass
        try:
            self._flush()
        except OSError:
            pass
        return True

    def shutdown(self) -> None:
        self.close_notify()
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def _fill(self) -> bool:
        """Read what came; False when nothing did.  Raises ConnectionError."""
        try:
            data = self.sock.recv(_PIECE)
        except BlockingIOError:
            self.wants = READABLE
            return False
        except OSError as error:
            raise broken(error) from error
        if data:
            self._came.write(data)
        else:
            self._came.write_eof()  # without close_notify; OpenSSL says so
        return True

    def _flush(self) -> bool:
        """Send what TLS wants to say; False when the socket takes no more.  ConnectionError."""
        if self._goes.pending:
            self._unsent += self._goes.read()
        while self._unsent:
            try:
                self._unsent = self._unsent[self.sock.send(self._unsent) :]
            except BlockingIOError:
                self.wants = WRITABLE
                return False
            except OSError as error:
                raise broken(error) from error
        return True
