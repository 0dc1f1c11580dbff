"""Accounts: who may log in, with which folder, quota and permissions.

Rules
  1. `Accounts` is the seam: code outside knows the Protocol alone.  A fleet will share accounts
     through a database server behind the same methods.  sqlite.py is the embedded one.
  2. A refused log-in looks and takes the same, whether the name is unknown, the password wrong or
     the account disabled: a hash of the same cost is verified in every case.
  3. An account's id is small and reused: it is the index into the quota ledger.  `prepare` makes
     the ledger's cell ready before the account exists for anybody else.
  4. Homes are disjoint: none equals another or lies inside one.  A byte belongs to one account.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from forkd.config import PERMISSIONS, Config, Limit, Register
from forkd.errors import Refusal
from forkd.units import Bytes

DEFAULT: Literal["default"] = "default"
OwnQuota = Bytes | Literal["default", "unlimited"]
"""An account's quota: bytes of its own, "unlimited", or "default" for what the config says."""

ALL_PERMISSIONS = frozenset(PERMISSIONS)
_STAGING = ".forkd"
"""The folder below storage.path that is the server's own."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")


@dataclass(frozen=True, slots=True)
class Account:
    """One account.  `home` is a folder below storage.path; times are seconds since 1970."""

    id: int
    name: str
    home: str
    quota: OwnQuota
    enabled: bool
    permissions: frozenset[str]
    created: float
    password_changed: float

    def limit(self, default: Limit) -> int | None:
        """The limit in bytes that holds for it, None without one; `default` is quota.default."""
        effective = default if self.quota == DEFAULT else self.quota
        return None if isinstance(effective, str) else int(effective)


@dataclass(frozen=True, slots=True)
class Credential:
    """An account and a `mark` that no other password of any account ever has."""

    account: Account
    mark: str


Prepare = Callable[[Account], None]
"""Called before a new account becomes visible; what it raises undoes the addition."""


class Accounts(Protocol):
    """Where accounts are kept.  Every method may raise Refusal busy or io-error."""

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
        """Make an account; `home` None is a folder of its name.

        `prepare` clears the ledger's cell of the account's id and sets its limit (enrol.py).
        Raises Refusal: bad-name, exists, weak-password, bad-request, denied (accounts.max).
        """

    def get(self, name: str) -> Account | None:
        """The account of this name."""

    def by_id(self, account_id: int) -> Account | None:
        """The account of this id."""

    def credential(self, name: str) -> Credential | None:
        """The account, enabled or not, with the mark of its password.  No hash is computed."""

    def authenticate(self, name: str, password: str) -> Credential:
        """The enabled account whose password this is.  Raises Refusal auth-failed.

        Takes tens of milliseconds of CPU: never on an event loop's thread.
        """

    def set_password(self, name: str, password: str, mark: str | None = None) -> Account:
        """Raises Refusal: not-found, weak-password.

        With a `mark`, only while that still is the mark: else Refusal auth-failed, as whoever
        proved to know the password has been overtaken by another change.
        """

    def change(
        self,
        name: str,
        *,
        quota: OwnQuota | None = None,
        permissions: Iterable[str] | None = None,
        enabled: bool | None = None,
    ) -> Account:
        """Change what is not None and tell the result.  Raises Refusal: not-found, bad-request.

        The home stays: another one would need its bytes counted anew.
        """

    def remove(self, name: str) -> Account:
        """Remove it and tell what it was; its files are the caller's.  Raises Refusal not-found."""

    def list(self) -> Iterator[Account]:
        """All accounts, by name."""

    def close(self) -> None:
        """Let go of what this thread holds."""


def open_accounts(config: Config) -> Accounts:
    """The accounts of this configuration.  Raises StartError where they cannot be used.

    Nothing stays open: the result may be made before a fork and used after it.
    """
    from forkd.accounts.sqlite import DATABASE, SqliteAccounts

    return SqliteAccounts(os.path.join(config.server.state_dir, DATABASE), config.accounts)


def register(
    accounts: Accounts, rules: Register, name: str, password: str, prepare: Prepare
) -> Account:
    """Make an account for a stranger, as [register] allows.

    Raises Refusal: register-closed, register-refused, weak-password.
    """
    if not rules.enabled:
        raise Refusal("register-closed", "this server does not let strangers make accounts")
    try:
        return accounts.add(
            name,
            password,
            prepare=prepare,
            quota=DEFAULT if rules.quota is None else rules.quota,
            permissions=ALL_PERMISSIONS if rules.permissions is None else rules.permissions,
        )
    except Refusal as refusal:
        if refusal.code == "bad-name":
            raise Refusal("register-refused", refusal.message) from None
        if refusal.code == "denied":
            raise Refusal("register-refused", "this server takes no further accounts") from None
        if refusal.code == "exists":  # whose home is in the way is none of a stranger's business
            raise Refusal(
                "register-refused", f"the name {name!r} is taken; choose another one"
            ) from None
        raise


def is_name(name: str) -> bool:
    """Whether an account may have this name."""
    return _NAME.fullmatch(name) is not None


def check_name(name: str) -> str:
    """A name an account may have.  Raises Refusal bad-name."""
    if not is_name(name):
        raise Refusal(
            "bad-name",
            f"{name[:64]!r} cannot be an account's name: use 1 to 32 of a-z, 0-9, '.', '_', '-', "
            "and begin with a letter or digit",
        )
    return name


def check_home(home: str) -> str:
    """A home folder below storage.path, in normal form.  Raises Refusal bad-name."""
    parts = [part for part in home.split("/") if part not in ("", ".")]
    if home.startswith("/") or not parts or ".." in parts:
        why = "must be a folder below storage.path, without '..'"
    elif parts[0].startswith(_STAGING):
        why = f"begins with {_STAGING}, which is the server's own"
    elif not all(part.isprintable() for part in parts):
        why = "holds characters that cannot be printed"
    elif any(len(part.encode()) > 255 for part in parts) or len(home) > 1024:
        why = "is too long"
    else:
        return "/".join(parts)
    raise Refusal("bad-name", f"the home {home[:64]!r} {why}")


def check_permissions(permissions: Iterable[str]) -> frozenset[str]:
    """Known permissions.  Raises Refusal bad-request."""
    chosen = frozenset(permissions)
    unknown = sorted(chosen - ALL_PERMISSIONS)
    if unknown:
        known = ", ".join(PERMISSIONS)
        raise Refusal("bad-request", f"{unknown[0][:64]!r} is no permission; known are {known}")
    return chosen
