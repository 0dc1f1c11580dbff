"""The sidecar of a resumable partial: what was declared, then the digests of its whole blocks.

    one line of JSON (_Head), a newline, 32 bytes for each whole block

The digests are appended after the data of their block was written.  What a torn or missing sidecar
describes is unknown, and nobody resumes it.
"""

from __future__ import annotations

import errno
import functools
import os
from pathlib import Path

import msgspec
from msgspec import Struct

SUFFIX = b".j"
_HEAD_MAX = 32 * 1024


class Source(Struct, frozen=True):
    """What a client declared about an upload: a partial is resumed only by the same.

    `size` is in bytes, None where nobody knows before the end.
    """

    path: str
    client: str
    size: int | None
    tag: str
    check: bool
    digest: str | None


class Described(Struct, frozen=True):
    """What a sidecar says.  `digests` may end in a torn one."""

    source: Source
    boot: str
    digests: bytes

    @property
    def this_boot(self) -> bool:
        """Whether what was written to the data file is still what the kernel gives back."""
        return self.boot == boot_id()


class _Head(Struct, frozen=True):
    source: Source
    boot: str


@functools.cache
def boot_id() -> str:
    """Tells one boot of the machine from another; read once, see confine.py."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def create(folder: int, ident: bytes, source: Source) -> int:
    """A new sidecar, open for appending.  Raises OSError."""
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(ident + SUFFIX, flags, 0o600, dir_fd=folder)
    try:
        append(fd, _head(source))
    except BaseException:
        os.close(fd)
        raise
    return fd


def open_existing(folder: int, ident: bytes) -> int:
    """Raises OSError; FileNotFoundError where there is none."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(ident + SUFFIX, flags, dir_fd=folder)


def append(fd: int, data: bytes) -> None:
    """Write all of it.  Raises OSError, also where the disk takes a part only."""
    if os.write(fd, data) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read(fd: int) -> Described | None:
    """What it says, None where that cannot be understood.  Raises OSError."""
    data = os.pread(fd, os.fstat(fd).st_size, 0)
    line, newline, digests = data.partition(b"\n")
    if not newline or len(line) > _HEAD_MAX:
        return None
    try:
        head = msgspec.json.decode(line, type=_Head)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return Described(head.source, head.boot, digests)


def set_to(fd: int, source: Source, digests: bytes) -> None:
    """Make it say exactly this.  Raises OSError.

    Mostly a torn digest has to go: then what is right stays untouched, as the disk may be full.
    """
    wanted = _head(source) + digests
    found = os.pread(fd, os.fstat(fd).st_size, 0)
    if found == wanted:
        return
    if found.startswith(wanted):
        os.ftruncate(fd, len(wanted))
        return
    os.ftruncate(fd, 0)
    append(fd, wanted)


def drop(folder: int, ident: bytes) -> None:
    """From now on nobody resumes this object; nothing happens where there is none."""
    try:
        os.unlink(ident + SUFFIX, dir_fd=folder)
    except FileNotFoundError:
        pass


def describes(folder: int, ident: bytes) -> bool:
    """Whether there is a sidecar that can be understood."""
    try:
        fd = open_existing(folder, ident)
    except FileNotFoundError:
        return False
    try:
        return read(fd) is not None
    finally:
        os.close(fd)


def _head(source: Source) -> bytes:
    return msgspec.json.encode(_Head(source, boot_id())) + b"\n"
