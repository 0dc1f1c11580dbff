"""Comparing an account's charge with the disk, while the daemon serves.

A comparison is exact if nothing moved while the disk was read: the account's operations in the
ledger and the renames of its bucket are counted before and after.  Uploads under way do not disturb
it: their leases say what they are charged for.  A disturbed reading is repeated.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from forkd.accounts.enrol import count_bytes
from forkd.helpers.reaper import open_staging
from forkd.ledger.file import DIRTY, UNSURE, LedgerFile
from forkd.storage import partials
from forkd.storage.store import STAGING

_TRIES = 12
_FIRST_PAUSE = 0.02


@dataclass(frozen=True, slots=True)
class Comparison:
    """In bytes.  `exact` False: the account was too busy to tell, `drift` is of the last reading.

    `fixed` tells that the charge was set to `actual`.
    """

    charged: int
    actual: int
    exact: bool
    fixed: bool

    @property
    def drift(self) -> int:
        return self.charged - self.actual


def compare(file: LedgerFile, storage: str, account: int, home: str, fix: bool) -> Comparison:
    """Compare, and with `fix` correct an exact difference.  Raises OSError (the disk)."""
    pause = _FIRST_PAUSE
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(pause)
            pause = min(2 * pause, 2.0)
        before = _state(file, account)
        actual = _on_disk(file, storage, account, home)
        with file.locked(account):
            charged, _, ops, _ = file.read_account(account)
            if _state(file, account) != before or not _at_rest(before):
                continue
            wrong = charged != actual
            if fix and wrong:
                file.write_charge(account, actual, ops + 1)
            if fix:
                file.remove_flag(account, DIRTY | UNSURE)
            return Comparison(charged, actual, True, fix and wrong)
    charged = file.read_account(account)[0]
    return Comparison(charged, actual, False, False)


def _state(file: LedgerFile, account: int) -> tuple[int, int, int]:
    return (file.read_account(account)[2], *file.moves(account))


def _at_rest(state: tuple[int, int, int]) -> bool:
    _, begun, ended = state
    return begun == ended


def _on_disk(file: LedgerFile, storage: str, account: int, home: str) -> int:
    """Raises OSError, also where the storage is not there at all: a disk that is not mounted."""
    os.stat(os.path.join(storage, STAGING))
    total = count_bytes(os.path.join(storage, home))
    try:
        folder = open_staging(storage, account)
    except FileNotFoundError:
        return total
    try:
        staged = {
            ident: partials.charged_size(status)
            for ident, status in partials.staged_objects(folder)
        }
    finally:
        os.close(folder)
    for lease in file.leases():
        if lease.account == account:
            staged[lease.id] = max(staged.get(lease.id, 0), lease.total)
    return total + sum(staged.values())
