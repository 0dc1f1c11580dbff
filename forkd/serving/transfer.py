"""Moving the bytes of one transfer, in bounded steps.

Receiver: socket -> staged file.  Sender: file -> socket.  Between plain sockets and files the
kernel moves the bytes (splice, sendfile); where a digest or TLS must see them they pass once
through a buffer.  A step moves at most its limit, for a bounded time, and waits for the peer only
briefly: who is slow is parked.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from forkd.digest import DIGEST_SIZE, BlockDigest
from forkd.errors import from_oserror
from forkd.protocol import BLOCK
from forkd.serving.throttle import FREE, Flow
from forkd.serving.transport import READABLE, WRITABLE, Transport, broken, wait_briefly
from forkd.storage.partials import Staged
from forkd.storage.sidecar import append

SMALL = 64 * 1024
"""Content up to this many bytes is moved on the loop's thread."""
STEP_BYTES = 64 * 1024 * 1024
"""A step moves no more where others wait for its thread, nor one system call anywhere."""
STEP_SECONDS = 1.0
"""How long a step may take where nobody waits: what is handed on less often moves faster."""
PATIENCE = 0.02
"""Seconds a step waits on its thread for the peer before the session is parked; none where threads
are scarce, or slow peers would hold them all."""
BUFFER = 1024 * 1024
_PIPE = 1024 * 1024
_FILL = 256 * 1024
_F_SETPIPE_SZ = 1031
_SPLICE = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK | os.SPLICE_F_MORE


class Pace(Enum):
    """How a step ended."""

    DONE = "all bytes of the step are moved"
    MORE = "the step's time is up, go on at once"
    BLOCKED = "the peer takes or gives nothing at the moment"
    EOF = "the peer has ended its side"
    PAUSE = "the user's bandwidth is used up until the flow's `until`"


@dataclass(frozen=True, slots=True)
class Step:
    """`moved` bytes, and how it ended."""

    moved: int
    pace: Pace


class Kit:
    """What one thread needs to move bytes: a buffer, and a pipe made on first use.

    `may_wait` tells whether the thread is to spare.
    """

    def __init__(self, may_wait: Callable[[], bool] = lambda: True) -> None:
        self.may_wait = may_wait
        self.buffer = memoryview(bytearray(BUFFER))
        self._pipe: tuple[int, int] | None = None

    def pipe(self) -> tuple[int, int]:
        """(read end, write end) of an empty pipe."""
        if self._pipe is None:
            self._pipe = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                fcntl.fcntl(self._pipe[1], _F_SETPIPE_SZ, _PIPE)
            except OSError:
                pass  # the user's pipe pages are used up: a smaller pipe works too
        return self._pipe

    def spoil_pipe(self) -> None:
        """Bytes are stuck in the pipe: the next transfer gets another."""
        if self._pipe is not None:
            for fd in self._pipe:
                os.close(fd)
            self._pipe = None


class Kits:
    """Kits for the threads of one process, made as they are needed and used again."""

    def __init__(self, may_wait: Callable[[], bool] = lambda: True) -> None:
        self._may_wait = may_wait
        self._idle: list[Kit] = []

    def take(self) -> Kit:
        try:
            return self._idle.pop()
        except IndexError:
            return Kit(self._may_wait)

    def give_back(self, kit: Kit) -> None:
        self._idle.append(kit)


class Turn:
    """How long one transfer keeps its thread."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit
        self._ends = time.monotonic() + STEP_SECONDS

    def is_over(self, moved: int) -> bool:
        """`moved` bytes since it began."""
        if time.monotonic() >= self._ends:
            return True
        return moved >= STEP_BYTES and not self._kit.may_wait()


class Receiver:
    """Writes an upload's content, in order, into its staged file."""

    def __init__(self, staged: Staged, path: str, flow: Flow = FREE) -> None:
        self.staged = staged
        self.flow = flow
        self.position = staged.held
        self.consumed = 0
        """Bytes that `pump` took from the socket, written or not."""
        self._path = path
        self._journaled = len(staged.digest.blocks) if staged.digest else 0

    @property
    def moved(self) -> int:
        """Bytes written since this receiver began."""
        return self.position - self.staged.held

    def absorb(self, data: bytes | memoryview) -> None:
        """Bytes that came together with a frame's head, out of what the flow gave.  Refusal."""
        self.flow.spend(len(data))
        self._write(memoryview(data))

    def pump(self, transport: Transport, limit: int, kit: Kit) -> Step:
        """Move at most `limit` bytes from the socket.  Raises Refusal, ConnectionError."""
        allowed = self.flow.take(limit)
        if not allowed:
            return Step(0, Pace.PAUSE)
        before = self.consumed
        try:
            return self._pump(transport, allowed, kit)
        finally:
            self.flow.spend(self.consumed - before)

    def _pump(self, transport: Transport, limit: int, kit: Kit) -> Step:
        return _paced(transport, limit, kit, lambda most: self.advance(transport, most, kit))

    def advance(self, transport: Transport, most: int, kit: Kit) -> int | None:
        """Move what is there, without waiting: bytes, 0 at the peer's end, None for nothing.

        Raises Refusal, ConnectionError.
        """
        if transport.kernel and self.staged.digest is None:
            return self._splice(transport, most, kit)
        return self._copy(transport, most, kit)

    def _splice(self, transport: Transport, most: int, kit: Kit) -> int | None:
        reader, writer = kit.pipe()
        try:
            count = os.splice(transport.sock.fileno(), writer, min(most, _PIPE), flags=_SPLICE)
        except BlockingIOError:
            transport.wants = READABLE
            return None
        except OSError as error:
            raise broken(error) from error
        self.consumed += count
        left = count
        try:
            while left:
                moved = os.splice(
                    reader, self.staged.fd, left, offset_dst=self.position, flags=os.SPLICE_F_MOVE
                )
                self.position += moved
                left -= moved
        except OSError as error:
            kit.spoil_pipe()
            raise from_oserror(error, self._path) from error
        return count

    def _copy(self, transport: Transport, most: int, kit: Kit) -> int | None:
        """Fill the buffer as far as bytes are there, then digest and write them together."""
        filled = 0
        target = min(most, _FILL if not transport.kernel else BUFFER)
        try:
            while filled < target:
                count = transport.receive_into(kit.buffer[filled : min(most, BUFFER)])
                if not count:
                    break
                filled += count
                self.consumed += count
                if transport.kernel:
                    break
        finally:  # also what came before the connection broke: the client may go on behind it
            if filled:
                self._write(kit.buffer[:filled])
        return filled or count

    def _write(self, data: memoryview) -> None:
        digest = self.staged.digest
        if digest is not None:
            digest.update(data)
        try:
            while data:
                count = os.pwrite(self.staged.fd, data, self.position)
                self.position += count
                data = data[count:]
            if digest is not None:
                self._journal(digest)
        except OSError as error:
            raise from_oserror(error, self._path) from error

    def _journal(self, digest: BlockDigest) -> None:
        """Keep the digests of blocks that are now complete in the file."""
        journal = self.staged.sidecar_fd
        if journal is None or digest.length // BLOCK * DIGEST_SIZE == self._journaled:
            return
        fresh = digest.blocks_after(self._journaled // DIGEST_SIZE)
        append(journal, fresh)
        self._journaled += len(fresh)


class Sender:
    """Sends `length` bytes of a file from `offset`."""

    def __init__(
        self,
        fd: int,
        offset: int,
        length: int,
        digest: BlockDigest | None,
        path: str = "",
        flow: Flow = FREE,
    ) -> None:
        self.flow = flow
        self._fd = fd
        self._path = path
        self._position = offset
        self.remaining = length
        self.digest = digest
        self._unsent = b""

    def pump(self, transport: Transport, limit: int, kit: Kit) -> Step:
        """Move at most `limit` bytes to the socket.

        Raises ConnectionError, ShortFileError, and Refusal where the file cannot be read.
        """
        allowed = self.flow.take(limit)
        if not allowed:
            return Step(0, Pace.PAUSE)
        before = self.remaining
        try:
            return self._pump(transport, allowed, kit)
        finally:
            self.flow.spend(before - self.remaining)

    def _pump(self, transport: Transport, limit: int, kit: Kit) -> Step:
        return _paced(transport, limit, kit, lambda most: self.advance(transport, most, kit))

    def advance(self, transport: Transport, most: int, kit: Kit) -> int | None:
        """Move what the socket takes, without waiting: bytes, or None for nothing.

        Raises like `pump`.
        """
        if transport.kernel and self.digest is None:
            return self._sendfile(transport, most)
        return self._copy(transport, most, kit)

    def _sendfile(self, transport: Transport, most: int) -> int | None:
        try:
            count = os.sendfile(transport.sock.fileno(), self._fd, self._position, most)
        except BlockingIOError:
            transport.wants = WRITABLE
            return None
        except OSError as error:
            if error.errno == errno.EIO:
                raise from_oserror(error, self._path) from error
            raise broken(error) from error
        if not count:
            raise ShortFileError
        self._position += count
        self.remaining -= count
        return count

    def _copy(self, transport: Transport, most: int, kit: Kit) -> int | None:
        if not transport.flush():
            return None
        if not self._unsent:
            size = min(most, transport.piece)
            try:
                count = os.preadv(self._fd, [kit.buffer[:size]], self._position)
            except OSError as error:
                raise from_oserror(error, self._path) from error
            if not count:
                raise ShortFileError
            if self.digest is not None:
                self.digest.update(kit.buffer[:count])
            self._position += count
            return self._send(transport, kit.buffer[:count])
        return self._send(transport, memoryview(self._unsent))

    def _send(self, transport: Transport, data: memoryview) -> int | None:
        sent = 0
        while sent < len(data):
            count = transport.send(data[sent:])
            if count is None:
                break
            sent += count
        self._unsent = bytes(data[sent:])
        self.remaining -= sent
        return sent or None


class ShortFileError(Exception):
    """The file became shorter while it was sent."""


def _paced(transport: Transport, limit: int, kit: Kit, move: Callable[[int], int | None]) -> Step:
    """Call `move(bytes at most)` until all are moved or it is the next one's turn."""
    moved, turn = 0, Turn(kit)
    while moved < limit:
        count = move(min(limit - moved, STEP_BYTES))
        if count is None:
            if not kit.may_wait() or not wait_briefly(transport, PATIENCE):
                return Step(moved, Pace.BLOCKED)
        elif count == 0:
            return Step(moved, Pace.EOF)
        else:
            moved += count
        if turn.is_over(moved):
            return Step(moved, Pace.MORE if moved < limit else Pace.DONE)
    return Step(moved, Pace.DONE)
