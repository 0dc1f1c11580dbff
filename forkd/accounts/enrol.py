"""What a new account needs besides its record: a folder of its own, and a right ledger cell.

Rules
  1. An id may have belonged to somebody else before.  Nothing of that account is inherited: its
     staging folder is emptied and its ledger cell cleared; while uploads of it still end, the id
     cannot be given away.
  2. A charge is exact from the first moment: a folder with files in it is counted before.
  3. A stranger gets a fresh folder only: files that lie about belong to somebody.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable

from forkd.accounts import Account, Prepare
from forkd.config import Config
from forkd.errors import Refusal, StartError, from_oserror
from forkd.quota import Ledger
from forkd.storage.belonging import claim
from forkd.storage.store import STAGING

_LONG = 3000
"""Bytes of a path that still leave room for a name below PATH_MAX."""


def for_stranger(config: Config, ledger: Ledger) -> Prepare:
    """Prepare an account that registers itself.  Raises Refusal: exists, busy, io-error."""

    def prepare(account: Account) -> None:
        if os.path.lexists(home_path(config, account)):
            raise Refusal("exists", f"there is a folder {account.home!r} already")
        _prepare(config, ledger, account, 0)

    return prepare


def for_admin(config: Config, ledger: Ledger, held: int) -> Prepare:
    """Prepare an account whose folder holds `held` bytes (`count_bytes`), or is not there yet."""

    def prepare(account: Account) -> None:
        try:
            claim(config)
        except StartError as error:
            raise Refusal("denied", str(error)) from None
        _prepare(config, ledger, account, held)

    return prepare


def home_path(config: Config, account: Account) -> str:
    """The account's folder."""
    return os.path.join(config.storage.path, account.home)


def empty_staging(config: Config, account_id: int) -> None:
    """Remove what the account's interrupted uploads left.  Raises Refusal: denied, io-error."""
    folder = os.path.join(config.storage.path, STAGING, str(account_id))
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise from_oserror(error, folder) from error


def count_bytes(folder: str) -> int:
    """Bytes of the files in a folder and all below, as the ledger counts them; 0 without one.

    Raises OSError where a folder cannot be read: a count with holes would be too small.
    """
    total = 0
    waiting: list[bytes | int] = [os.fsencode(folder)]
    try:
        while waiting:
            path = waiting.pop()
            if isinstance(path, int):
                os.close(path)
                continue
            try:
                if len(path) > _LONG:
                    path = _shortened(path, waiting)
                entries = os.scandir(path)
            except FileNotFoundError:
                continue
            with entries:
                total += _count_files(entries, waiting)
    finally:
        for left in waiting:
            if isinstance(left, int):
                os.close(left)
    return total


def _shortened(path: bytes, waiting: list[bytes | int]) -> bytes:
    """The same folder by a short path, good until its descriptor's turn has come.

    By moving folders into each other a user makes paths that no system call takes whole.
    """
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    waiting.append(fd)
    return b"/proc/self/fd/%d" % fd


def _count_files(entries: Iterable[os.DirEntry[bytes]], waiting: list[bytes | int]) -> int:
    """Bytes of the files right in a folder; the folders in it have to wait."""
    total = 0
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            waiting.append(entry.path)
            continue
        status = entry.stat(follow_symlinks=False)
        total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total


def _prepare(config: Config, ledger: Ledger, account: Account, held: int) -> None:
    try:
        if ledger.leased(account.id):
            raise Refusal(
                "busy",
                "uploads of a removed account are still ending; try again in a moment, "
                "with forkd running",
            )
        empty_staging(config, account.id)
        ledger.clear(account.id)
        ledger.adopt(account.id, held)
        ledger.set_limit(account.id, account.name, account.limit(config.quota.default))
    except IndexError:
        raise Refusal(
            "denied", "the quota ledger is full; restart forkd after raising accounts.max"
        ) from None
