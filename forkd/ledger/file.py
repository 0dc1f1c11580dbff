"""The file behind the quota ledger, mapped and locked.  quota.py has the rules, layout.py
says where everything lies.

There is a lock (locks.py) for each account and for each slot.  A LedgerFile is opened after the
fork; among the threads of its process it excludes by itself.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from forkd import folders
from forkd.errors import StartError
from forkd.ledger.layout import (
    ACCOUNT,
    ACCOUNTS_AT,
    DIRTY,
    FLAGS,
    FREE,
    HEADER,
    HELD,
    IN_USE,
    LEASE,
    LEASE_WORDS,
    LEASES,
    LEDGER_SLOTS,
    LIMIT,
    MAGIC,
    MOVE_BUCKETS,
    MOVES_AT,
    OPS,
    SLOT_HEAD,
    UNLIMITED,
    UNSURE,
    capacity_of,
    lease_at,
    size_for,
    slot_at,
)
from forkd.ledger.locks import ByteLocks, Held, is_locked
from forkd.scoreboard import SLOTS

__all__ = [
    "DIRTY",
    "FREE",
    "HELD",
    "IN_USE",
    "LEASES",
    "UNSURE",
    "AccountCell",
    "LeaseCell",
    "LedgerFile",
    "allocate",
    "is_known",
    "locked_slots",
    "mark_clean",
]

PATIENCE = 0.25
"""Seconds to wait for an account's lock: held for microseconds, unless its holder stands still."""


@dataclass(frozen=True, slots=True)
class AccountCell:
    """One account as the ledger has it, in bytes; `limit` None is unlimited."""

    id: int
    name: str
    charged: int
    limit: int | None
    reserved: int


@dataclass(frozen=True, slots=True)
class LeaseCell:
    """`total` bytes are charged for the staged object `id`, whatever it holds on disk."""

    slot: int
    index: int
    state: int
    account: int
    total: int
    id: bytes


def allocate(path: str, accounts: int) -> None:
    """Make or grow the file, whole, so that no writer dies of a full filesystem.

    Where the machine went down while the ledger was in use, what the last moments left in the file
    is not known: every account is marked UNSURE.  Raises StartError.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartError(f"{path}: the quota ledger cannot be opened: {error.strerror}") from None
    try:
        header = os.pread(fd, HEADER.size, 0)
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip().encode()
        if not header.strip(b"\0"):
            header = b""  # new, or its maker died before it wrote the header
        elif not header.startswith(MAGIC) or len(header) < HEADER.size:
            raise StartError(f"{path}: is not a quota ledger of this version; move it away")
        os.posix_fallocate(fd, 0, size_for(accounts))
        have = max(accounts, capacity_of(fd))
        _, _, old_boot, clean = HEADER.unpack(header) if header else (b"", 0, boot, 1)
        unsure = old_boot.rstrip(b"\0") != boot and not clean
        if unsure:
            _mark_all(path)
        os.pwrite(fd, HEADER.pack(MAGIC, have, boot, 0), 0)
        os.fsync(fd)
        folders.flush(os.path.dirname(path))
    except OSError as error:
        raise StartError(f"{path}: no room for the quota ledger: {error.strerror}") from None
    finally:
        os.close(fd)


def _mark_all(path: str) -> None:
    ledger = LedgerFile(path)
    try:
        for account in ledger.used_ids():
            with ledger.locked(account):
                ledger.add_flag(account, DIRTY | UNSURE)
    finally:
        ledger.close()


def is_known(path: str) -> bool:
    """Whether there is a ledger of this layout.  Raises OSError."""
    with open(path, "rb") as file:
        header = file.read(HEADER.size)
    return header.startswith(MAGIC) and len(header) == HEADER.size


def mark_clean(path: str) -> None:
    """Everybody has left: what the file says may be trusted after a boot.  Raises OSError."""
    if not os.path.exists(path) or locked_slots(path):
        return  # nothing was prepared, or orphans of another master still write
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.fsync(fd)
        header = os.pread(fd, HEADER.size, 0)
        if not header.startswith(MAGIC) or len(header) < HEADER.size:
            return  # its maker found no room for it
        magic, capacity, boot, _ = HEADER.unpack(header)
        os.pwrite(fd, HEADER.pack(magic, capacity, boot, 1), 0)
        os.fsync(fd)
    finally:
        os.close(fd)


def locked_slots(path: str) -> set[int]:
    """The slots that a living process holds."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return set()
    try:
        return {slot for slot in range(1, SLOTS + 1) if is_locked(fd, slot_at(slot))}
    finally:
        os.close(fd)


class LedgerFile:
    """The mapped file.  Single stores of 8 aligned bytes; whoever writes an account holds its lock.

    A slot's area is written only by the process that holds the slot.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self.capacity = capacity_of(self._fd)
        self._map = mmap.mmap(self._fd, 0)
        self._cells = memoryview(self._map)[: size_for(self.capacity)].cast("Q")
        self._locks = ByteLocks(self._fd)
        self._mutex = threading.Lock()
        self._counting = threading.Lock()

    def close(self) -> None:
        self._cells.release()
        self._map.close()
        os.close(self._fd)

    # accounts

    def _at(self, account: int) -> int:
        if not 0 < account <= self.capacity:
            raise IndexError(f"account {account} is beyond the ledger's {self.capacity}")
        return ACCOUNTS_AT + account * ACCOUNT.size

    def _cell(self, account: int) -> int:
        """Where its words of 8 bytes begin."""
        return self._at(account) >> 3

    def locked(self, account: int, patience: float = PATIENCE) -> Held:
        """For `with`: exclude every other thread and process from this account's cell.

        Entering raises TimeoutError when its lock is not had within `patience` seconds.
        """
        return Held(self._mutex, self._locks, self._at(account), patience)

    def read_account(self, account: int) -> tuple[int, int, int, int]:
        """(charged, limit or -1, ops, flags)."""
        at, cells = self._cell(account), self._cells
        limit = cells[at + LIMIT]
        return cells[at], -1 if limit == UNLIMITED else limit, cells[at + OPS], cells[at + FLAGS]

    def write_charge(self, account: int, charged: int, ops: int) -> None:
        at, cells = self._cell(account), self._cells
        cells[at] = charged
        cells[at + OPS] = ops

    def write_limit(self, account: int, name: str, limit: int) -> None:
        at = self._at(account)
        self._map[at + 32 : at + 64] = name.encode()[:32].ljust(32, b"\0")
        self._cells[self._cell(account) + LIMIT] = UNLIMITED if limit < 0 else limit
        self.add_flag(account, IN_USE)

    def add_flag(self, account: int, flag: int) -> None:
        self._cells[self._cell(account) + FLAGS] |= flag

    def remove_flag(self, account: int, flag: int) -> None:
        self._cells[self._cell(account) + FLAGS] &= ~flag

    def wipe_account(self, account: int) -> None:
        at = self._at(account)
        self._map[at : at + ACCOUNT.size] = bytes(ACCOUNT.size)

    def used_ids(self) -> Iterator[int]:
        for account in range(1, self.capacity + 1):
            if self._cells[self._cell(account) + FLAGS] & IN_USE:
                yield account

    def accounts(self) -> Iterator[AccountCell]:
        """Every account in use, with what running uploads have reserved."""
        reserved: dict[int, int] = {}
        for lease in self.leases():
            reserved[lease.account] = reserved.get(lease.account, 0) + lease.total
        for account in self.used_ids():
            charged, limit, _, _, name = ACCOUNT.unpack_from(self._map, self._at(account))
            yield AccountCell(
                account,
                name.rstrip(b"\0").decode(errors="replace"),
                charged,
                None if limit < 0 else limit,
                reserved.get(account, 0),
            )

    # slots

    def hold_slot(self, slot: int) -> bool:
        """Take a slot's lock for the life of this object; False when somebody else has it."""
        return self._locks.try_lock(slot_at(slot))

    def drop_slot(self, slot: int) -> None:
        self._locks.unlock(slot_at(slot))

    def busy(self, slot: int) -> int:
        """The account whose charge the slot's process was changing; 0 for none."""
        return self._cells[slot_at(slot) >> 3]

    def set_busy(self, slot: int, account: int) -> None:
        self._cells[slot_at(slot) >> 3] = account

    def count_move(self, slot: int, account: int, finished: bool) -> None:
        """Note that a rename in the account's tree begins or has ended (see verify.py).

        Accounts share buckets: a verification may be disturbed by another account's renames.
        """
        at = slot_at(slot) + MOVES_AT + account % MOVE_BUCKETS * 16 + (8 if finished else 0)
        with self._counting:
            self._cells[at >> 3] += 1

    def moves(self, account: int) -> tuple[int, int]:
        """(begun, ended) renames of the account's bucket in all slots."""
        begun = ended = 0
        for slot in range(1, LEDGER_SLOTS + 1):
            at = (slot_at(slot) + MOVES_AT + account % MOVE_BUCKETS * 16) >> 3
            begun += self._cells[at]
            ended += self._cells[at + 1]
        return begun, ended

    def forget_leases(self, slot: int) -> None:
        """The slot is empty from now on."""
        head = slot_at(slot)
        self._map[head + MOVES_AT : head + SLOT_HEAD] = bytes(SLOT_HEAD - MOVES_AT)
        self._cells[(head >> 3) + 1] = 0
        self.set_busy(slot, 0)

    # leases

    def write_lease(
        self, slot: int, index: int, state: int, account: int, total: int, ident: bytes
    ) -> None:
        at = lease_at(slot, index)
        if index >= self._cells[(slot_at(slot) >> 3) + 1]:
            self._count_used(slot, index + 1)
        LEASE.pack_into(self._map, at, FREE, account, 0, total, ident)
        self._cells[at >> 3] = state

    def _count_used(self, slot: int, used: int) -> None:
        """Readers look no further than a slot ever came; two threads may get further at once."""
        at = (slot_at(slot) >> 3) + 1
        with self._counting:
            self._cells[at] = max(self._cells[at], used)

    def cover_lease(self, slot: int, index: int, total: int) -> None:
        self._cells[(lease_at(slot, index) >> 3) + 2] = total

    def free_lease(self, slot: int, index: int) -> None:
        self._cells[lease_at(slot, index) >> 3] = FREE

    def leases(self, slot: int | None = None) -> Iterator[LeaseCell]:
        """The leases of one slot, or of all."""
        for number in range(1, LEDGER_SLOTS + 1) if slot is None else (slot,):
            head = slot_at(number)
            used = min(self._cells[(head >> 3) + 1], LEASES)
            if not used:
                continue
            first = (head + SLOT_HEAD) >> 3
            states = self._cells[first : first + used * LEASE_WORDS : LEASE_WORDS].tolist()
            for index, state in enumerate(states):
                if state == FREE:
                    continue
                at = lease_at(number, index)
                state, account, _, total, ident = LEASE.unpack_from(self._map, at)
                if state != FREE and 0 < account <= self.capacity:
                    yield LeaseCell(number, index, state, account, total, ident.rstrip(b"\0"))
