"""The quota ledger: what every account is charged, exactly, across all workers.

Theory
  charge = bytes in the account's tree + bytes of its staged objects (partials)
           + for every lease, what its total exceeds the staged object's size on disk

  reserve  raises the charge before a byte is accepted, and leaves a lease that says for what;
  drop     ends a lease whose object is on disk with its full size: the charge stays;
  settle   ends a lease: the staged object keeps `kept` bytes, the rest goes back;
  moving   encloses every rename into or out of the tree: a scan then knows it was disturbed.

A killed process leaves its leases; whoever reaps the slot settles them by the size on disk.
Between two stores the slot is marked busy; a slot that died busy has its account verified on disk.
So a kill can leave the charge too large, never too small, and it is mended either way.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from forkd.config import Config
from forkd.errors import Refusal
from forkd.ledgerfile import DIRTY, HELD, LEASES, UNSURE, LedgerFile
from forkd.units import format_bytes

_FOR_REMOVALS = 64
"""Leases kept for what is being removed: giving bytes back must not fail for want of a lease."""


@dataclass(frozen=True, slots=True)
class Usage:
    """In bytes; `used` includes partials and reservations, `limit` None is unlimited."""

    used: int
    limit: int | None
    reserved: int = 0


@dataclass(frozen=True, slots=True)
class Lease:
    """A claim on `total` bytes for one staged object."""

    index: int
    account: int
    total: int


class Ledger(Protocol):
    """The seam: one implementation shares a mapped file, another may share a database server."""

    def usage(self, account: int) -> Usage: ...

    def set_limit(self, account: int, name: str, limit: int | None) -> None:
        """The account's limit in bytes; also makes the account known to the ledger."""

    def clear(self, account: int) -> None:
        """The account is removed."""

    def adopt(self, account: int, held: int) -> None:
        """A new account's folder holds `held` bytes already: charge it exactly these."""

    def reserve(self, account: int, ident: bytes, total: int, held: int) -> Lease:
        """Claim `total` bytes for the staged object `ident` that holds `held` bytes already.

        Raises Refusal: quota, busy.
        """

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

    def usage(self, account: int) -> Usage:
        charged, limit, _, _ = self.file.read_account(account)
        return Usage(charged, None if limit < 0 else limit, self._reserved(account))

    def _reserved(self, account: int) -> int:
        return sum(lease.total for lease in self.file.leases() if lease.account == account)

    def set_limit(self, account: int, name: str, limit: int | None) -> None:
        with self.file.locked(account):
            self.file.write_limit(account, name, -1 if limit is None else limit)

    def clear(self, account: int) -> None:
        with self.file.locked(account):
            self.file.wipe_account(account)

    def adopt(self, account: int, held: int) -> None:
        with self.file.locked(account):
            _, _, ops, _ = self.file.read_account(account)
            self.file.write_charge(account, held, ops + 1)

    def reserve(self, account: int, ident: bytes, total: int, held: int) -> Lease:
        file, more = self.file, max(0, total - held)
        with file.locked(account):
            charged, limit, ops, flags = file.read_account(account)
            if more and flags & UNSURE:
                raise Refusal(
                    "busy", "the machine went down; this account's files are being counted"
                )
            if more and limit >= 0 and charged + more > limit:
                raise _over_quota(charged, limit, more)
            if len(self._free) <= (_FOR_REMOVALS if more else 0):
                raise Refusal("busy", "too many uploads are under way on this server; try again")
            index = self._free.pop()
            file.set_busy(self._slot, account)
            file.write_lease(self._slot, index, HELD, account, max(total, held), ident)
            file.write_charge(account, charged + more, ops + 1)
            file.set_busy(self._slot, 0)
        return Lease(index, account, max(total, held))

    def cover(self, lease: Lease, total: int) -> Lease:
        self.file.cover_lease(self._slot, lease.index, total)
        return Lease(lease.index, lease.account, total)

    def drop(self, lease: Lease) -> None:
        self.file.free_lease(self._slot, lease.index)
        self._free.append(lease.index)

    def settle(self, lease: Lease, kept: int) -> None:
        file, account = self.file, lease.account
        with file.locked(account):
            charged, _, ops, _ = file.read_account(account)
            file.set_busy(self._slot, account)
            file.write_charge(account, max(0, charged - max(0, lease.total - kept)), ops + 1)
            self.drop(lease)
            file.set_busy(self._slot, 0)

    def leased(self, account: int) -> set[bytes]:
        return {lease.id for lease in self.file.leases() if lease.account == account}

    @contextmanager
    def moving(self, account: int) -> Iterator[None]:
        self.file.count_move(self._slot, account, finished=False)
        try:
            yield
        finally:
            self.file.count_move(self._slot, account, finished=True)


def reap_slot(file: LedgerFile, slot: int, end: Callable[[int, bytes, int], int]) -> list[int]:
    """Return what the dead process in `slot` had reserved; the caller holds the slot.

    `end(account, ident, total)` does what is to be done with the staged object and tells how many
    charged bytes go back.  Answers with the accounts that were settled.  Where the process died
    between two stores, the account is marked DIRTY instead.
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
        back = end(lease.account, lease.id, lease.total)
        with file.locked(lease.account):
            charged, _, ops, _ = file.read_account(lease.account)
            file.set_busy(slot, lease.account)
            file.write_charge(lease.account, max(0, charged - back), ops + 1)
            file.free_lease(slot, lease.index)
            file.set_busy(slot, 0)
        settled.append(lease.account)
    file.forget_leases(slot)
    return settled


def _over_quota(charged: int, limit: int, more: int) -> Refusal:
    return Refusal(
        "quota",
        f"the quota of {format_bytes(limit)} does not suffice: {format_bytes(charged)} are used "
        f"({charged} bytes), {format_bytes(more)} more are needed ({more} bytes)",
    )


def ledger_path(config: Config) -> str:
    return os.path.join(config.server.state_dir, "ledger")


def open_ledger(config: Config, slot: int = 0) -> MappedLedger:
    """This process's view of the ledger; open it after the fork.  OSError where there is none."""
    return MappedLedger(LedgerFile(ledger_path(config)), slot)
