"""The staging folder: partials that can be resumed, and everything else on its way in or out.

Names of staged objects
    p<key>-<n>              a resumable partial; key = hash of path and client, n = 0..15
    p<key>-<n>.j            its sidecar: what was declared, then the digests of its whole blocks
    s<slot>.<pid>-<seq>     an upload that cannot be resumed; it lives as long as its process
    t<slot>.<pid>-<seq>     a file being removed

A partial belongs to whoever holds flock(2) on its data file; the kernel frees it with the process.
The file is the state: a partial is found by probing its sixteen names, and its length is what the
data file holds.  After a boot only what can be proven is trusted: blocks are digested again.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec import Struct

from forkd.digest import DIGEST_SIZE, BlockDigest
from forkd.errors import Refusal
from forkd.protocol import BLOCK
from forkd.store import FILE_MODE

_TRIES = 16
_SIDECAR = b".j"
_HEAD_MAX = 32 * 1024
_READ_SLICE = 1024 * 1024


class Source(Struct, frozen=True):
    """What a client declared about an upload: a partial is resumed only by the same."""

    path: str
    client: str
    size: int
    tag: str
    check: bool
    digest: str | None


class _Head(Struct, frozen=True):
    source: Source
    boot: str


@dataclass(frozen=True, slots=True)
class Staged:
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


@functools.cache
def boot_id() -> str:
    """The id of this boot; it does not change while a process lives."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def key_of(path: bytes, client: str) -> str:
    """The same upload of the same client has the same key."""
    text = len(path).to_bytes(4, "big") + path + client.encode("utf-8", "replace")
    return hashlib.blake2b(text, digest_size=16).hexdigest()


class Namer:
    """Names for a process's own staged objects, never used twice."""

    def __init__(self, slot: int) -> None:
        self._own = f"{slot}.{os.getpid()}-".encode()
        self._next = itertools.count(1).__next__

    def upload(self) -> bytes:
        return b"s" + self._own + b"%d" % self._next()

    def removal(self) -> bytes:
        return b"t" + self._own + b"%d" % self._next()


def owner_of(ident: bytes) -> tuple[int, int] | None:
    """(slot, pid) of the process that an "s" or "t" object belongs to."""
    slot, _, rest = ident[1:].partition(b".")
    pid = rest.partition(b"-")[0]
    if ident[:1] not in (b"s", b"t") or not slot.isdigit() or not pid.isdigit():
        return None
    return int(slot), int(pid)


def create_own(folder: int, ident: bytes) -> Staged:
    """A fresh object of this process.  Raises OSError."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    return Staged(ident, os.open(ident, flags, FILE_MODE, dir_fd=folder), 0, 0, False)


@dataclass(frozen=True, slots=True)
class Found:
    """What is held of an upload: at most one partial to resume, others that do not fit."""

    fitting: Staged | None
    others: tuple[Staged, ...]
    free: int | None
    """A number that no partial of this key has."""


def find(folder: int, source: Source, path: bytes) -> Found:
    """Look at the partials of this upload that nobody else holds.  Raises OSError."""
    key = key_of(path, source.client)
    fitting: Staged | None = None
    others: list[Staged] = []
    free: int | None = None
    for number in range(_TRIES):
        ident = f"p{key}-{number}".encode()
        try:
            fd = open_locked(folder, ident, os.O_RDWR)
        except FileNotFoundError:
            free = number if free is None else free
            continue
        except BlockingIOError:
            continue
        candidate = _resume(folder, ident, fd, source)
        if candidate is not None and (fitting is None or candidate.held > fitting.held):
            if fitting is not None:
                others.append(fitting)
            fitting = candidate
        else:
            others.append(candidate or Staged(ident, fd, 0, os.fstat(fd).st_size, True))
    return Found(fitting, tuple(others), free)


def create(folder: int, source: Source, path: bytes, number: int | None) -> Staged:
    """A new resumable partial with its sidecar.  Raises OSError, Refusal (busy)."""
    key = key_of(path, source.client)
    for candidate in range(_TRIES) if number is None else itertools.chain((number,), range(_TRIES)):
        ident = f"p{key}-{candidate}".encode()
        try:
            fd = open_locked(folder, ident, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        except (FileExistsError, BlockingIOError, FileNotFoundError):
            continue
        try:
            sidecar = _write_sidecar(folder, ident, source)
        except BaseException:
            os.unlink(ident, dir_fd=folder)
            os.close(fd)
            raise
        return Staged(ident, fd, 0, 0, True, sidecar, BlockDigest() if source.check else None)
    raise Refusal("busy", "too many uploads of this file are under way at once; try again later")


def _write_sidecar(folder: int, ident: bytes, source: Source) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(ident + _SIDECAR, flags, 0o600, dir_fd=folder)
    try:
        os.write(fd, msgspec.json.encode(_Head(source, boot_id())) + b"\n")
    except BaseException:
        os.close(fd)
        raise
    return fd


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


def _resume(folder: int, ident: bytes, fd: int, source: Source) -> Staged | None:
    """The locked partial as something to go on with, or None if it is of another source."""
    try:
        sidecar = os.open(
            ident + _SIDECAR, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=folder
        )
    except FileNotFoundError:
        return None
    head, digests = _read_sidecar(sidecar)
    if head is None or head.source != source:
        os.close(sidecar)
        return None
    on_disk = os.fstat(fd).st_size
    held = min(on_disk, source.size)
    digest: BlockDigest | None = None
    if source.check:
        whole = min(held // BLOCK, len(digests) // DIGEST_SIZE)
        digests = digests[: whole * DIGEST_SIZE]
        if head.boot != boot_id():
            digests = _prove(fd, digests)
        digest = BlockDigest.from_blocks(digests)
        held = digest.length
    elif head.boot != boot_id():
        held = 0
    return Staged(ident, fd, held, on_disk, True, sidecar, digest)


def cut(staged: Staged, source: Source) -> None:
    """Make data and sidecar say exactly what is held; its bytes are charged by now."""
    assert staged.sidecar_fd is not None
    if staged.held != staged.on_disk:
        os.ftruncate(staged.fd, staged.held)
    whole = msgspec.json.encode(_Head(source, boot_id())) + b"\n"
    whole += staged.digest.blocks if staged.digest is not None else b""
    if os.pread(staged.sidecar_fd, len(whole) + 1, 0) != whole:
        os.ftruncate(staged.sidecar_fd, 0)
        os.write(staged.sidecar_fd, whole)


def _read_sidecar(fd: int) -> tuple[_Head | None, bytes]:
    data = os.pread(fd, os.fstat(fd).st_size, 0)
    line, newline, digests = data.partition(b"\n")
    if not newline or len(line) > _HEAD_MAX:
        return None, b""
    try:
        return msgspec.json.decode(line, type=_Head), digests
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None, b""


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


def drop(folder: int, ident: bytes) -> None:
    """Remove a staged object and its sidecar; nothing happens where there is none."""
    for name in (ident + _SIDECAR, ident) if ident.startswith(b"p") else (ident,):
        try:
            os.unlink(name, dir_fd=folder)
        except FileNotFoundError:
            pass


def drop_sidecar(folder: int, ident: bytes) -> None:
    """From now on nobody resumes this object."""
    if ident.startswith(b"p"):
        try:
            os.unlink(ident + _SIDECAR, dir_fd=folder)
        except FileNotFoundError:
            pass


def size_on_disk(folder: int, ident: bytes) -> int:
    """Bytes of a staged object, 0 where there is none."""
    try:
        return os.stat(ident, dir_fd=folder, follow_symlinks=False).st_size
    except FileNotFoundError:
        return 0


def staged_objects(folder: int) -> Iterator[tuple[bytes, os.stat_result]]:
    """Every object in a staging folder (not the sidecars) with its status."""
    with os.scandir(folder) as entries:
        for entry in entries:
            name = os.fsencode(entry.name)
            if name.endswith(_SIDECAR):
                continue
            try:
                yield name, entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue


def orphan_sidecars(folder: int) -> Iterator[bytes]:
    """Objects that have a sidecar and no data."""
    with os.scandir(folder) as entries:
        names = {os.fsencode(entry.name) for entry in entries}
    for name in names:
        if name.endswith(_SIDECAR) and name.removesuffix(_SIDECAR) not in names:
            yield name.removesuffix(_SIDECAR)


def is_resumable(folder: int, ident: bytes) -> bool:
    """Whether this is a partial that its sidecar describes."""
    if not ident.startswith(b"p"):
        return False
    try:
        sidecar = os.open(
            ident + _SIDECAR, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=folder
        )
    except FileNotFoundError:
        return False
    try:
        return _read_sidecar(sidecar)[0] is not None
    finally:
        os.close(sidecar)
