"""Accounts: names, homes, ids, passwords, registration; the real SQLite file throughout."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher, extract_parameters
from hypothesis import given
from hypothesis import strategies as st

from forkd import config as configuration
from forkd.accounts import (
    ALL_PERMISSIONS,
    Account,
    check_home,
    check_name,
    open_accounts,
    register,
)
from forkd.accounts.sqlite import DATABASE, SCHEMA_VERSION, SqliteAccounts
from forkd.errors import Refusal, StartError
from forkd.units import Bytes

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
RULES = configuration.Accounts(max=5, min_password=4)


def nothing(_: Account) -> None:
    """The ledger is not asked here."""


@contextmanager
def refused(code: str) -> Iterator[pytest.ExceptionInfo[Refusal]]:
    with pytest.raises(Refusal) as caught:
        yield caught
    assert caught.value.code == code


@pytest.fixture
def accounts(tmp_path: Path) -> Iterator[SqliteAccounts]:
    opened = SqliteAccounts(str(tmp_path / DATABASE), RULES, CHEAP)
    yield opened
    opened.close()


def test_an_account_is_told_as_it_was_added(accounts: SqliteAccounts) -> None:
    added = accounts.add(
        "alice",
        "secret",
        prepare=nothing,
        home="teams//a/./alice/",
        quota=Bytes(4096),
        permissions={"read", "list"},
        enabled=False,
    )
    assert added == accounts.get("alice") == accounts.by_id(added.id)
    assert (added.home, added.quota, added.enabled) == ("teams/a/alice", 4096, False)
    assert added.permissions == {"read", "list"}
    assert added.created == added.password_changed > 0


def test_an_account_has_sensible_defaults(accounts: SqliteAccounts) -> None:
    added = accounts.add("bob", "secret", prepare=nothing)
    assert (added.id, added.home, added.quota, added.enabled) == (1, "bob", "default", True)
    assert added.permissions == ALL_PERMISSIONS
    assert accounts.get("nobody") is None
    assert accounts.by_id(2) is None


def test_limits() -> None:
    def account(quota: Bytes | str) -> Account:
        return Account(1, "a", "a", quota, True, ALL_PERMISSIONS, 0.0, 0.0)  # type: ignore[arg-type]

    assert account("default").limit(Bytes(7)) == 7
    assert account("default").limit("unlimited") is None
    assert account("unlimited").limit(Bytes(7)) is None
    assert account(Bytes(0)).limit(Bytes(7)) == 0


@pytest.mark.parametrize(
    "name", ["", "Alice", "-a", ".a", "a b", "a/b", "a" * 33, "é", "a\n", "\0"]
)
def test_names_that_are_refused(accounts: SqliteAccounts, name: str) -> None:
    with refused("bad-name"):
        accounts.add(name, "secret", prepare=nothing)


def test_names_that_are_taken_are_refused(accounts: SqliteAccounts) -> None:
    accounts.add("alice", "secret", prepare=nothing)
    with refused("exists"):
        accounts.add("alice", "secret", prepare=nothing, home="elsewhere")


@pytest.mark.parametrize(
    "home",
    ["", "/", ".", "/abs", "..", "a/../b", ".forkd", ".forkd/1", ".forkd2", "a\0b", "a\nb",
     "a/" + "b" * 256, "\udcff"],
)  # fmt: skip
def test_homes_that_are_refused(accounts: SqliteAccounts, home: str) -> None:
    with refused("bad-name"):
        accounts.add("alice", "secret", prepare=nothing, home=home)


@given(st.text(max_size=30))
def test_an_accepted_home_stays_below_the_storage(home: str) -> None:
    try:
        checked = check_home(home)
    except Refusal:
        return
    assert os.path.normpath("/storage/" + checked) == "/storage/" + checked
    assert check_home(checked) == checked


@given(st.text(max_size=40))
def test_an_accepted_name_is_a_good_home(name: str) -> None:
    try:
        check_name(name)
    except Refusal:
        return
    assert check_home(name) == name


@pytest.mark.parametrize("other", ["team/a", "team", "team/a/b", "team/a/b/c"])
def test_homes_that_share_files_are_refused(accounts: SqliteAccounts, other: str) -> None:
    accounts.add("alice", "secret", prepare=nothing, home="team/a")
    with refused("exists") as caught:
        accounts.add("bob", "secret", prepare=nothing, home=other)
    assert "alice" in caught.value.message


@pytest.mark.parametrize("other", ["team/ab", "team/b", "tea", "team%", "team_a", "a/team/a"])
def test_homes_that_only_look_alike_are_accepted(accounts: SqliteAccounts, other: str) -> None:
    accounts.add("alice", "secret", prepare=nothing, home="team/a")
    assert accounts.add("bob", "secret", prepare=nothing, home=other).home == other


def test_an_id_is_the_smallest_free_one(accounts: SqliteAccounts) -> None:
    for name in ("a", "b", "c"):
        accounts.add(name, "secret", prepare=nothing)
    assert accounts.remove("b").id == 2
    assert accounts.remove("a").id == 1
    ids = [accounts.add(name, "secret", prepare=nothing).id for name in ("d", "e", "f")]
    assert ids == [1, 2, 4]


def test_there_are_no_more_accounts_than_allowed(accounts: SqliteAccounts) -> None:
    for number in range(RULES.max):
        accounts.add(f"u{number}", "secret", prepare=nothing)
    with refused("denied") as caught:
        accounts.add("more", "secret", prepare=nothing)
    assert "accounts.max" in caught.value.message
    accounts.remove("u2")
    assert accounts.add("more", "secret", prepare=nothing).id == 3


def test_what_cannot_be_prepared_is_not_added(accounts: SqliteAccounts, tmp_path: Path) -> None:
    def fail(account: Account) -> None:
        with closing(sqlite3.connect(tmp_path / DATABASE)) as other:
            assert other.execute("SELECT count(*) FROM account").fetchone() == (0,)
        raise Refusal("busy", "no")

    with refused("busy"):
        accounts.add("alice", "secret", prepare=fail)
    assert accounts.get("alice") is None
    assert accounts.add("alice", "secret", prepare=nothing).id == 1


def test_authentication(accounts: SqliteAccounts) -> None:
    accounts.add("alice", "sécret ☃", prepare=nothing)
    assert accounts.authenticate("alice", "sécret ☃").account.name == "alice"
    for name, password in (
        ("alice", "secret"), ("alice", ""), ("alice", "\udcff"), ("Alice", "sécret ☃"),
        ("nobody", "sécret ☃"), ("", ""), ("a\0", "x"), ("\udcff", "x"),
    ):  # fmt: skip
        with refused("auth-failed"):
            accounts.authenticate(name, password)


def test_every_failure_reads_the_same_and_costs_one_verification(tmp_path: Path) -> None:
    class Counting(PasswordHasher):
        verified: list[str]

        def verify(self, hash: str | bytes, password: str | bytes) -> bool:
            self.verified.append(str(hash))
            return super().verify(hash, password)

    hasher = Counting(time_cost=1, memory_cost=8, parallelism=1)
    hasher.verified = []
    accounts = SqliteAccounts(str(tmp_path / DATABASE), RULES, hasher)
    accounts.add("alice", "secret", prepare=nothing)
    accounts.add("gone", "secret", prepare=nothing, enabled=False)
    sentences = set()
    for name, password in (("alice", "wrong"), ("gone", "secret"), ("nobody", "secret")):
        with refused("auth-failed") as caught:
            accounts.authenticate(name, password)
        sentences.add(caught.value.message)
    accounts.close()
    assert len(sentences) == 1
    assert len(hasher.verified) == 3
    costs = [extract_parameters(verified) for verified in hasher.verified]
    assert costs[0] == costs[1] == costs[2]


def test_a_new_password_replaces_the_old(accounts: SqliteAccounts) -> None:
    before = accounts.add("alice", "secret", prepare=nothing)
    after = accounts.set_password("alice", "other")
    assert after.password_changed > before.password_changed
    assert accounts.authenticate("alice", "other").account == after
    with refused("auth-failed"):
        accounts.authenticate("alice", "secret")
    with refused("not-found"):
        accounts.set_password("bob", "other")


@pytest.mark.parametrize("password", ["", "abc", "x" * 1025])
def test_weak_passwords_are_refused(accounts: SqliteAccounts, password: str) -> None:
    with refused("weak-password"):
        accounts.add("alice", password, prepare=nothing)
    accounts.add("alice", "good", prepare=nothing)
    with refused("weak-password"):
        accounts.set_password("alice", password)


def test_a_log_in_renews_a_hash_of_other_parameters(tmp_path: Path) -> None:
    path = str(tmp_path / DATABASE)
    old = SqliteAccounts(path, RULES, CHEAP)
    added = old.add("alice", "secret", prepare=nothing)
    old.close()
    dearer = PasswordHasher(time_cost=2, memory_cost=16, parallelism=1)
    new = SqliteAccounts(path, RULES, dearer)
    assert new.authenticate("alice", "secret").account == added
    with closing(sqlite3.connect(path)) as db:
        (hashed,) = db.execute("SELECT hash FROM account").fetchone()
    assert not dearer.check_needs_rehash(hashed)
    assert new.authenticate("alice", "secret").account == added
    new.close()


def test_a_password_is_changed_only_while_its_mark_holds(accounts: SqliteAccounts) -> None:
    accounts.add("alice", "secret", prepare=nothing)
    accounts.add("bob", "secret", prepare=nothing)
    proved = accounts.authenticate("alice", "secret")
    accounts.set_password("alice", "other", proved.mark)
    with refused("auth-failed"):
        accounts.set_password("alice", "third", proved.mark)
    with refused("auth-failed"):
        accounts.set_password("bob", "third", proved.mark)
    with refused("not-found"):
        accounts.set_password("carol", "third", proved.mark)
    accounts.authenticate("alice", "other")
    accounts.authenticate("bob", "secret")


def test_who_is_overtaken_while_his_hash_is_renewed_is_verified_anew(tmp_path: Path) -> None:
    path = str(tmp_path / DATABASE)
    dearer = PasswordHasher(time_cost=2, memory_cost=16, parallelism=1)
    other = SqliteAccounts(path, RULES, dearer)

    class Overtaken(PasswordHasher):
        """Somebody else does `meanwhile` while the hash is made."""

        meanwhile: Callable[[], object] = staticmethod(lambda: None)

        def hash(self, *args: Any, **options: Any) -> str:
            hashed = super().hash(*args, **options)
            self.meanwhile()
            return hashed

    for change, told in (("secret", None), ("other", "auth-failed")):
        SqliteAccounts(path, RULES, CHEAP).add("alice", "secret", prepare=nothing)
        hasher = Overtaken(time_cost=2, memory_cost=16, parallelism=1)
        accounts = SqliteAccounts(path, RULES, hasher)
        hasher.meanwhile = lambda new=change: other.set_password("alice", new)
        if told is None:
            proved = accounts.authenticate("alice", "secret")
            assert proved == accounts.credential("alice")
        else:
            with refused(told):
                accounts.authenticate("alice", "secret")
        accounts.remove("alice")
        accounts.close()
    other.close()


def test_changes(accounts: SqliteAccounts) -> None:
    accounts.add("alice", "secret", prepare=nothing, permissions=["read"])
    assert accounts.change("alice", quota="unlimited").quota == "unlimited"
    assert accounts.change("alice", quota=Bytes(0)).quota == 0
    assert accounts.change("alice", permissions=[]).permissions == frozenset()
    changed = accounts.change("alice", enabled=False)
    assert (changed.quota, changed.permissions, changed.enabled) == (0, frozenset(), False)
    with refused("auth-failed"):
        accounts.authenticate("alice", "secret")
    accounts.change("alice", enabled=True, quota="default")
    assert accounts.authenticate("alice", "secret").account.quota == "default"
    with refused("bad-request"):
        accounts.change("alice", permissions=["fly"])
    for missing in ("bob", "\udcff"):
        with refused("not-found"):
            accounts.change(missing, enabled=True)
        with refused("not-found"):
            accounts.remove(missing)


def test_the_list_is_whole_and_in_order(tmp_path: Path) -> None:
    rules = configuration.Accounts(max=2000, min_password=1)
    accounts = SqliteAccounts(str(tmp_path / DATABASE), rules, CHEAP)
    template = ("default", 1, "read", 0.0, 0.0, "x")
    with closing(sqlite3.connect(tmp_path / DATABASE)) as db:
        db.executemany(
            "INSERT INTO account VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [(n, f"u{n:04}", f"u{n:04}", *template) for n in range(1, 1101)],
        )
        db.commit()
    assert [account.name for account in accounts.list()] == [f"u{n:04}" for n in range(1, 1101)]
    accounts.close()


def test_registration(accounts: SqliteAccounts) -> None:
    with refused("register-closed"):
        register(accounts, configuration.Register(), "alice", "secret", nothing)
    rules = configuration.Register(enabled=True, quota=Bytes(5), permissions=("read",))
    alice = register(accounts, rules, "alice", "secret", nothing)
    assert (alice.quota, alice.permissions) == (5, {"read"})
    with refused("register-refused"):
        register(accounts, rules, "alice", "secret", nothing)
    with refused("register-refused"):
        register(accounts, rules, "../alice", "secret", nothing)
    with refused("weak-password"):
        register(accounts, rules, "bob", "x", nothing)
    bob = register(accounts, configuration.Register(enabled=True), "bob", "secret", nothing)
    assert (bob.quota, bob.permissions) == ("default", ALL_PERMISSIONS)
    for number in range(RULES.max - 2):
        register(accounts, rules, f"u{number}", "secret", nothing)
    with refused("register-refused"):
        register(accounts, rules, "more", "secret", nothing)


def test_the_files_are_private(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        accounts = SqliteAccounts(str(tmp_path / DATABASE), RULES, CHEAP)
        accounts.add("alice", "secret", prepare=nothing)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == dict.fromkeys([DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm"], 0o600)
    accounts.close()


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    config = configuration.Config(server=configuration.Server(state_dir=str(tmp_path)))
    open_accounts(config).close()
    with closing(sqlite3.connect(tmp_path / DATABASE)) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(StartError, match="newer forkd"):
        open_accounts(config)


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    config = configuration.Config(server=configuration.Server(state_dir=str(tmp_path)))
    (tmp_path / DATABASE).write_text("this is no database, it is just text" * 100)
    with pytest.raises(StartError, match=DATABASE):
        open_accounts(config)
    missing = configuration.Config(server=configuration.Server(state_dir=str(tmp_path / "none")))
    with pytest.raises(StartError, match="No such file"):
        open_accounts(missing)


def test_an_odd_path_is_taken_literally(tmp_path: Path) -> None:
    folder = tmp_path / "a%20b?mode=ro#c"
    folder.mkdir()
    accounts = SqliteAccounts(str(folder / DATABASE), RULES, CHEAP)
    accounts.add("alice", "secret", prepare=nothing)
    accounts.close()
    assert (folder / DATABASE).stat().st_size > 0


def test_threads_and_forked_processes_share_it(tmp_path: Path) -> None:
    rules = configuration.Accounts(max=1000, min_password=1)
    accounts = SqliteAccounts(str(tmp_path / DATABASE), rules, CHEAP)
    accounts.add("parent", "secret", prepare=nothing)  # leaves a connection the fork inherits

    def add_some(who: str) -> None:
        for number in range(10):
            accounts.add(f"{who}-{number}", "secret", prepare=nothing)
        accounts.close()

    children = []
    for child in range(3):
        pid = os.fork()
        if not pid:
            failed = 1
            try:
                add_some(f"p{child}")
                failed = 0
            finally:
                os._exit(failed)
        children.append(pid)
    threads = [threading.Thread(target=add_some, args=(f"t{n}",)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
    found = list(accounts.list())
    assert sorted(account.id for account in found) == list(range(1, 62))
    with closing(sqlite3.connect(tmp_path / DATABASE)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    accounts.close()
