"""One end of a link between master and child: messages in packets, never a wait.

Rules
  1. A link is a SOCK_SEQPACKET pair (unix(7)): a packet is a message, whole or not at all.
  2. Nothing here blocks.  What the kernel does not take at once is queued, up to a bound; a peer
     that reads nothing for so long is broken.
  3. EOF is not an error: the other process is gone, and its last messages are still delivered.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterable

import msgspec

from forkd.messages import LinkMessage, decode_link, encode

MAX_PACKET = 65536
"""Bytes of one message at most; a longer answer is cut into pages by its sender."""
QUEUE_MAX = 1024
"""Messages that wait for the peer to read."""


class Link:
    """One end.  `eof`: the peer is gone.  `fault`: why the link cannot be used any more, or ""."""

    def __init__(self, sock: socket.socket, unsent: Iterable[bytes] = ()) -> None:
        """`unsent` are packets that an earlier holder of this end could not send."""
        sock.setblocking(False)
        self._socket = sock
        self._queue: deque[bytes] = deque(unsent)
        self.eof = False
        self.fault = ""

    @property
    def wants_write(self) -> bool:
        """Whether messages wait: call `flush` when the socket takes bytes."""
        return bool(self._queue) and not self.fault and not self.eof

    @property
    def unsent(self) -> tuple[bytes, ...]:
        """The packets that wait."""
        return tuple(self._queue)

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: LinkMessage) -> None:
        """Send, or queue.  A dead peer swallows it; raises ValueError for a message too long."""
        packet = encode(message)
        if len(packet) > MAX_PACKET:
            raise ValueError(f"a message of {len(packet)} bytes does not fit in a packet")
        if self.fault or self.eof:
            return
        if len(self._queue) >= QUEUE_MAX:
            self.fault = f"does not read its messages ({QUEUE_MAX} wait)"
            return
        self._queue.append(packet)
        self.flush()

    def flush(self) -> None:
        """Hand queued messages to the kernel, as many as it takes."""
        while self.wants_write:
            try:
                self._socket.send(self._queue[0])
            except (BlockingIOError, InterruptedError):
                return
            except (BrokenPipeError, ConnectionResetError):
                # Its end is closed; what it sent before is still to be read, then EOF.
                self._queue.clear()
                return
            except OSError as error:
                self.fault = f"cannot be written to: {error.strerror}"
                return
            self._queue.popleft()

    def receive(self) -> list[LinkMessage]:
        """All messages that have arrived; afterwards look at `eof` and `fault`."""
        messages: list[LinkMessage] = []
        while not self.eof and not self.fault:
            try:
                packet, _, flags, _ = self._socket.recvmsg(MAX_PACKET)
            except (BlockingIOError, InterruptedError):
                break
            except ConnectionResetError:  # it died with our messages unread
                self.eof = True
                break
            except OSError as error:
                self.fault = f"cannot be read from: {error.strerror}"
                break
            if not packet:
                self.eof = True
            elif flags & socket.MSG_TRUNC:
                self.fault = f"sent a message of more than {MAX_PACKET} bytes"
            else:
                self._decode(packet, messages)
        return messages

    def _decode(self, packet: bytes, messages: list[LinkMessage]) -> None:
        try:
            messages.append(decode_link(packet))
        except msgspec.DecodeError as error:
            self.fault = f"sent what is no message: {error}"

    def close(self) -> None:
        self._socket.close()


def link_pair() -> tuple[socket.socket, socket.socket]:
    """The sockets of a new link, (master's, child's), both closed on exec."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
