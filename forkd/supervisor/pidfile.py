"""Files that say who runs here, and are believed for their lock and not for their content.

flock(2) belongs to the open file: it survives the forks of detaching, and it is gone when the last
process that has the file open is gone.  So a child must close it, and a file left over by a crash
is stale by itself.
"""

from __future__ import annotations

import fcntl
import os
import time
from types import TracebackType

from forkd.errors import StartError


class AlreadyRunningError(Exception):
    """Another daemon holds the file; `pid` is what it wrote into it, or 0."""

    def __init__(self, path: str, pid: int) -> None:
        who = f"process {pid}" if pid else "another process"
        super().__init__(f"forkd is running already: {who} holds {path}")
        self.pid = pid


class LockFile:
    """A file whose lock is held, and that tells the holder's pid."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self._fd = fd

    @classmethod
    def acquire(cls, path: str, patience: float = 0.5) -> LockFile:
        """Lock the file, making it where it is missing.

        A child that was just forked may hold a killed daemon's lock for a moment: `patience` is how
        many seconds to wait for it.  Raises AlreadyRunningError, or StartError naming the file.
        """
        end = time.monotonic() + patience
        while True:
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            except OSError as error:
                raise StartError(f"{path}: {error.strerror}") from None
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(fd, path):  # not removed while we waited for it
                    return cls(path, fd)
            except BlockingIOError:
                if time.monotonic() >= end:
                    pid = _read_pid(fd)
                    os.close(fd)
                    raise AlreadyRunningError(path, pid) from None
                time.sleep(0.02)
            os.close(fd)

    def fileno(self) -> int:
        return self._fd

    def write_pid(self) -> None:
        """Write the pid of the calling process; after a fork, call it again."""
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Let go of the file and, if no other process has it open, of the lock."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class PidFile:
    """`server.pidfile`, in the form python-daemon enters and leaves: written on the way in, removed
    on the way out by the process that wrote it."""

    def __init__(self, lock: LockFile) -> None:
        self.lock = lock
        self._writer = 0

    def __enter__(self) -> PidFile:
        self.lock.write_pid()
        self._writer = os.getpid()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer == os.getpid():
            self._writer = 0
            self.discard()
        else:
            self.lock.close()

    def discard(self) -> None:
        """Remove the file, which nobody else can hold, and let go of it."""
        try:
            os.unlink(self.lock.path)
        except OSError:
            pass
        self.lock.close()


def _is_at(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def _read_pid(fd: int) -> int:
    text = os.pread(fd, 32, 0).strip()
    return int(text) if text.isdigit() else 0
