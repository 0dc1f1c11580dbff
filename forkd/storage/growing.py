"""Uploads whose length nobody told: their lease grows with them.

Rules
  1. No byte is written that is not leased.  The lease grows by what came so far, within bounds:
     a small upload keeps little from the others, a large one does not ask for every megabyte.
  2. Near the limit a lease gets what is left, to the last byte; an upload is refused when a byte
     of it came and none can be had.
  3. A partial of an unknown length is known by its account, path and client.  The newest that
     nobody is writing is the one that is gone on with.
  4. What is appended to a published file goes to a copy, which takes its place when it is whole.
"""

from __future__ import annotations

import errno
import fcntl
import os
from dataclasses import dataclass

from msgspec.structs import replace

from forkd.errors import Refusal, from_oserror
from forkd.storage.charged import ChargedTree, Incoming
from forkd.storage.names import show
from forkd.storage.partials import Staged
from forkd.storage.sidecar import Source
from forkd.storage.tree import OpenFile, Parts

GROW_LEAST = 64 * 1024
GROW_MOST = 8 * 1024 * 1024
_FICLONE = 0x40049409  # ioctl_ficlone(2)
_NO_REFLINK = frozenset((errno.EOPNOTSUPP, errno.EINVAL, errno.EXDEV, errno.ENOTTY, errno.EPERM))


@dataclass(frozen=True, slots=True)
class Held:
    """An interrupted upload: bytes, and when the last came, in seconds since 1970."""

    size: int
    mtime: float


class GrowingTree(ChargedTree):
    """A ChargedTree that takes uploads of unknown length too.  Every method raises Refusal."""

    def begin_growing(
        self, source: Source, parts: Parts, at: int | None, announced: int | None
    ) -> Incoming:
        """Begin an upload at byte `at` of what is held; None is its end, 0 starts afresh.

        `announced` bytes are reserved at once.  Raises Refusal: bad-range where less is held,
        quota, busy.
        """
        path = b"/".join(parts)
        found = self._find(source, path)
        held, chosen = found.all, found.fitting
        try:
            self._refuse_leased(held)
            if at == 0:
                chosen = None
            elif chosen is not None or at is not None:
                chosen = _cut_to(chosen, at)
            for staged in held:
                if chosen is None or staged.ident != chosen.ident:
                    self._give_back(staged.ident, staged.on_disk)
            if chosen is not None:
                held = [staged for staged in held if staged.fd != chosen.fd]
            size = max(announced or 0, chosen.held if chosen is not None else 0)
            return self._open_stream(source, path, chosen, found.free, size)
        finally:
            for staged in held:
                staged.close()

    def begin_copy(self, at: int, announced: int | None, path: str) -> Incoming:
        """Begin an upload that goes on at byte `at` of a published file; see `copy_some`."""
        incoming = self.begin_own(path, max(at, announced or 0))
        return replace(incoming, staged=replace(incoming.staged, held=at))

    def extend(self, incoming: Incoming, position: int) -> Incoming:
        """Lease more, for an upload that has come to `position`."""
        more = min(max(position, GROW_LEAST), GROW_MOST)
        return replace(incoming, lease=self._ledger.grow(incoming.lease, more))

    def complete(self, incoming: Incoming, size: int) -> Incoming:
        """The upload turned out to be of `size` bytes: what was leased beyond goes back."""
        return replace(incoming, lease=self._ledger.trim(incoming.lease, size), size=size)

    def held(self, source: Source, parts: Parts) -> Held | None:
        """What is held of an upload and can be gone on with; None where that is nothing."""
        found = self._find(source, b"/".join(parts))
        try:
            if found.fitting is None or not found.fitting.held:
                return None
            return Held(found.fitting.held, os.fstat(found.fitting.fd).st_mtime)
        finally:
            for staged in found.all:
                staged.close()

    def drop_held(self, source: Source, parts: Parts) -> int:
        """Drop what is held of an upload and nobody is writing; how many bytes go back."""
        found = self._find(source, b"/".join(parts))
        held = found.all
        try:
            self._refuse_leased(held)
            for staged in held:
                self._give_back(staged.ident, staged.on_disk)
            return sum(staged.on_disk for staged in held)
        finally:
            for staged in held:
                staged.close()


def _cut_to(staged: Staged | None, at: int | None) -> Staged:
    """What is gone on with at byte `at`.  Raises Refusal (bad-range)."""
    held = staged.held if staged is not None else 0
    if staged is None or (at is not None and at > held):
        raise Refusal("bad-range", f"byte {at} is beyond what is held, {held} bytes")
    return staged if at is None else replace(staged, held=at)


def copy_some(base: OpenFile, staged: Staged, position: int, most: int, parts: Parts) -> int:
    """Copy up to `most` bytes at `position` of a file into a staged one; how many were copied.

    A whole file is copied at once where the filesystem shares blocks.  Raises Refusal.
    """
    try:
        whole = position == 0 and staged.held == base.size
        if whole and _clone(base.fd, staged.fd):
            os.ftruncate(staged.fd, staged.held)  # it may have grown meanwhile
            return staged.held
        count = os.copy_file_range(
            base.fd, staged.fd, min(most, staged.held - position), position, position
        )
    except OSError as error:
        raise from_oserror(error, show(parts)) from error
    if not count:
        raise Refusal("busy", f"{show(parts)!r} became shorter while it was copied; try again")
    return count


def _clone(base: int, copy: int) -> bool:
    try:
        fcntl.ioctl(copy, _FICLONE, base)
    except OSError as error:
        if error.errno in _NO_REFLINK:
            return False
        raise
    return True
