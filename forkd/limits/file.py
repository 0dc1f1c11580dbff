"""The file behind the limits, mapped and locked.  layout.py says where everything lies.

There is a lock (ledger/locks.py) for each set of cells.  A LimitsFile is opened after the fork;
among the threads of its process it excludes by itself.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import threading
from dataclasses import dataclass
from pathlib import Path

from forkd.config import Config
from forkd.errors import StartError
from forkd.ledger.locks import ByteLocks, Held
from forkd.limits.layout import (
    BANNED,
    CELL,
    COUNTS_AT,
    FAILURES,
    HALVES,
    HEADER,
    HISTORY_AT,
    KEY,
    KEY_BYTES,
    MAGIC,
    PAGE,
    PAID,
    SET,
    TAG,
    WAYS,
    WORDS,
    sets_for,
    size_for,
)
from forkd.limits.policy import HISTORY, tick_of
from forkd.scoreboard import SLOTS

PATIENCE = 0.25
"""Seconds to wait for a set's lock: held for microseconds, unless its holder stands still."""

_BOOT_ID = "/proc/sys/kernel/random/boot_id"


def limits_path(config: Config) -> str:
    return os.path.join(config.server.runtime_dir, "limits")


def is_known(config: Config) -> bool:
    """Whether there is a file of this layout and boot.  Raises OSError."""
    return bool(_sets_of(limits_path(config), Path(_BOOT_ID).read_text().strip().encode()))


def allocate(config: Config, in_use: bool) -> None:
    """Make the file, whole, so that no writer dies of a full filesystem.

    One of an earlier boot, or of another size, is made anew; of another size only unless it is
    `in_use`: then its counts hold.  Raises StartError.
    """
    path, sets = limits_path(config), sets_for(config)
    boot = Path(_BOOT_ID).read_text().strip().encode()
    try:
        found = _sets_of(path, boot)
        if found == sets or (found and in_use):
            return
        _make(path, sets, boot)
    except OSError as error:
        raise StartError(f"{path}: no room for the limits: {error.strerror}") from None


def _sets_of(path: str, boot: bytes) -> int:
    """The number of sets of a file of this layout and boot; 0 where there is none."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return 0
    try:
        header = os.pread(fd, HEADER.size, 0)
        if len(header) < HEADER.size:
            return 0
        magic, sets, old_boot, _ = HEADER.unpack(header)
        if magic != MAGIC or old_boot.rstrip(b"\0") != boot:
            return 0
        if os.fstat(fd).st_size != size_for(sets):
            return 0
        os.posix_fallocate(fd, 0, size_for(sets))  # a copied file may have holes
        return int(sets)
    finally:
        os.close(fd)


def _make(path: str, sets: int, boot: bytes) -> None:
    """A new file under the name: whoever still maps the old one is not disturbed."""
    temporary = f"{path}.{os.getpid()}"
    fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, size_for(sets))
        os.pwrite(fd, HEADER.pack(MAGIC, sets, boot, os.urandom(16)), 0)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a key may be: the first cell of its set, and what marks a cell as its own."""

    key: bytes
    first: int
    tag: int


class LimitsFile:
    """The mapped file.  Whoever reads or writes a cell holds its set's lock, with two exceptions:
    a slot's count is written by the slot's holder alone, and whoever only counts may see a cell
    that is just being changed.
    """

    def __init__(self, path: str) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            _, self.sets, _, self._secret = HEADER.unpack(os.pread(fd, HEADER.size, 0))
            self._map = mmap.mmap(fd, size_for(self.sets))
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        self._view = memoryview(self._map)[PAGE:]
        self._words = self._view.cast("Q")
        self._halves = self._view.cast("I")
        self._locks = ByteLocks(fd)
        self.mutex = threading.Lock()

    def close(self) -> None:
        self._words.release()
        self._halves.release()
        self._view.release()
        self._map.close()
        os.close(self._fd)

    def spot(self, key: str) -> Spot:
        """Which set: by a keyed hash, so that nobody can choose names that share one."""
        text = key.encode()[:KEY_BYTES]
        digest = hashlib.blake2b(text, digest_size=16, key=self._secret).digest()
        number = int.from_bytes(digest[:8], "little") % self.sets
        return Spot(text, number * WAYS, int.from_bytes(digest[8:], "little") or 1)

    def locked(self, cell: int, patience: float = PATIENCE) -> Held:
        """For `with`: exclude every other thread and process from the set of this cell.

        Entering raises TimeoutError when its lock is not had within `patience` seconds.
        """
        return Held(self.mutex, self._locks, PAGE + cell // WAYS * SET, patience)

    # cells

    def find(self, spot: Spot) -> int | None:
        """The cell that the key has."""
        at = spot.first * WORDS
        tags = self._words[at : at + WAYS * WORDS : WORDS].tolist()
        if spot.tag not in tags:
            return None
        for cell, tag in enumerate(tags, spot.first):
            if tag == spot.tag and self.key(cell) == spot.key:
                return cell
        return None

    def cells_of(self, spot: Spot) -> range:
        return range(spot.first, spot.first + WAYS)

    def used(self, cell: int) -> bool:
        return bool(self._words[cell * WORDS + TAG])

    def key(self, cell: int) -> bytes:
        at = cell * CELL + KEY * 8
        return bytes(self._view[at : at + KEY_BYTES]).rstrip(b"\0")

    def give(self, cell: int, spot: Spot) -> None:
        """Make it the key's, all zero; killed in the middle, it is nobody's."""
        at = cell * CELL
        self._words[cell * WORDS + TAG] = 0
        self._view[at + 8 : at + CELL] = bytes(CELL - 8)
        self._view[at + KEY * 8 : at + KEY * 8 + len(spot.key)] = spot.key
        self._words[cell * WORDS + TAG] = spot.tag

    # sessions

    def sessions(self, cell: int) -> int:
        at = cell * HALVES + COUNTS_AT
        return sum(self._halves[at : at + SLOTS].tolist())

    def add_session(self, cell: int, slot: int, change: int) -> None:
        """For the slot's holder, under `mutex` at least."""
        self._halves[cell * HALVES + COUNTS_AT + slot - 1] += change

    def forget_slot(self, slot: int) -> None:
        """The slot has no sessions; for its holder.  Nobody else takes a cell that still counts."""
        counts = self._halves[COUNTS_AT + slot - 1 :: HALVES]
        for cell, count in enumerate(counts.tolist()):
            if count:
                counts[cell] = 0

    # bandwidth

    def paid_until(self, cell: int, direction: int) -> int:
        return self._words[cell * WORDS + PAID + direction]

    def set_paid_until(self, cell: int, direction: int, until: int) -> None:
        self._words[cell * WORDS + PAID + direction] = until

    # failures

    def history(self, cell: int) -> list[int]:
        """The ticks of the last failures, 0 for none, in no order."""
        at = cell * HALVES + HISTORY_AT
        return self._halves[at : at + HISTORY].tolist()

    def add_failure(self, cell: int, now: int) -> None:
        at = cell * WORDS + FAILURES
        place = self._words[at] % HISTORY
        self._halves[cell * HALVES + HISTORY_AT + place] = tick_of(now)
        self._words[at] += 1

    def banned_until(self, cell: int) -> int:
        return self._words[cell * WORDS + BANNED]

    def ban(self, cell: int, until: int) -> None:
        self._words[cell * WORDS + BANNED] = until

    def forget_failures(self, cell: int) -> None:
        self.ban(cell, 0)
        at = cell * CELL + HISTORY_AT * 4
        self._view[at : at + HISTORY * 4] = bytes(HISTORY * 4)
        self._words[cell * WORDS + FAILURES] = 0

    # at a glance, without a lock

    def failing_cells(self) -> list[int]:
        """Those with failures or a ban, recent or not."""
        tags, bans, failures = (
            self._words[word::WORDS].tolist() for word in (TAG, BANNED, FAILURES)
        )
        return [cell for cell, tag in enumerate(tags) if tag and (failures[cell] or bans[cell])]

    def bans_in_force(self, now: int) -> int:
        tags, bans = self._words[TAG::WORDS].tolist(), self._words[BANNED::WORDS].tolist()
        return sum(1 for tag, until in zip(tags, bans, strict=True) if tag and until > now)
