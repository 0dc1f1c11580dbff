"""A local file that is sent, watched while it is.

It is opened once and told from later versions of itself by device, inode, size and mtime.  What
was read of it is remembered as block digests, so that a resume within this process reads nothing
twice.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from forkd.client.errors import ChangedError, LocalError, printable
from forkd.digest import DIGEST_SIZE, BlockDigest
from forkd.protocol import BLOCK, INLINE_MAX

_SMALL_TRIES = 3
_DIGEST_STEP = 256 * 1024  # stays in the processor's cache between reading and hashing
_LATEST = 1e11  # what the protocol can tell


class Source:
    """An open regular file.  `size` is bytes, `mtime` seconds since 1970, both as first seen."""

    def __init__(self, fd: int, path: str, info: os.stat_result) -> None:
        self.fd = fd
        self.path = path
        self._info = info
        self._digest = BlockDigest()

    @property
    def size(self) -> int:
        return self._info.st_size

    @property
    def mtime(self) -> float:
        return _seconds(self._info)

    @property
    def tag(self) -> str:
        """Which version of the file this is."""
        info = self._info
        return f"{info.st_mtime_ns}-{info.st_size}-{info.st_ino}-{info.st_dev}"

    def fill(self, view: memoryview, offset: int) -> None:
        """Read exactly `view` from `offset`.  Raises ChangedError when the file is shorter now."""
        done = 0
        try:
            while done < len(view):
                count = os.preadv(self.fd, [view[done:]], offset + done)
                if not count:
                    raise self._changed()
                done += count
        except OSError as error:
            raise LocalError.of(error, self.path) from None

    def check_unchanged(self) -> None:
        """Raises ChangedError when the file is another one than when it was opened."""
        if _version(os.fstat(self.fd)) != _version(self._info):
            raise self._changed()

    def digest_to(self, offset: int) -> BlockDigest:
        """The digest of the first `offset` bytes, a multiple of BLOCK, open for more.

        Reads what was not read before.  Raises ChangedError, LocalError.
        """
        known = self._digest.blocks
        need = offset // BLOCK * DIGEST_SIZE
        digest = BlockDigest.from_blocks(known[:need])
        self.digest_range(digest, digest.length, offset - digest.length)
        self._digest = digest
        return digest

    def digest_range(self, digest: BlockDigest, offset: int, count: int) -> None:
        """Add `count` bytes from `offset` on to a digest.  Raises ChangedError, LocalError."""
        buffer = memoryview(bytearray(min(_DIGEST_STEP, count)))
        end = offset + count
        while offset < end:
            view = buffer[: end - offset]
            self.fill(view, offset)
            digest.update(view)
            offset += len(view)

    @property
    def digested(self) -> int:
        """Bytes that `digest_to` knows without reading."""
        return len(self._digest.blocks) // DIGEST_SIZE * BLOCK

    def _changed(self) -> ChangedError:
        return _changed(self.path)


class Small(NamedTuple):
    """The whole content of a small file, and its modification time in seconds since 1970."""

    data: bytes
    mtime: float


def read_small(path: str) -> Small:
    """Read a regular file of at most INLINE_MAX bytes.

    Raises ChangedError when it keeps changing, or has grown beyond that, and LocalError.
    """
    fd = _open(path)
    try:
        info = _regular(fd, path)
        for _ in range(_SMALL_TRIES):
            data = os.pread(fd, min(info.st_size, INLINE_MAX) + 1, 0)
            before, info = info, os.fstat(fd)
            if len(data) == info.st_size and _version(info) == _version(before):
                return Small(data, _seconds(info))
        raise _changed(path)
    except OSError as error:
        raise LocalError.of(error, path) from None
    finally:
        os.close(fd)


def _changed(path: str) -> ChangedError:
    return ChangedError(f"{printable(path)}: changed while it was sent; send it again")


def _seconds(info: os.stat_result) -> float:
    return max(-_LATEST, min(_LATEST, info.st_mtime_ns / 1e9))


def _version(info: os.stat_result) -> tuple[int, int, int, int]:
    return info.st_mtime_ns, info.st_size, info.st_ino, info.st_dev


@contextmanager
def open_source(path: str) -> Iterator[Source]:
    """Open a regular file to be sent.  Raises LocalError."""
    fd = _open(path)
    try:
        yield Source(fd, path, _regular(fd, path))
    finally:
        os.close(fd)


def _open(path: str) -> int:
    try:
        # O_NONBLOCK: a FIFO must not hold us up before it is told apart
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise LocalError.of(error, path) from None


def _regular(fd: int, path: str) -> os.stat_result:
    """What an open regular file is.  Raises LocalError for anything else."""
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        kind = "a folder (-r sends folders)" if stat.S_ISDIR(info.st_mode) else "no file"
        raise LocalError(f"{printable(path)}: is {kind}")
    return info
