"""Returning what a dead process had reserved: the disk's side of quota.reap_slot.

What it was about to tell hooks is decided first, by the very objects that reaping removes.
"""

from __future__ import annotations

import os
import time

from forkd.events.recovery import recover
from forkd.ledger.file import LedgerFile
from forkd.quota import reap_slot
from forkd.storage import partials, sidecar
from forkd.storage.store import STAGING

_TRIES = 500
_PAUSE = 0.01


def reap(file: LedgerFile, slot: int, storage: str, events: str) -> list[int]:
    """Reap a slot that the caller holds; the accounts that were settled.

    A resumable partial stays and keeps its bytes; everything else of the process is removed.
    `events` is the folder of the journals.  Raises OSError where they cannot be decided.
    """
    recover(events, slot, storage, sidecar.boot_id())
    return reap_slot(file, slot, lambda *lease: _end(storage, *lease))


def _end(storage: str, account: int, ident: bytes, total: int) -> int:
    """How many of the charged bytes go back.  Raises OSError.

    Whoever meets a leased partial lets go of it soon (charged.py), so its lock is waited for.
    """
    try:
        folder = open_staging(storage, account)
    except FileNotFoundError:
        os.stat(os.path.join(storage, STAGING))  # without that, the disk is not there
        return total
    lock: int | None = None
    try:
        if ident.startswith(b"p"):
            lock = _lock(folder, ident)
        size = partials.size_on_disk(folder, ident)
        if lock is not None and size and partials.is_resumable(folder, ident):
            return max(0, total - size)
        partials.drop(folder, ident)
        return max(total, size)
    finally:
        os.close(folder)
        if lock is not None:
            os.close(lock)


def _lock(folder: int, ident: bytes) -> int | None:
    """The partial's lock, None where there is no partial.  Raises BlockingIOError."""
    for _ in range(_TRIES):
        try:
            return partials.open_locked(folder, ident)
        except FileNotFoundError:
            return None
        except BlockingIOError:
            time.sleep(_PAUSE)
    raise BlockingIOError(f"{ident.decode()} stays locked")


def open_staging(storage: str, account: int) -> int:
    """A descriptor of an account's staging folder.  FileNotFoundError where it has none yet."""
    path = os.path.join(storage, STAGING, str(account))
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
