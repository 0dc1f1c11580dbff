"""The quota ledger: what every account is charged, exactly, across all workers.

Theory
  charge = bytes in the account's tree + bytes of its staged objects (partials)
           + for every lease, what its total exceeds the staged object's size on disk

  reserve  raises the charge before a byte is accepted, and leaves a lease that says for what;
  grow     raises charge and lease together, as far as the limit allows: an upload of unknown
           length takes its bytes piece by piece, each before it is accepted;
  trim     lowers both to what the object will be, before it is dropped;
  claim    leases what is charged already, for the one who is going to remove it;
  drop     ends a lease whose object is on disk with its full size: the charge stays;
  settle   ends a lease: the staged object keeps `kept` bytes, the rest goes back;
  moving   encloses every rename into or out of the tree: a scan then knows it was disturbed.

A killed process leaves its leases; whoever reaps the slot settles them by the size on disk.
Between two stores the slot is marked busy; a slot that died busy has its account verified on disk.
So a kill can leave the charge too large, never too small, and it is mended either way.

A process that stands still while it holds an account's lock stops nobody for long: a reservation
is refused then, and what is given back is given back later.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from msgspec import Struct

from forkd.config import Config
from forkd.errors import Refusal
from forkd.ledger.file import DIRTY, HELD, IN_USE, LEASES, PATIENCE, UNSURE, LedgerFile
from forkd.units import format_bytes

_FOR_REMOVALS = 64
"""Leases kept for what is being removed: giving bytes back must not fail for want of a lease."""

_CHARGE_MAX = (1 << 63) - 1
"""Bytes; what an account without a limit can be charged."""


@dataclass(frozen=True, slots=True)
class Usage:
    """In bytes; `used` includes partials and reservations, `limit` None is unlimited."""

    used: int
    limit: int | None
    reserved: int = 0


class Lease(Struct, frozen=True, gc=False):
    """A claim on `total` bytes for one staged object."""

    index: int
    account: int
    total: int


class Ledger(Protocol):
    """The seam: one implementation shares a mapped file, another may share a database server."""

    def usage(self, account: int) -> Usage: ...

    def set_limit(self, account: int, name: str, limit: int | None) -> None:
        """The account's limit in bytes.

        An account that was never adopted gets to be known, but its files must be counted first.
        """

    def clear(self, account: int) -> None:
        """The account is removed."""

    def adopt(self, account: int, held: int) -> None:
        """A new account's folder holds `held` bytes already: charge it exactly these."""

    def reserve(self, account: int, ident: bytes, total: int, held: int) -> Lease:
        """Claim `total` bytes for the staged object `ident` that holds `held` bytes already.

        Raises Refusal: quota, busy.
        """

    def reserve_fresh(self, account: int, wanted: Sequence[tuple[bytes, int]]) -> list[Lease]:
        """Claim bytes for several staged objects (ident, total) that are not there yet.

        All of them or none: raises Refusal as `reserve` does.
        """

    def grow(self, lease: Lease, more: int) -> Lease:
        """The lease with up to `more` bytes added: what is left, where that is less.

        Raises Refusal: quota where not one byte is left, busy.
        """

    def trim(self, lease: Lease, total: int) -> Lease:
        """The object will be of `total` bytes: the rest goes back.  Raises Refusal (busy)."""

    def claim(self, account: int, ident: bytes, total: int) -> Lease:
        """Lease `total` bytes that are charged already.  Raises Refusal (busy)."""

    def cover(self, lease: Lease, total: int) -> Lease:
        """The object turned out to be of `total` bytes, all of them charged already."""

    def drop(self, lease: Lease) -> None:
        """The object is on disk with its full size."""

    def settle(self, lease: Lease, kept: int) -> None:
        """The lease ends, `kept` bytes stay on disk."""

    def leased(self, account: int) -> set[bytes]:
        """The staged objects that have a lease, be their holders alive or dead."""

    def moving(self, account: int) -> AbstractContextManager[None]:
        """To be held around a rename into or out of the account's tree."""


class MappedLedger:
    """The embedded ledger, for one process.  `slot` 0 may look and change limits, not reserve."""

    def __init__(self, file: LedgerFile, slot: int) -> None:
        self.file = file
        self._slot = slot
        self._free = list(range(LEASES - 1, -1, -1))
        self._owed: deque[tuple[Lease, int]] = deque()

    def usage(self, account: int) -> Usage:
        charged, limit, _, _ = self.file.read_account(account)
        return Usage(charged, None if limit < 0 else limit, self._reserved(account))

    def _reserved(self, account: int) -> int:
        return sum(lease.total for lease in self.file.leases() if lease.account == account)

    def set_limit(self, account: int, name: str, limit: int | None) -> None:
        with self._locked(account):
            if not self.file.read_account(account)[3] & IN_USE:
                self.file.add_flag(account, DIRTY | UNSURE)
            self.file.write_limit(account, name, -1 if limit is None else limit)

    def clear(self, account: int) -> None:
        with self._locked(account):
            self.file.wipe_account(account)

    def adopt(self, account: int, held: int) -> None:
        with self._locked(account):
            _, _, ops, _ = self.file.read_account(account)
            self.file.write_charge(account, held, ops + 1)
            self.file.add_flag(account, IN_USE)

    @contextmanager
    def _locked(self, account: int) -> Iterator[None]:
        try:
            with self.file.locked(account):
                yield
        except TimeoutError:
            raise _standing() from None

    def reserve(self, account: int, ident: bytes, total: int, held: int) -> Lease:
        claimed = max(total, held)
        return self._reserve(account, ((ident, claimed),), claimed - held)[0]

    def reserve_fresh(self, account: int, wanted: Sequence[tuple[bytes, int]]) -> list[Lease]:
        return self._reserve(account, wanted, sum(total for _, total in wanted))

    def _reserve(self, account: int, wanted: Sequence[tuple[bytes, int]], more: int) -> list[Lease]:
        """Leases of the `wanted` totals, for which the charge rises by `more` bytes."""
        file, slot, free = self.file, self._slot, self._free
        if self._owed:
            self.settle_owed()
        try:
            with file.locked(account):
                charged, limit, ops, flags = file.read_account(account)
                if more:
                    _check_room(charged, limit, flags, more)
                if len(free) < _FOR_REMOVALS + len(wanted):
                    raise _too_many()
                leases = [Lease(free.pop(), account, total) for _, total in wanted]
                file.set_busy(slot, account)
                for lease, (ident, total) in zip(leases, wanted, strict=True):
                    file.write_lease(slot, lease.index, HELD, account, total, ident)
                file.write_charge(account, charged + more, ops + 1)
                file.set_busy(slot, 0)
        except TimeoutError:
            raise _standing() from None
        return leases

    def grow(self, lease: Lease, more: int) -> Lease:
        def raised(charged: int, limit: int, flags: int) -> int:
            _check_room(charged, limit, flags, 1)
            return min(more, (_CHARGE_MAX if limit < 0 else limit) - charged)

        return self._resize(lease, raised)

    def trim(self, lease: Lease, total: int) -> Lease:
        if total >= lease.total:
            return lease
        return self._resize(lease, lambda charged, *_: max(total - lease.total, -charged))

    def _resize(self, lease: Lease, change: Callable[[int, int, int], int]) -> Lease:
        """Add what `change` makes of (charged, limit or -1, flags) to charge and lease."""
        file, slot, account = self.file, self._slot, lease.account
        if self._owed:
            self.settle_owed()
        try:
            with file.locked(account):
                charged, limit, ops, flags = file.read_account(account)
                by = change(charged, limit, flags)
                file.set_busy(slot, account)
                file.cover_lease(slot, lease.index, lease.total + by)
                file.write_charge(account, charged + by, ops + 1)
                file.set_busy(slot, 0)
        except TimeoutError:
            raise _standing() from None
        return Lease(lease.index, account, lease.total + by)

    def claim(self, account: int, ident: bytes, total: int) -> Lease:
        try:
            index = self._free.pop()
        except IndexError:
            raise _too_many() from None
        self.file.write_lease(self._slot, index, HELD, account, total, ident)
        return Lease(index, account, total)

    def cover(self, lease: Lease, total: int) -> Lease:
        self.file.cover_lease(self._slot, lease.index, total)
        return Lease(lease.index, lease.account, total)

    def drop(self, lease: Lease) -> None:
        self.file.free_lease(self._slot, lease.index)
        self._free.append(lease.index)

    def settle(self, lease: Lease, kept: int) -> None:
        if self._owed:
            self.settle_owed()
        try:
            self._settle(lease, kept, PATIENCE)
        except TimeoutError:
            self._owed.append((lease, kept))

    def settle_owed(self) -> None:
        """Settle what could not be settled at its time, as far as that is possible at once."""
        for _ in range(len(self._owed)):
            try:
                lease, kept = self._owed.popleft()
            except IndexError:  # another thread was faster
                return
            try:
                self._settle(lease, kept, 0.0)
            except TimeoutError:
                self._owed.append((lease, kept))

    def _settle(self, lease: Lease, kept: int, patience: float) -> None:
        file, slot, account = self.file, self._slot, lease.account
        with file.locked(account, patience):
            charged, _, ops, _ = file.read_account(account)
            file.set_busy(slot, account)
            file.write_charge(account, max(0, charged - max(0, lease.total - kept)), ops + 1)
            file.free_lease(slot, lease.index)
            file.set_busy(slot, 0)
        self._free.append(lease.index)

    def leased(self, account: int) -> set[bytes]:
        return {lease.id for lease in self.file.leases() if lease.account == account}

    def moving(self, account: int) -> Moving:
        return Moving(self.file, self._slot, account)


class Moving:
    """For `with`: see the module."""

    __slots__ = ("_account", "_file", "_slot")

    def __init__(self, file: LedgerFile, slot: int, account: int) -> None:
        self._file = file
        self._slot = slot
        self._account = account

    def __enter__(self) -> None:
        self._file.count_move(self._slot, self._account, finished=False)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.count_move(self._slot, self._account, finished=True)


def reap_slot(file: LedgerFile, slot: int, end: Callable[[int, bytes, int], int]) -> list[int]:
    """Return what the dead process in `slot` had reserved; the caller holds the slot.

    `end(account, ident, total)` does what is to be done with the staged object and tells how many
    charged bytes go back.  Answers with the accounts that were settled.  Where the process died
    between two stores, or `end` raises OSError, nothing goes back and the account is marked DIRTY.
    Raises TimeoutError when an account stays locked; call it again then.
    """
    busy = file.busy(slot)
    if 0 < busy <= file.capacity:
        with file.locked(busy):
            file.add_flag(busy, DIRTY)
            for lease in list(file.leases(slot)):
                if lease.account == busy:
                    file.free_lease(slot, lease.index)
    file.set_busy(slot, 0)
    settled = []
    for lease in list(file.leases(slot)):
        file.set_busy(slot, lease.account)  # what `end` gave back is known only to us
        try:
            back = end(lease.account, lease.id, lease.total)
        except OSError:
            back = None
        with file.locked(lease.account):
            charged, _, ops, _ = file.read_account(lease.account)
            if back is None:
                file.add_flag(lease.account, DIRTY)
            else:
                file.write_charge(lease.account, max(0, charged - back), ops + 1)
            file.free_lease(slot, lease.index)
            file.set_busy(slot, 0)
        settled.append(lease.account)
    file.forget_leases(slot)
    return settled


def _check_room(charged: int, limit: int, flags: int, more: int) -> None:
    if flags & UNSURE:
        raise Refusal(
            "busy", "this account's files are being counted; uploads are taken again in a moment"
        )
    if limit < 0:
        limit = _CHARGE_MAX
    if charged + more > limit:
        raise _over_quota(charged, limit, more)


def _too_many() -> Refusal:
    return Refusal("busy", "too many uploads are under way on this server; try again")


def _standing() -> Refusal:
    return Refusal("busy", "a process of the server stands still with this account; try again")


def _over_quota(charged: int, limit: int, more: int) -> Refusal:
    return Refusal(
        "quota",
        f"the quota of {format_bytes(limit)} does not suffice: {format_bytes(charged)} used "
        f"({charged} bytes), {format_bytes(more)} more needed ({more} bytes)",
    )


def ledger_path(config: Config) -> str:
    return os.path.join(config.server.state_dir, "ledger")


def open_ledger(config: Config, slot: int = 0) -> MappedLedger:
    """This process's view of the ledger; open it after the fork.  OSError where there is none."""
    return MappedLedger(LedgerFile(ledger_path(config)), slot)
