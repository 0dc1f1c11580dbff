"""The embedded `Accounts`: one SQLite file, shared by all processes of one machine.

Rules
  1. No password is hashed while the database is locked for writing.
  2. What a peer sends as a name is looked up only if an account may have it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator

from argon2 import PasswordHasher

from forkd.accounts import (
    ALL_PERMISSIONS,
    DEFAULT,
    Account,
    Credential,
    OwnQuota,
    Prepare,
    check_home,
    check_name,
    check_permissions,
    is_name,
)
from forkd.accounts.database import Database
from forkd.accounts.passwords import Passwords
from forkd.config import PERMISSIONS
from forkd.config import Accounts as AccountRules
from forkd.errors import Refusal
from forkd.units import Bytes

DATABASE = "accounts.db"
SCHEMA_VERSION = 1
_PAGE = 500
_TABLE = """
CREATE TABLE account (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    home TEXT NOT NULL UNIQUE,
    quota NOT NULL CHECK (quota IN ('default', 'unlimited')
                          OR (typeof(quota) = 'integer' AND quota >= 0)),
    enabled INTEGER NOT NULL CHECK (enabled IN (0, 1)),
    permissions TEXT NOT NULL,
    created REAL NOT NULL,
    password_changed REAL NOT NULL,
    hash TEXT NOT NULL
)
"""
_SELECT = """
SELECT id, name, home, quota, enabled, permissions, created, password_changed, hash FROM account
"""
_INSERT = "INSERT INTO account VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_FREE_ID = """
SELECT min(candidate) FROM (SELECT 1 AS candidate UNION ALL SELECT id + 1 FROM account)
WHERE candidate NOT IN (SELECT id FROM account)
"""
_HOME_CONFLICT = """
SELECT name, home FROM account
WHERE home = :home OR substr(home, 1, length(:home) + 1) = :home || '/'
   OR substr(:home, 1, length(home) + 1) = home || '/'
LIMIT 1
"""
_CHANGE = """
UPDATE account SET quota = coalesce(?, quota), permissions = coalesce(?, permissions),
    enabled = coalesce(?, enabled)
WHERE name = ?
"""
_Row = tuple[int, str, str, int | str, int, str, float, float, str]


class SqliteAccounts:
    """`Accounts` in the file `path`, which is made where it is missing.  Raises StartError."""

    def __init__(
        self, path: str, rules: AccountRules, hasher: PasswordHasher | None = None
    ) -> None:
        self._max = rules.max
        self._passwords = Passwords(rules.min_password, hasher)
        self._db = Database(path, _TABLE, SCHEMA_VERSION, "accounts")

    def add(
        self,
        name: str,
        password: str,
        *,
        prepare: Prepare,
        home: str | None = None,
        quota: OwnQuota = DEFAULT,
        permissions: Iterable[str] = ALL_PERMISSIONS,
        enabled: bool = True,
    ) -> Account:
        check_name(name)
        home = check_home(name if home is None else home)
        chosen = check_permissions(permissions)
        if self.get(name) is not None:  # told before the costly hash; the lock below decides
            raise _taken(name)
        hashed = self._passwords.hash(password)
        with self._db.write() as db:
            self._check_free(db, name, home)
            number, now = self._free_id(db), time.time()
            account = Account(number, name, home, quota, enabled, chosen, now, now)
            db.execute(_INSERT, _row_of(account, hashed))
            prepare(account)
        return account

    def get(self, name: str) -> Account | None:
        row = self._find(name)
        return _account(row) if row else None

    def by_id(self, account_id: int) -> Account | None:
        with self._db.read() as db:
            row = db.execute(f"{_SELECT} WHERE id = ?", (account_id,)).fetchone()
        return _account(row) if row else None

    def credential(self, name: str) -> Credential | None:
        row = self._find(name)
        return Credential(_account(row), row[-1]) if row else None

    def authenticate(self, name: str, password: str) -> Credential:
        row = self._find(name)
        hashed = row[-1] if row else self._passwords.nobody
        matches = self._passwords.matches(hashed, password)
        if row is None or not matches or not (account := _account(row)).enabled:
            raise Refusal("auth-failed", "wrong user name or password, or the account is disabled")
        if not self._passwords.stale(hashed):
            return Credential(account, hashed)
        renewed = self._renew(account, hashed, password)
        # without one, somebody else renewed it, or changed the password: it is verified again
        return Credential(account, renewed) if renewed else self.authenticate(name, password)

    def set_password(self, name: str, password: str, mark: str | None = None) -> Account:
        if self.get(name) is None:
            raise _missing(name)
        hashed = self._passwords.hash(password)
        with self._db.write() as db:
            account = _one(db, name)
            changed = db.execute(
                "UPDATE account SET hash = ?, password_changed = ? WHERE id = ? AND hash = "
                "coalesce(?, hash)",
                (hashed, time.time(), account.id, mark),
            )
            if not changed.rowcount:
                raise Refusal("auth-failed", "the password was changed meanwhile by somebody else")
            return _one(db, name)

    def change(
        self,
        name: str,
        *,
        quota: OwnQuota | None = None,
        permissions: Iterable[str] | None = None,
        enabled: bool | None = None,
    ) -> Account:
        chosen = None if permissions is None else _join(check_permissions(permissions))
        if not is_name(name):
            raise _missing(name)
        with self._db.write() as db:
            db.execute(_CHANGE, (_plain(quota), chosen, enabled, name))
            return _one(db, name)

    def remove(self, name: str) -> Account:
        with self._db.write() as db:
            account = _one(db, name)
            db.execute("DELETE FROM account WHERE id = ?", (account.id,))
        return account

    def list(self) -> Iterator[Account]:
        last = ""
        while True:  # by pages: a slow reader must not hold a snapshot open
            with self._db.read() as db:
                rows = db.execute(
                    f"{_SELECT} WHERE name > ? ORDER BY name LIMIT ?", (last, _PAGE)
                ).fetchall()
            yield from map(_account, rows)
            if len(rows) < _PAGE:
                return
            last = rows[-1][1]

    def close(self) -> None:
        self._db.close()

    def _renew(self, account: Account, old: str, password: str) -> str | None:
        """Hash anew with today's parameters; the hash it has now, None where `old` was changed."""
        try:
            hashed = self._passwords.hash(password)
            with self._db.write() as db:
                renewed = db.execute(
                    "UPDATE account SET hash = ? WHERE id = ? AND hash = ?",
                    (hashed, account.id, old),
                )
        except Refusal:
            return old  # the next log-in tries again; this one is right anyway
        return hashed if renewed.rowcount else None

    def _find(self, name: str) -> _Row | None:
        if not is_name(name):
            return None
        with self._db.read() as db:
            row: _Row | None = db.execute(f"{_SELECT} WHERE name = ?", (name,)).fetchone()
        return row

    def _check_free(self, db: sqlite3.Connection, name: str, home: str) -> None:
        if db.execute("SELECT 1 FROM account WHERE name = ?", (name,)).fetchone():
            raise _taken(name)
        conflict = db.execute(_HOME_CONFLICT, {"home": home}).fetchone()
        if conflict:
            raise Refusal(
                "exists",
                f"the home {home!r} and the home {conflict[1]!r} of {conflict[0]} would share "
                "files; homes must be disjoint",
            )

    def _free_id(self, db: sqlite3.Connection) -> int:
        free = int(db.execute(_FREE_ID).fetchone()[0])
        if free > self._max:
            raise Refusal(
                "denied",
                f"all {self._max} accounts that accounts.max allows exist; remove one or raise it",
            )
        return free


def _one(db: sqlite3.Connection, name: str) -> Account:
    row = None
    if is_name(name):
        row = db.execute(f"{_SELECT} WHERE name = ?", (name,)).fetchone()
    if row is None:
        raise _missing(name)
    return _account(row)


def _account(row: _Row) -> Account:
    number, name, home, quota, enabled, permissions, created, password_changed, _ = row
    own: OwnQuota = DEFAULT
    if isinstance(quota, int):
        own = Bytes(quota)
    elif quota == "unlimited":
        own = "unlimited"
    chosen = frozenset(permissions.split())
    return Account(number, name, home, own, bool(enabled), chosen, created, password_changed)


def _row_of(account: Account, hashed: str) -> tuple[int | str | float | None, ...]:
    return (
        account.id,
        account.name,
        account.home,
        _plain(account.quota),
        int(account.enabled),
        _join(account.permissions),
        account.created,
        account.password_changed,
        hashed,
    )


def _plain(quota: OwnQuota | None) -> int | str | None:
    return int(quota) if isinstance(quota, int) else quota


def _join(permissions: frozenset[str]) -> str:
    return " ".join(name for name in PERMISSIONS if name in permissions)


def _taken(name: str) -> Refusal:
    return Refusal("exists", f"there is an account named {name!r} already")


def _missing(name: str) -> Refusal:
    return Refusal("not-found", f"there is no account named {name[:64]!r}")
