"""The accounts, their folders and their charges as an administrator handles them.

Works on the files of state_dir, with the daemon up or down; whoever changes an account tells the
daemon afterwards.  The caller has become the owner of state_dir (site.py).
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import forkd.accounts.sqlite  # noqa: F401 - later, without root, it may be out of reach
from forkd.accounts import (
    ALL_PERMISSIONS,
    DEFAULT,
    Account,
    Accounts,
    OwnQuota,
    check_home,
    check_name,
    enrol,
    open_accounts,
)
from forkd.config import Config
from forkd.errors import Refusal, StartError, from_oserror
from forkd.ledger import file as ledgerfile
from forkd.quota import MappedLedger, Usage, ledger_path, open_ledger

_ENDING_SECONDS = 5.0
"""How long the daemon may take to end the uploads of a removed account."""


@dataclass(frozen=True, slots=True)
class Added:
    """A new account; its folder held `held` bytes already, which are charged."""

    account: Account
    held: int


@dataclass(frozen=True, slots=True)
class Cleared:
    """What became of a removed account's folder: `held` bytes, deleted or left there."""

    home: str
    held: int
    deleted: bool


class Book:
    """Accounts and ledger of one configuration; `open_book` makes it, `close` ends it."""

    def __init__(self, config: Config, accounts: Accounts, ledger: MappedLedger) -> None:
        self.config = config
        self.accounts = accounts
        self.ledger = ledger

    def add(
        self,
        name: str,
        password: str,
        *,
        home: str | None = None,
        quota: OwnQuota = DEFAULT,
        permissions: Iterable[str] = ALL_PERMISSIONS,
        enabled: bool = True,
    ) -> Added:
        """Make an account; files that its folder holds already become its own.

        Raises Refusal as Accounts.add does, and denied, io-error for the folder.
        """
        folder = check_home(check_name(name) if home is None else home)
        held = self._held(os.path.join(self.config.storage.path, folder))
        account = self.accounts.add(
            name,
            password,
            prepare=enrol.for_admin(self.config, self.ledger, held),
            home=folder,
            quota=quota,
            permissions=permissions,
            enabled=enabled,
        )
        return Added(account, held)

    def change(
        self,
        name: str,
        *,
        quota: OwnQuota | None = None,
        permissions: Iterable[str] | None = None,
        enabled: bool | None = None,
    ) -> Account:
        """Change what is not None, the limit in the ledger too.  Raises Refusal."""
        account = self.accounts.change(name, quota=quota, permissions=permissions, enabled=enabled)
        self.ledger.set_limit(account.id, account.name, account.limit(self.config.quota.default))
        return account

    def clear(self, account: Account, delete_files: bool) -> Cleared:
        """What remains to do for a removed account, once the daemon knows.  Raises Refusal."""
        deadline = time.monotonic() + _ENDING_SECONDS
        while self.ledger.leased(account.id) and time.monotonic() < deadline:
            time.sleep(0.05)
        home = enrol.home_path(self.config, account)
        held = self._held(home)
        taken = self.accounts.by_id(account.id)
        if taken is None:  # else the id is in use again, and was cleared for that
            enrol.empty_staging(self.config, account.id)
            self.ledger.clear(account.id)
        if delete_files:
            try:
                shutil.rmtree(home)
            except FileNotFoundError:
                pass
            except OSError as error:
                raise from_oserror(error, home) from error
        return Cleared(home, held, delete_files)

    def usage(self, account: Account) -> Usage:
        """What the account is charged, with the limit that the configuration gives it."""
        limit = account.limit(self.config.quota.default)
        try:
            usage = self.ledger.usage(account.id)
        except IndexError:  # accounts.max was raised and the ledger has not grown yet
            return Usage(0, limit)
        return Usage(usage.used, limit, usage.reserved)

    def list(self) -> Iterator[Account]:
        """All accounts, by name."""
        return self.accounts.list()

    def one(self, name: str) -> Account:
        """Raises Refusal not-found."""
        account = self.accounts.get(name)
        if account is None:
            raise Refusal("not-found", f"there is no account named {name!r}")
        return account

    def close(self) -> None:
        self.accounts.close()
        self.ledger.file.close()

    def _held(self, folder: str) -> int:
        try:
            return enrol.count_bytes(folder)
        except OSError as error:
            raise from_oserror(error, folder) from error


def open_book(config: Config) -> Book:
    """The book of this configuration; its files are made where they are missing.

    Raises StartError.
    """
    path = ledger_path(config)
    if not os.path.exists(path):
        ledgerfile.allocate(path, config.accounts.max)
    accounts = open_accounts(config)
    try:
        return Book(config, accounts, open_ledger(config))
    except OSError as error:
        raise StartError(f"{path}: the quota ledger cannot be opened: {error.strerror}") from None
