"""Locks on single bytes of a file: open file description locks, F_OFD_SETLK in fcntl(2).

The kernel returns them when their owner dies, however it dies.  They exclude processes, not the
threads of one, and they are shared with whoever inherits the descriptor over a fork: open the file
after the fork.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import time
from types import TracebackType

_FLOCK = struct.Struct("hhqqi4x")  # type, whence, start, length, pid
_FIRST_PAUSE = 20e-6
_LONGEST_PAUSE = 2e-3
_YIELDS = 8


class ByteLocks:
    """The locks that one open file takes."""

    __slots__ = ("_fd", "_requests")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._requests: dict[int, tuple[bytes, bytes]] = {}

    def _request(self, at: int) -> tuple[bytes, bytes]:
        """(what locks, what unlocks) the byte; packed once, as this is on every upload's way."""
        made = self._requests.get(at)
        if made is None:
            made = _pack(fcntl.F_WRLCK, at), _pack(fcntl.F_UNLCK, at)
            self._requests[at] = made
        return made

    def try_lock(self, at: int) -> bool:
        """Take the lock; False when another open file has it.  At once when it is ours."""
        try:
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, self._request(at)[0])
        except BlockingIOError:
            return False
        return True

    def unlock(self, at: int) -> None:
        fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, self._request(at)[1])


class Patience:
    """The pauses between tries for what others hold for microseconds; at most `seconds` in all."""

    __slots__ = ("_ends", "_pause", "_tries")

    def __init__(self, seconds: float) -> None:
        self._ends = time.monotonic() + seconds
        self._pause = _FIRST_PAUSE
        self._tries = 0

    def wait(self) -> bool:
        """Pause; False when the time is up."""
        self._tries += 1
        if self._tries <= _YIELDS:
            os.sched_yield()
        else:
            time.sleep(self._pause)
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        return time.monotonic() < self._ends


class Held:
    """For `with`: one byte's lock, which excludes the threads that share `mutex` too.

    Entering raises TimeoutError when the lock is not had within `patience` seconds.
    """

    __slots__ = ("_at", "_locks", "_mutex", "_patience")

    def __init__(self, mutex: threading.Lock, locks: ByteLocks, at: int, patience: float) -> None:
        self._mutex = mutex
        self._locks = locks
        self._at = at
        self._patience = patience

    def __enter__(self) -> None:
        if not self._try():
            self._wait()

    def _try(self) -> bool:
        self._mutex.acquire()
        try:
            held = self._locks.try_lock(self._at)
        except BaseException:
            self._mutex.release()
            raise
        if not held:
            self._mutex.release()
        return held

    def _wait(self) -> None:
        """The mutex is free between the tries, so that the other accounts' uploads go on."""
        patience = Patience(self._patience)
        while patience.wait():
            if self._try():
                return
        raise TimeoutError("a lock is held by a process that stands still")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._locks.unlock(self._at)
        finally:
            self._mutex.release()


def is_locked(fd: int, at: int) -> bool:
    """Whether another open file has the lock of this byte."""
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _pack(fcntl.F_WRLCK, at))
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def _pack(kind: int, at: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, at, 1, 0)
