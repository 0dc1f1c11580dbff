"""TLS for a connection that moves one content and then ends.

OpenSSL makes two system calls for each record of 16 KiB that it reads, and one for each that it
writes.  Here it works in memory, and the socket is read and written in large pieces: a fifth less
processor time.  What it has once needed it keeps, so a connection that lives on is better off with
`transport.Tls`.
"""

from __future__ import annotations

import socket
import ssl

from forkd.serving.transport import READABLE, WRITABLE, broken

_READ = 512 * 1024
"""Bytes of one read at most: who sends slowly has no more of them in memory than came."""
_RECORD = 16 * 1024
"""Bytes of content in a record at most (RFC 8446 section 5.1)."""
_FILLS = 2
"""Reads for one answer: a peer may send records without content (KeyUpdate) for ever."""
_NOTHING = memoryview(b"")
_LEAST, _MOST = 64 * 1024, 768 * 1024
"""Bytes that are enciphered at once; see `BulkTls.piece`."""


class BulkTls:
    """See transport.Transport."""

    kernel = False

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        """Takes the socket over.  Raises ConnectionError, and closes it then."""
        self.sock = sock
        self.wants = READABLE
        self.label = "tls"
        self.piece = _LEAST
        """Grows while the peer takes what is sent at once, and shrinks when he does not: of a slow
        peer's content little waits in memory."""
        self._came = ssl.MemoryBIO()
        self._goes = ssl.MemoryBIO()
        self._unsent = _NOTHING
        self._fault: ConnectionError | None = None
        """What is told once the content that came before it is taken."""
        try:
            self._tls = context.wrap_bio(self._came, self._goes, server_side=True)
        except OSError as error:
            sock.close()
            raise broken(error) from error

    @property
    def resumed(self) -> bool:
        return bool(self._tls.session_reused)

    @property
    def unsent(self) -> int:
        return len(self._unsent) + self._goes.pending

    def handshake(self) -> bool:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                if not self.flush() or not self._fill(_NOTHING):
                    return False
            except OSError as error:
                self.flush()  # the alert that says why
                raise ConnectionError(f"TLS handshake failed: {error}") from None
            else:
                self.label = self._tls.version() or "tls"
                return self.flush()

    def receive_into(self, buffer: memoryview) -> int | None:
        for _ in range(_FILLS):
            count = self._decipher(buffer)
            if count is not None:
                return count
            if not self.flush() or not self._fill(buffer):
                return None
        self.wants = READABLE
        return self._decipher(buffer)

    def _decipher(self, buffer: memoryview) -> int | None:
        """Whole records, as many as came and as there is room for; None when there is none."""
        if self._fault is not None:
            raise self._fault
        got = 0
        try:
            while got < len(buffer):
                rest = buffer[got:]
                count: int = self._tls.read(len(rest), rest)  # type: ignore[assignment]
                if not count:
                    break
                got += count
        except ssl.SSLWantReadError:
            return got or None
        except ssl.SSLZeroReturnError:
            pass
        except OSError as error:
            self._fault = broken(error)
            if not got:
                raise self._fault from error
        return got

    def send(self, data: bytes | memoryview) -> int | None:
        """Takes `piece` bytes at most, and none while of those before some are not sent."""
        if not self.flush():
            return None
        taken, most = 0, min(len(data), self.piece)
        rest = memoryview(data)[:most]
        try:
            while taken < most:
                taken += self._tls.write(rest[taken:])
        except OSError as error:
            raise broken(error) from error
        self.piece = min(_MOST, self.piece * 2) if self.flush() else _LEAST
        return taken

    def flush(self) -> bool:
        while self._unsent or self._goes.pending:
            if not self._unsent:
                self._unsent = memoryview(self._goes.read())
            try:
                self._unsent = self._unsent[self.sock.send(self._unsent) :]
            except BlockingIOError:
                self.wants = WRITABLE
                return False
            except OSError as error:
                raise broken(error) from error
        return True

    def close_notify(self) -> bool:
        try:
            self._tls.unwrap()
        except (OSError, ValueError):
            pass  # ours is said and the peer's is not awaited, or there is nobody any more
        return self.flush()

    def shutdown(self) -> None:
        try:
            self.close_notify()
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def _fill(self, room: memoryview) -> bool:
        """Read what came, in passing into `room` where that is large enough.

        False when nothing came.  Raises ConnectionError.
        """
        data: bytes | memoryview
        try:
            if len(room) < _RECORD:
                data = self.sock.recv(_RECORD)
            else:
                data = room[: self.sock.recv_into(room[:_READ])]
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
