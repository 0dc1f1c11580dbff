"""The file behind the quota ledger: layout, mapping and kernel locks.  quota.py has the rules.

    page 0        magic, version, capacity, boot id
    slot areas    for each worker slot: a head (busy mark, move counts), then LEASES leases
    accounts      for each account id: charge, limit, operation count, flags, name

Locks are open-file-description locks (fcntl(2) F_OFD_SETLKW) on single bytes: one for each account,
one for each slot.  The kernel returns them when their owner dies, however it dies.  They exclude
processes, not threads: a LedgerFile must be opened after the fork and guards threads by itself.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from forkd.errors import StartError
from forkd.scoreboard import SLOTS

LEDGER_SLOTS = SLOTS + 1
"""The workers' slots, and one for the keeper."""

LEASES = 2048
"""Uploads under way in one worker at most."""

FREE, HELD = 0, 1
"""States of a lease."""

IN_USE, DIRTY, UNSURE = 1, 2, 4
"""Flags of an account: DIRTY asks for a verification, UNSURE takes no upload before it."""

_MAGIC = b"forkd ledger 1\0\0"
_HEADER = struct.Struct("<16sQ40sQ")  # magic, capacity, boot id, closed cleanly
_PAGE = 4096
_SLOT_HEAD = 2048
_MOVES_AT = 64
_MOVE_BUCKETS = 64
_LEASE = struct.Struct("<QIIQ40s")  # state, account, (unused), total, id
_SLOT_BYTES = _SLOT_HEAD + LEASES * _LEASE.size
_ACCOUNT = struct.Struct("<QqQQ32s64x")  # charged, limit (-1: none), ops, flags, name
_ACCOUNTS_AT = _PAGE + LEDGER_SLOTS * _SLOT_BYTES
_FLOCK = struct.Struct("hhqqi4x")
_U64 = struct.Struct("<Q")
_I64 = struct.Struct("<q")

assert _LEASE.size == 64
assert _ACCOUNT.size == 128


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


def size_for(accounts: int) -> int:
    """Bytes of a ledger for account ids up to `accounts`."""
    return _ACCOUNTS_AT + (accounts + 1) * _ACCOUNT.size


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
        header = os.pread(fd, _HEADER.size, 0)
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip().encode()
        if header and _HEADER.unpack(header.ljust(_HEADER.size, b"\0"))[0] != _MAGIC:
            raise StartError(f"{path}: is not a quota ledger of this version; move it away")
        os.posix_fallocate(fd, 0, size_for(accounts))
        have = max(accounts, _capacity(fd))
        _, _, old_boot, clean = _HEADER.unpack(header) if header else (b"", 0, boot, 1)
        unsure = old_boot.rstrip(b"\0") != boot and not clean
        if unsure:
            _mark_all(path)
        os.pwrite(fd, _HEADER.pack(_MAGIC, have, boot, 0), 0)
        os.fsync(fd)
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


def mark_clean(path: str) -> None:
    """Everybody has left: what the file says may be trusted after a boot.  Raises OSError."""
    if not os.path.exists(path) or locked_slots(path):
        return  # nothing was prepared, or orphans of another master still write
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.fsync(fd)
        magic, capacity, boot, _ = _HEADER.unpack(os.pread(fd, _HEADER.size, 0))
        os.pwrite(fd, _HEADER.pack(magic, capacity, boot, 1), 0)
        os.fsync(fd)
    finally:
        os.close(fd)


def _capacity(fd: int) -> int:
    return (os.fstat(fd).st_size - _ACCOUNTS_AT) // _ACCOUNT.size - 1


def locked_slots(path: str) -> set[int]:
    """The slots that a living process holds."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return set()
    try:
        return {slot for slot in range(1, SLOTS + 1) if _is_locked(fd, _slot_at(slot))}
    finally:
        os.close(fd)


def _is_locked(fd: int, at: int) -> bool:
    query = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, at, 1, 0)
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, query)
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def _slot_at(slot: int) -> int:
    return _PAGE + (slot - 1) * _SLOT_BYTES


class LedgerFile:
    """The mapped file.  Single stores of 8 aligned bytes; whoever writes an account holds its lock.

    A slot's area is written only by the process that holds the slot.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self.capacity = _capacity(self._fd)
        self._map = mmap.mmap(self._fd, 0)
        self._mutex = threading.Lock()

    def close(self) -> None:
        self._map.close()
        os.close(self._fd)

    # accounts

    def _at(self, account: int) -> int:
        if not 0 < account <= self.capacity:
            raise IndexError(f"account {account} is beyond the ledger's {self.capacity}")
        return _ACCOUNTS_AT + account * _ACCOUNT.size

    @contextmanager
    def locked(self, account: int) -> Iterator[None]:
        """Exclude every other thread and process from this account's cell."""
        at = self._at(account)
        with self._mutex:
            self.lock_byte(at)
            try:
                yield
            finally:
                self.unlock_byte(at)

    def lock_byte(self, at: int) -> None:
        fcntl.fcntl(self._fd, fcntl.F_OFD_SETLKW, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, at, 1, 0))

    def unlock_byte(self, at: int) -> None:
        fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, at, 1, 0))

    def read_account(self, account: int) -> tuple[int, int, int, int]:
        """(charged, limit or -1, ops, flags)."""
        charged, limit, ops, flags, _ = _ACCOUNT.unpack_from(self._map, self._at(account))
        return charged, limit, ops, flags

    def write_charge(self, account: int, charged: int, ops: int) -> None:
        at = self._at(account)
        _U64.pack_into(self._map, at, charged)
        _U64.pack_into(self._map, at + 16, ops)

    def write_limit(self, account: int, name: str, limit: int) -> None:
        at = self._at(account)
        self._map[at + 32 : at + 64] = name.encode()[:32].ljust(32, b"\0")
        _I64.pack_into(self._map, at + 8, limit)
        self.add_flag(account, IN_USE)

    def add_flag(self, account: int, flag: int) -> None:
        at = self._at(account) + 24
        _U64.pack_into(self._map, at, _U64.unpack_from(self._map, at)[0] | flag)

    def remove_flag(self, account: int, flag: int) -> None:
        at = self._at(account) + 24
        _U64.pack_into(self._map, at, _U64.unpack_from(self._map, at)[0] & ~flag)

    def wipe_account(self, account: int) -> None:
        at = self._at(account)
        self._map[at : at + _ACCOUNT.size] = bytes(_ACCOUNT.size)

    def used_ids(self) -> Iterator[int]:
        for account in range(1, self.capacity + 1):
            if self._map[_ACCOUNTS_AT + account * _ACCOUNT.size + 24] & IN_USE:
                yield account

    def accounts(self) -> Iterator[AccountCell]:
        """Every account in use, with what running uploads have reserved."""
        reserved: dict[int, int] = {}
        for lease in self.leases():
            reserved[lease.account] = reserved.get(lease.account, 0) + lease.total
        for account in self.used_ids():
            charged, limit, _, _, name = _ACCOUNT.unpack_from(self._map, self._at(account))
            yield AccountCell(
                account,
                name.rstrip(b"\0").decode(errors="replace"),
                charged,
                None if limit < 0 else limit,
                reserved.get(account, 0),
            )

    def sync(self) -> None:
        """Write the changed pages to the disk."""
        os.fdatasync(self._fd)

    # slots and leases

    def hold_slot(self, slot: int) -> bool:
        """Take a slot's lock for the life of this object; False when somebody else has it."""
        lock = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _slot_at(slot), 1, 0)
        try:
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, lock)
        except BlockingIOError:
            return False
        return True

    def drop_slot(self, slot: int) -> None:
        self.unlock_byte(_slot_at(slot))

    def busy(self, slot: int) -> int:
        """The account whose charge the slot's process was changing; 0 for none."""
        return int(_U64.unpack_from(self._map, _slot_at(slot))[0])

    def set_busy(self, slot: int, account: int) -> None:
        _U64.pack_into(self._map, _slot_at(slot), account)

    def count_move(self, slot: int, account: int, finished: bool) -> None:
        """Note that a rename in the account's tree begins or has ended (see verify.py).

        Accounts share buckets: a verification may be disturbed by another account's renames.
        """
        at = _slot_at(slot) + _MOVES_AT + account % _MOVE_BUCKETS * 16 + (8 if finished else 0)
        with self._mutex:
            _U64.pack_into(self._map, at, _U64.unpack_from(self._map, at)[0] + 1)

    def moves(self, account: int) -> tuple[int, int]:
        """(begun, ended) renames of the account's bucket in all slots."""
        begun = ended = 0
        for slot in range(1, LEDGER_SLOTS + 1):
            at = _slot_at(slot) + _MOVES_AT + account % _MOVE_BUCKETS * 16
            begun += _U64.unpack_from(self._map, at)[0]
            ended += _U64.unpack_from(self._map, at + 8)[0]
        return begun, ended

    def cover_lease(self, slot: int, index: int, total: int) -> None:
        at = _slot_at(slot) + _SLOT_HEAD + index * _LEASE.size
        _U64.pack_into(self._map, at + 16, total)

    def write_lease(
        self, slot: int, index: int, state: int, account: int, total: int, ident: bytes
    ) -> None:
        head = _slot_at(slot)
        at = head + _SLOT_HEAD + index * _LEASE.size
        if index >= _U64.unpack_from(self._map, head + 8)[0]:
            _U64.pack_into(self._map, head + 8, index + 1)
        _LEASE.pack_into(self._map, at, FREE, account, 0, total, ident)
        _U64.pack_into(self._map, at, state)

    def free_lease(self, slot: int, index: int) -> None:
        _U64.pack_into(self._map, _slot_at(slot) + _SLOT_HEAD + index * _LEASE.size, FREE)

    def leases(self, slot: int | None = None) -> Iterator[LeaseCell]:
        """The leases of one slot, or of all."""
        for number in range(1, LEDGER_SLOTS + 1) if slot is None else (slot,):
            head = _slot_at(number)
            used = min(int(_U64.unpack_from(self._map, head + 8)[0]), LEASES)
            for index in range(used):
                at = head + _SLOT_HEAD + index * _LEASE.size
                state, account, _, total, ident = _LEASE.unpack_from(self._map, at)
                if state != FREE and 0 < account <= self.capacity:
                    yield LeaseCell(number, index, state, account, total, ident.rstrip(b"\0"))

    def forget_leases(self, slot: int) -> None:
        """The slot is empty from now on."""
        head = _slot_at(slot)
        self._map[head + _MOVES_AT : head + _SLOT_HEAD] = bytes(_SLOT_HEAD - _MOVES_AT)
        _U64.pack_into(self._map, head + 8, 0)
        self.set_busy(slot, 0)
