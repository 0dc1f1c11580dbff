"""Bytes in and out of one socket, as a thing that never blocks; tls.py has the one in TLS.

Whoever uses a Wire sends and receives what goes without waiting, then `wait`s for more to go.  A
server that lives but does nothing is found by `stall`.
"""

from __future__ import annotations

import os
import select
import socket
from collections import deque
from contextlib import suppress
from itertools import islice

from forkd.client.errors import LostError

_IOV_MAX = 64
_SENDFILE_STEP = 4 << 20
BROKEN = select.POLLERR | select.POLLHUP | select.POLLNVAL


class Wire:
    """A connected, non-blocking socket.  Every method raises LostError when it broke."""

    encrypted = False
    """Whether the bytes travel in TLS: then the kernel cannot move them to and from files."""

    def __init__(self, sock: socket.socket, peer: str, stall: float) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._fd = sock.fileno()
        self._peer = peer
        self._stall = stall
        self._poll = select.poll()
        self._poll.register(self._fd, 0)

    def receive(self, buffer: memoryview) -> int | None:
        """Bytes read into `buffer`; None when none are there yet."""
        try:
            count = self._sock.recv_into(buffer)
        except BlockingIOError:
            return None
        except OSError as error:
            raise self._lost(error) from None
        if not count:
            raise self._ended()
        return count

    def send(self, pieces: deque[memoryview]) -> int:
        """Bytes of `pieces`, from the first on, that went; 0 when none go at the moment."""
        try:
            if len(pieces) == 1:
                return self._sock.send(pieces[0])
            return self._sock.sendmsg(list(islice(pieces, _IOV_MAX)))
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._lost(error) from None

    def sendfile(self, fd: int, offset: int, count: int) -> int | None:
        """sendfile(2): bytes that went; 0 at the end of the file, None when none go now."""
        try:
            return os.sendfile(self._fd, fd, offset, min(count, _SENDFILE_STEP))
        except BlockingIOError:
            return None
        except OSError as error:
            raise self._lost(error) from None

    def splice(self, pipe: int, count: int) -> int | None:
        """splice(2) into an empty pipe: bytes that went; None when none are there yet."""
        try:
            moved = os.splice(self._fd, pipe, count)
        except BlockingIOError:
            return None
        except OSError as error:
            raise self._lost(error) from None
        if not moved:
            raise self._ended()
        return moved

    def wait(self, *, write: bool) -> tuple[bool, bool]:
        """Wait until (readable, writable).  `write`: whether there is something to write."""
        seen = self._ready(select.POLLIN | select.POLLOUT if write else select.POLLIN)
        if seen & BROKEN:
            return True, write
        return bool(seen & select.POLLIN), bool(seen & select.POLLOUT)

    def interrupt(self) -> None:
        """End the connection from another thread: whoever waits on it gets LostError."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    def _ready(self, mask: int) -> int:
        """The events of poll(2) that happened.  Raises LostError when none did for too long."""
        self._poll.modify(self._fd, mask)
        ready = self._poll.poll(self._stall * 1000)
        if not ready:
            raise LostError(f"nothing moved for {self._stall:.0f} s to or from {self._peer}")
        return ready[0][1]

    def _ended(self) -> LostError:
        return LostError(f"{self._peer} closed the connection")

    def _lost(self, error: OSError) -> LostError:
        return LostError(f"the connection to {self._peer} broke: {words(error)}")


def words(error: OSError) -> str:
    """An error of a socket in few words."""
    if isinstance(error, TimeoutError):
        return "no answer"
    return error.strerror or str(error)
