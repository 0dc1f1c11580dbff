"""The events of one account that a hook has not taken, in a file, behind the first that failed."""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass

import msgspec
from msgspec import Struct

from forkd.events.records import Intent

SUFFIX = ".lane"
FIRST_PAUSE = 0.25
LONGEST_PAUSE = 300.0

_LINE = 1024


def pause_after(failures: int) -> float:
    """Seconds between a failure, the n-th in a row, and the next try."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 1, 32))


class Deferred(Struct, frozen=True):
    """A line of a lane or of the dead letters; `since` is seconds since 1970."""

    since: float
    event: Intent


_decode = msgspec.json.Decoder(Deferred).decode


@dataclass(slots=True)
class Lane:
    """The events of one account that wait for the first of them; `at` is where that begins."""

    path: str
    at: int = 0
    size: int = 0
    failures: int = 0
    next_try: float = 0.0
    dirty: bool = False
    head: Deferred | None = None

    def append(self, events: list[Intent]) -> None:
        """Raises OSError."""
        now = time.time()
        lines = b"".join(msgspec.json.encode(Deferred(now, event)) + b"\n" for event in events)
        with open(self.path, "ab", buffering=0) as file:
            try:
                written = file.write(lines)
                if written != len(lines):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)
            except OSError:
                file.truncate(self.size)
                raise
        self.size += len(lines)
        self.dirty = True

    def first(self) -> Deferred | None:
        """Its head, None where it is empty.  Raises OSError."""
        while self.head is None and self.at < self.size:
            with open(self.path, "rb", buffering=_LINE) as file:
                file.seek(self.at)
                line = file.readline()
            try:
                self.head = _decode(line)
            except msgspec.MsgspecError:
                self.at += max(1, len(line))  # the torn end of a crash: it is told by its journal
        return self.head

    def advance(self) -> None:
        """Its head is settled.  Raises OSError."""
        with open(self.path, "rb", buffering=_LINE) as file:
            file.seek(self.at)
            self.at += len(file.readline())
        self.head = None

    def sync(self) -> None:
        if self.dirty:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fdatasync(fd)
            finally:
                os.close(fd)
            self.dirty = False


def end_line(path: str) -> int:
    """Have a file that a crash may have torn end with a line; its size in bytes."""
    with open(path, "rb+", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size and os.pread(file.fileno(), 1, size - 1) != b"\n":
            size += file.write(b"\n") or 0
    return size
