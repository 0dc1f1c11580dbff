"""The staging folder: partials that can be resumed, and everything else on its way in or out.

Names of staged objects
    p<key>-<n>              a resumable partial; key = hash of path and client, n = 0..15
    p<key>-<n>.j            its sidecar (sidecar.py)
    s<slot>.<born>-<seq>    an upload that cannot be resumed; it lives as long as its process
    t<slot>.<born>-<seq>    a file being removed

`born` is when the process took its slot, in milliseconds since 1970: a pid comes again, in a
container with every start.

A partial belongs to whoever holds flock(2) on its data file; the kernel frees it with the process.
The file is the state: a partial is found by probing its sixteen names, and its length is what the
data file holds.  After a boot only what can be proven is trusted: blocks are digested again.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import os
import stat
from collections.abc import Container, Iterator
from dataclasses import dataclass
from enum import Enum

from msgspec import Struct

from forkd import syscalls
from forkd.digest import DIGEST_SIZE, BlockDigest
from forkd.errors import Refusal
from forkd.protocol import BLOCK
from forkd.storage import sidecar
from forkd.storage.localtree import FILE_MODE
from forkd.storage.sidecar import Source

_TRIES = 16
_READ_SLICE = 1024 * 1024


class Staged(Struct, frozen=True):
    """A staged object open for writing.  `held` bytes of it count; `digest` where checked.

    `on_disk` is what it held when it was opened, and what it is charged for.
    """

    ident: bytes
    fd: int
    held: int
    on_disk: int
    resumable: bool
    sidecar_fd: int | None = None
    digest: BlockDigest | None = None

    def close(self) -> None:
        """Close its descriptors; a partial is free for the next who resumes it."""
        os.close(self.fd)
        if self.sidecar_fd is not None:
            os.close(self.sidecar_fd)


def key_of(path: bytes, client: str) -> str:
    """The same upload of the same client has the same key."""
    text = len(path).to_bytes(4, "big") + path + client.encode("utf-8", "replace")
    return hashlib.blake2b(text, digest_size=16).hexdigest()


class Namer:
    """Names for a process's own staged objects, never used twice."""

    def __init__(self, slot: int, born: int) -> None:
        self._own = f"{slot}.{born}-".encode()
        self._next = itertools.count(1).__next__

    def upload(self) -> bytes:
        return b"s" + self._own + b"%d" % self._next()

    def removal(self) -> bytes:
        return b"t" + self._own + b"%d" % self._next()


def owner_of(ident: bytes) -> tuple[int, int] | None:
    """(slot, born) of the process that an "s" or "t" object belongs to."""
    slot, _, rest = ident[1:].partition(b".")
    born = rest.partition(b"-")[0]
    if ident[:1] not in (b"s", b"t") or not slot.isdigit() or not born.isdigit():
        return None
    return int(slot), int(born)


def charged_size(status: os.stat_result) -> int:
    """Bytes that an object is charged for: those of a regular file."""
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def create_own(folder: int, ident: bytes) -> Staged:
    """A fresh object of this process.  Raises OSError."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    return Staged(ident, os.open(ident, flags, FILE_MODE, dir_fd=folder), 0, 0, False)


class Fit(Enum):
    """What a partial that was found is to an upload."""

    FITS = "to be resumed"
    OTHER = "of another version of the source"
    SPOILED = "nothing tells what it is of"


@dataclass(frozen=True, slots=True)
class Found:
    """What is held of an upload and by nobody else; all of it is open and locked."""

    fitting: Staged | None
    others: tuple[Staged, ...]
    spoiled: tuple[Staged, ...]
    free: int | None
    """A number that no partial of this key has."""

    @property
    def all(self) -> list[Staged]:
        fitting = (self.fitting,) if self.fitting is not None else ()
        return [*self.others, *self.spoiled, *fitting]


def find(folder: int, source: Source, path: bytes) -> Found:
    """Look at the partials of this upload that nobody else holds.  Raises OSError."""
    key = key_of(path, source.client)
    free: int | None = None
    found: list[tuple[Staged, Fit]] = []
    try:
        for number in range(_TRIES):
            ident = f"p{key}-{number}".encode()
            if not os.access(ident, os.F_OK, dir_fd=folder):  # most are free: cheaper than to open
                free = number if free is None else free
                continue
            try:
                fd = open_locked(folder, ident, os.O_RDWR)
            except FileNotFoundError:
                free = number if free is None else free
            except BlockingIOError:
                pass
            else:
                found.append(_examine(folder, ident, fd, source))
    except BaseException:
        for staged, _ in found:
            staged.close()
        raise
    rank = _newness if source.size is None else _progress
    fits = sorted((staged for staged, fit in found if fit is Fit.FITS), key=rank)
    others = [staged for staged, fit in found if fit is Fit.OTHER]
    spoiled = tuple(staged for staged, fit in found if fit is Fit.SPOILED)
    return Found(fits[-1] if fits else None, (*others, *fits[:-1]), spoiled, free)


def _progress(staged: Staged) -> int:
    return staged.held


def _newness(staged: Staged) -> int:
    """Who does not know how long his upload is went on with the last one, not the longest."""
    return os.fstat(staged.fd).st_mtime_ns


def create(
    folder: int,
    source: Source,
    path: bytes,
    number: int | None,
    passed_over: Container[bytes] = (),
) -> Staged:
    """A new resumable partial with its sidecar, none of `passed_over`.

    Raises OSError, Refusal (busy).
    """
    key = key_of(path, source.client)
    for candidate in range(_TRIES) if number is None else itertools.chain((number,), range(_TRIES)):
        ident = f"p{key}-{candidate}".encode()
        if ident in passed_over:
            continue
        try:
            fd = open_locked(folder, ident, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        except (FileExistsError, BlockingIOError, FileNotFoundError):
            continue
        try:
            described = sidecar.create(folder, ident, source)
        except BaseException:
            drop(folder, ident)
            os.close(fd)
            raise
        return Staged(ident, fd, 0, 0, True, described, BlockDigest() if source.check else None)
    raise Refusal("busy", "too many uploads of this file are under way at once; try again later")


def open_locked(folder: int, ident: bytes, flags: int = os.O_RDWR) -> int:
    """Open and hold a partial.  FileNotFoundError: it is gone, BlockingIOError: somebody has it."""
    fd = os.open(ident, flags | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE, dir_fd=folder)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        named = os.stat(ident, dir_fd=folder, follow_symlinks=False)
        if named.st_ino != os.fstat(fd).st_ino:
            raise FileNotFoundError(ident)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _examine(folder: int, ident: bytes, fd: int, source: Source) -> tuple[Staged, Fit]:
    """A locked partial, which from now on owns `fd`, and what it is to this source."""
    described: int | None = None
    try:
        on_disk = os.fstat(fd).st_size
        try:
            described = sidecar.open_existing(folder, ident)
        except FileNotFoundError:
            return Staged(ident, fd, 0, on_disk, True), Fit.SPOILED
        told = sidecar.read(described)
        if told is None or told.source != source:
            other = Staged(ident, fd, 0, on_disk, True, described)
            return other, Fit.OTHER if told else Fit.SPOILED
        if not _kept(fd):
            return Staged(ident, fd, 0, on_disk, True, described), Fit.SPOILED
        most = on_disk if source.size is None else min(on_disk, source.size)
        held = most if told.this_boot else 0
        digest: BlockDigest | None = None
        if source.check:
            whole = most // BLOCK
            digests = told.digests[: min(whole, len(told.digests) // DIGEST_SIZE) * DIGEST_SIZE]
            digest = BlockDigest.from_blocks(digests if told.this_boot else _prove(fd, digests))
            held = digest.length
        return Staged(ident, fd, held, on_disk, True, described, digest), Fit.FITS
    except BaseException:
        os.close(fd)
        if described is not None:
            os.close(described)
        raise


def _kept(fd: int) -> bool:
    """Whether the disk took what was written before.  After the failure of a write the kernel may
    show what it could not write, or what was there before: neither is to be gone on with."""
    try:
        os.fdatasync(fd)
    except OSError:
        return False
    return True


def spoil(staged: Staged) -> bool:
    """Let nobody resume a partial that cannot be removed; False where that fails too."""
    try:
        if staged.sidecar_fd is not None:
            os.ftruncate(staged.sidecar_fd, 0)
    except OSError:
        return False
    return True


def cut(staged: Staged, source: Source) -> None:
    """Make data and sidecar say exactly what is held; its bytes are charged by now."""
    assert staged.sidecar_fd is not None
    if staged.held != staged.on_disk:
        os.ftruncate(staged.fd, staged.held)
    digests = staged.digest.blocks if staged.digest is not None else b""
    sidecar.set_to(staged.sidecar_fd, source, digests)


def _prove(fd: int, digests: bytes) -> bytes:
    """The leading block digests that the data still has, read again."""
    for at in range(0, len(digests), DIGEST_SIZE):
        start = at // DIGEST_SIZE * BLOCK
        block = hashlib.sha256()
        for offset in range(start, start + BLOCK, _READ_SLICE):
            block.update(os.pread(fd, _READ_SLICE, offset))
        if block.digest() != digests[at : at + DIGEST_SIZE]:
            return digests[:at]
    return digests


def make_own(folder: int, ident: bytes, own: bytes) -> None:
    """Turn a partial we hold into an object of this process.  Raises OSError.

    Its sidecar goes first: whoever makes a new partial of the old name has one of his own.
    """
    sidecar.drop(folder, ident)
    syscalls.rename(folder, ident, folder, own, syscalls.RENAME_NOREPLACE)


def drop(folder: int, ident: bytes) -> bool:
    """Remove a staged object and its sidecar; False where there was no object.  Raises OSError."""
    if ident.startswith(b"p"):
        sidecar.drop(folder, ident)
    try:
        os.unlink(ident, dir_fd=folder)
    except FileNotFoundError:
        return False
    return True


def size_on_disk(folder: int, ident: bytes) -> int:
    """Bytes that a staged object is charged for, 0 where there is none."""
    try:
        return charged_size(os.stat(ident, dir_fd=folder, follow_symlinks=False))
    except FileNotFoundError:
        return 0


def is_resumable(folder: int, ident: bytes) -> bool:
    """Whether this is a partial that its sidecar describes."""
    return ident.startswith(b"p") and sidecar.describes(folder, ident)


def staged_objects(folder: int) -> Iterator[tuple[bytes, os.stat_result]]:
    """Every object in a staging folder (not the sidecars) with its status."""
    with os.scandir(folder) as entries:
        for entry in entries:
            name = os.fsencode(entry.name)
            if name.endswith(sidecar.SUFFIX):
                continue
            try:
                yield name, entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue


def drop_orphan_sidecars(folder: int) -> None:
    """Remove the sidecars of objects that are no more.  Raises OSError."""
    with os.scandir(folder) as entries:
        names = {os.fsencode(entry.name) for entry in entries}
    for name in names:
        ident = name.removesuffix(sidecar.SUFFIX)
        if ident == name or ident in names:
            continue
        try:
            os.stat(ident, dir_fd=folder, follow_symlinks=False)  # it may be just made
        except FileNotFoundError:
            sidecar.drop(folder, ident)
