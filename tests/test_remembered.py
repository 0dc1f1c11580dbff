"""Remembered log-ins are worth something only while the account is as it was."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from argon2 import PasswordHasher

from forkd import config as configuration
from forkd.accounts import Account, Credential
from forkd.accounts.sqlite import DATABASE, SqliteAccounts
from forkd.errors import Refusal
from forkd.serving.remembered import Remembered

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
RULES = configuration.Accounts(max=10, min_password=4)


def nothing(_: Account) -> None:
    """The ledger is not asked here."""


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / DATABASE)


@pytest.fixture
def accounts(path: str) -> Iterator[SqliteAccounts]:
    opened = SqliteAccounts(path, RULES, CHEAP)
    for name in ("alice", "bob"):
        opened.add(name, "secret", prepare=nothing)
    yield opened
    opened.close()


@pytest.fixture
def memory(accounts: SqliteAccounts) -> Remembered:
    """It knows alice's password."""
    made = Remembered(accounts, 60.0)
    assert made.recall("alice", "secret") is None
    made.authenticate("alice", "secret")
    known = made.recall("alice", "secret")
    assert known is not None
    assert known.account.name == "alice"
    return made


def test_nothing_else_is_recalled(memory: Remembered) -> None:
    for name, password in (
        ("bob", "secret"),
        ("alice", "Secret"),
        ("alice", ""),
        ("", "alicesecret"),
        ("alic", "esecret"),
        ("alices", "ecret"),
        ("alice", "\ud800"),
    ):
        assert memory.recall(name, password) is None


def test_a_wrong_password_is_not_remembered(memory: Remembered) -> None:
    for _ in range(2):
        with pytest.raises(Refusal):
            memory.authenticate("bob", "wrong")
        assert memory.recall("bob", "wrong") is None


CHANGES: dict[str, Callable[[SqliteAccounts], object]] = {
    "another password": lambda a: a.set_password("alice", "other"),
    "the same password, hashed anew": lambda a: a.set_password("alice", "secret"),
    "disabled": lambda a: a.change("alice", enabled=False),
    "removed": lambda a: a.remove("alice"),
    "removed and made again": lambda a: (
        a.remove("alice"),
        a.add("alice", "secret", prepare=nothing),
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_by_another_process_is_known_at_once(
    memory: Remembered, path: str, change: Callable[[SqliteAccounts], object]
) -> None:
    elsewhere = SqliteAccounts(path, RULES, CHEAP)
    change(elsewhere)
    elsewhere.close()
    assert memory.recall("alice", "secret") is None


def test_what_else_changes_is_told_as_it_is_now(memory: Remembered, path: str) -> None:
    elsewhere = SqliteAccounts(path, RULES, CHEAP)
    elsewhere.change("alice", permissions={"read"})
    elsewhere.close()
    known = memory.recall("alice", "secret")
    assert known is not None
    assert known.account.permissions == {"read"}


def test_a_password_changed_while_it_is_verified_is_not_remembered(
    accounts: SqliteAccounts,
) -> None:
    class Slow(SqliteAccounts):
        """The password is changed right after it was found right."""

        def authenticate(self, name: str, password: str) -> Credential:
            proved = super().authenticate(name, password)
            accounts.set_password(name, "other")
            return proved

    slow = Slow(accounts._db._path, RULES, CHEAP)
    memory = Remembered(slow, 60.0)
    memory.authenticate("alice", "secret")
    assert memory.recall("alice", "secret") is None
    assert memory.recall("alice", "other") is None
    slow.close()


def test_it_ends_with_its_time(accounts: SqliteAccounts) -> None:
    memory = Remembered(accounts, 0.05)
    memory.authenticate("alice", "secret")
    time.sleep(0.06)
    assert memory.recall("alice", "secret") is None


def test_off_is_off(accounts: SqliteAccounts) -> None:
    memory = Remembered(accounts, 0.0)
    memory.authenticate("alice", "secret")
    assert memory.recall("alice", "secret") is None


def test_the_oldest_makes_room(accounts: SqliteAccounts) -> None:
    memory = Remembered(accounts, 60.0, entries=2)
    accounts.add("carol", "secret", prepare=nothing)
    for name in ("alice", "bob", "alice", "carol"):
        memory.authenticate(name, "secret")
    recalled = [name for name in ("alice", "bob", "carol") if memory.recall(name, "secret")]
    assert recalled == ["alice", "carol"]
    assert len(memory._entries) == 2


def test_no_password_is_kept(memory: Remembered) -> None:
    kept = repr(memory._entries)
    assert "secret" not in kept
    assert len(next(iter(memory._entries))) == 32


def test_another_process_cannot_use_it(accounts: SqliteAccounts, memory: Remembered) -> None:
    other = Remembered(accounts, 60.0)
    other._entries.update(memory._entries)
    assert other.recall("alice", "secret") is None
