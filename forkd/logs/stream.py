"""A descriptor that lines are written to: a file, a pipe, a terminal.

Whole lines are written with a single write(2) to a descriptor opened for appending, so lines of
several processes never mix.  Nothing is waited for: what a pipe or terminal has no room for, or a
full disk does not take, is lost.
"""

from __future__ import annotations

import os
import select
import stat

from forkd.errors import StartError

STDERR = 2


def open_file(key: str, path: str) -> int:
    """A descriptor that appends to `path`.  Raises StartError naming the file."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o640)
    except OSError as error:
        raise StartError(f"{key} {path}: {error.strerror}") from None


class Stream:
    """Owns its descriptor, unless that is standard error."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._room = _watch_room(fd)
        self._torn = False

    def fileno(self) -> int:
        return self._fd

    def send(self, messages: list[bytes]) -> int:
        """Write whole lines at once; the number of those, from the first on, that were taken."""
        if self._room is not None and not self._room.poll(0):
            return 0
        text = b"".join(messages)
        if self._torn:
            text = b"\n" + text
        try:
            written = os.write(self._fd, text)
        except OSError:
            return 0
        if written == len(text):
            self._torn = False
            return len(messages)
        taken = text[:written].count(b"\n") - self._torn
        self._torn = True  # the rest of a line is missing: what comes next begins a new one
        return max(taken, 0)

    def close(self) -> None:
        if self._fd > STDERR:
            os.close(self._fd)
            self._fd = -1


def _watch_room(fd: int) -> select.poll | None:
    """Tells whether a pipe, terminal or socket takes a line at once; None for files."""
    try:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return None
    except OSError:
        return None
    room = select.poll()
    room.register(fd, select.POLLOUT)
    return room
