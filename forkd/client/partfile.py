"""A download that is not complete yet: `NAME.forkc-part` beside its target.

    NAME.forkc-part        the bytes
    NAME.forkc-part.json   where they come from, the remote size and mtime, how many are verified

Only one client at a time writes a part (flock).  Bytes are flushed before the sidecar counts them
as verified, so that it is right after a power cut too.  At the end: fsync, rename to NAME.
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

import msgspec

from forkd.client.beside import Beside
from forkd.client.errors import LocalError, printable
from forkd.client.pipe import Pipe
from forkd.client.place import Outlet, place_of
from forkd.client.settings import write_atomically
from forkd.protocol import BLOCK

_SUFFIX = ".forkc-part"
_NAME_MAX = 255
_MARK_EVERY = 2.0
_LATEST = 1e11
T = TypeVar("T")


class _Sidecar(msgspec.Struct, frozen=True):
    origin: str
    size: int
    mtime: float
    verified: int


def part_path(target: str) -> str:
    """Where the part of a download is; shortened where the file system's limit demands it."""
    folder, name = os.path.split(target)
    raw = os.fsencode(name)
    if len(raw) + len(_SUFFIX) + 40 > _NAME_MAX:  # 40: sidecar and its temporary
        name = os.fsdecode(raw[:64]) + hashlib.sha256(raw).hexdigest()[:32]
    return os.path.join(folder, name + _SUFFIX)


class PartFile:
    """An open part, locked.  `verified` bytes from the start are known to be right.

    Its methods raise LocalError.
    """

    def __init__(self, target: str, origin: str) -> None:
        self.target = target
        self.path = part_path(target)
        self._origin = origin
        self._fd = _open_locked(self.path)
        self._marking = Beside()
        self._marked_at = time.monotonic()
        found = self._load()
        self._published = False
        self.size = found.size if found else None
        self.mtime = found.mtime if found else 0.0
        self.verified = _resumable(found) if found else 0

    def adopt(self, size: int, mtime: float) -> None:
        """The remote file is this one; what is held of another one is dropped."""
        if (self.size, self.mtime) != (size, mtime):
            self.verified = 0
        self.size, self.mtime = size, mtime
        self._do(lambda: os.ftruncate(self._fd, self.verified))

    def write(self, view: memoryview, offset: int) -> None:
        """Write a piece of the content."""
        done = 0
        while done < len(view):
            rest = partial(os.pwrite, self._fd, view[done:], offset + done)
            done += self._do(rest)

    def write_from(self, pipe: Pipe, count: int, offset: int) -> None:
        """Write the `count` bytes that are in a pipe."""
        self._do(partial(pipe.empty, self._fd, offset, count))

    def advance(self, verified: int) -> None:
        """Everything up to `verified` bytes is there and right."""
        self.verified = verified
        now = time.monotonic()
        if now - self._marked_at < _MARK_EVERY or not self._marking.idle:
            return
        self._marked_at = now
        self._marking.begin(partial(self._mark, verified))

    def publish(self) -> None:
        """The content is complete: flush it and give it its name."""
        self._marking.wait()
        mtime = to_ns(self.mtime)
        self._do(lambda: os.ftruncate(self._fd, self.verified))
        self._do(lambda: os.utime(self._fd, ns=(mtime, mtime)))
        self._do(lambda: os.fsync(self._fd))
        self._do(lambda: os.rename(self.path, self.target))
        self._published = True
        with suppress(OSError):
            os.unlink(self.path + ".json")
        _sync_folder(self.target)

    def close(self) -> None:
        """Leave an unfinished part for a later resume; one without a verified byte is removed."""
        try:
            self._marking.wait()
            if self._published:
                return
            if self.verified:
                self._mark(self.verified)
                return
            for path in (self.path, self.path + ".json"):
                with suppress(OSError):
                    os.unlink(path)
        finally:
            self._marking.close()
            os.close(self._fd)

    def _mark(self, verified: int) -> None:
        self._do(lambda: os.fdatasync(self._fd))
        size = self.size or 0
        note = _Sidecar(self._origin, size, self.mtime, verified)
        write_atomically(self.path + ".json", msgspec.json.encode(note).decode())

    def _load(self) -> _Sidecar | None:
        try:
            with open(self.path + ".json", "rb") as file:
                note = msgspec.json.decode(file.read(65536), type=_Sidecar)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return None
        held = os.fstat(self._fd).st_size
        if note.origin != self._origin or not 0 <= note.verified <= min(held, note.size):
            return None
        return note

    def _do(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except OSError as error:
            raise LocalError.of(error, self.target) from None


def _resumable(found: _Sidecar) -> int:
    """Where to go on: at the end of a block, or of the file."""
    return found.verified if found.verified == found.size else found.verified // BLOCK * BLOCK


def _open_locked(path: str) -> int:
    while True:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise LocalError.of(error, path) from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), os.lstat(path)):
                    return fd
        except OSError:
            os.close(fd)
            raise LocalError(f"{printable(path)}: another forkc is writing it") from None
        os.close(fd)  # its last owner has just published or removed it


def _sync_folder(target: str) -> None:
    with suppress(OSError):
        fd = os.open(os.path.dirname(target) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def to_ns(mtime: float) -> int:
    """Seconds since 1970 as nanoseconds; what no file system could hold is cut."""
    whole = math.floor(max(-_LATEST, min(_LATEST, mtime)))
    return whole * 10**9 + round((mtime - whole) * 1e9) if abs(mtime) <= _LATEST else whole * 10**9


def write_small(target: str, data: bytes | bytearray, mtime: float) -> None:
    """Put a small file in place by rename.  It is not flushed: the server still has it.

    A device or FIFO is written through.  Raises LocalError.
    """
    place = place_of(target)
    if place.stream:
        with Outlet(place.path) as outlet:
            outlet.write(memoryview(data))
        return
    path = part_path(place.path)
    mtime_ns = to_ns(mtime)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(path, flags, 0o666)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.utime(fd, ns=(mtime_ns, mtime_ns))
        finally:
            os.close(fd)
        os.rename(path, place.path)
    except OSError as error:
        with suppress(OSError):
            os.unlink(path)
        raise LocalError.of(error, target) from None
