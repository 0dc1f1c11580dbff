"""One end of a link between master and child: messages in packets, never a wait.

Rules
  1. A link is a SOCK_SEQPACKET pair (unix(7)): a packet is a message, whole or not at all.
  2. Nothing here blocks.  What the kernel does not take at once is queued, up to a bound; a peer
     that reads nothing for so long is broken.
  3. Descriptors go from master to child only; what a child would attach, the kernel drops.
  4. EOF is not an error: the other process is gone, and its last messages are still delivered.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Iterable, Sequence

import msgspec

from forkd.messages import LinkMessage, decode_link, encode

MAX_PACKET = 65536
"""Bytes of one message at most; a longer answer is cut into pages by its sender."""
QUEUE_MAX = 1024
"""Messages that wait for the peer to read."""


_Packet = tuple[bytes, tuple[int, ...]]
"""A message, and descriptors of ours that go with it."""


class Link:
    """One end.  `eof`: the peer is gone.  `fault`: why the link cannot be used any more, or ""."""

    def __init__(self, sock: socket.socket, unsent: Iterable[bytes] = ()) -> None:
        """`unsent` are packets that an earlier holder of this end could not send."""
        sock.setblocking(False)
        self._socket = sock
        self._queue: deque[_Packet] = deque((text, ()) for text in unsent)
        self.eof = False
        self.fault = ""

    @property
    def wants_write(self) -> bool:
        """Whether messages wait: call `flush` when the socket takes bytes."""
        return bool(self._queue) and not self.fault and not self.eof

    @property
    def unsent(self) -> tuple[bytes, ...]:
        """The packets that wait, but those with descriptors."""
        return tuple(packet for packet, files in self._queue if not files)

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: LinkMessage, files: Sequence[int] = ()) -> None:
        """Send, or queue.  A dead peer swallows it; raises ValueError for a message too long.

        The peer gets duplicates of the descriptors `files`; raises OSError without room for them.
        """
        packet = encode(message)
        if len(packet) > MAX_PACKET:
            raise ValueError(f"a message of {len(packet)} bytes does not fit in a packet")
        if self.fault or self.eof:
            return
        if len(self._queue) >= QUEUE_MAX:
            self.fault = f"does not read its messages ({QUEUE_MAX} wait)"
            return
        self._queue.append((packet, tuple(map(os.dup, files))))
        self.flush()

    def flush(self) -> None:
        """Hand queued messages to the kernel, as many as it takes."""
        while self.wants_write:
            try:
                packet, files = self._queue[0]
                socket.send_fds(self._socket, [packet], files)
            except (BlockingIOError, InterruptedError):
                return
            except (BrokenPipeError, ConnectionResetError):
                # Its end is closed; what it sent before is still to be read, then EOF.
                self._forget()
                return
            except OSError as error:
                self.fault = f"cannot be written to: {error.strerror}"
                return
            _close_all(self._queue.popleft()[1])

    def _forget(self) -> None:
        while self._queue:
            _close_all(self._queue.popleft()[1])

    def receive(self) -> list[LinkMessage]:
        """All messages that have arrived; afterwards look at `eof` and `fault`."""
        messages: list[LinkMessage] = []
        while not self.eof and not self.fault:
            try:
                packet, flags, files = self._take_packet()
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
                self._decode(packet, files, messages)
        return messages

    def _take_packet(self) -> tuple[bytes, int, list[int]]:
        """(the packet, its flags, descriptors that came with it)."""
        packet, _, flags, _ = self._socket.recvmsg(MAX_PACKET)
        return packet, flags, []

    def _decode(self, packet: bytes, files: list[int], messages: list[LinkMessage]) -> None:
        try:
            message = self._taken(decode_link(packet), files)
        except msgspec.DecodeError as error:
            self.fault = f"sent what is no message: {error}"
            return
        if message is not None:
            messages.append(message)

    def _taken(self, message: LinkMessage, files: list[int]) -> LinkMessage | None:  # noqa: ARG002
        """What `receive` tells of a message; None where it is dealt with."""
        return message

    def close(self) -> None:
        self._forget()
        self._socket.close()


def _close_all(files: Iterable[int]) -> None:
    for fd in files:
        os.close(fd)


def link_pair() -> tuple[socket.socket, socket.socket]:
    """The sockets of a new link, (master's, child's), both closed on exec."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
