"""What the keeper tells of accounts and addresses."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from argon2 import PasswordHasher

from forkd import reports
from forkd.accounts import enrol, open_accounts, passwords
from forkd.config import Config, Limits, Log, Server, Storage, Tls
from forkd.helpers.informant import Informant
from forkd.ledger.file import LedgerFile
from forkd.limits.file import LimitsFile, limits_path
from forkd.limits.table import ADDRESS, USER, open_table
from forkd.link import MAX_PACKET
from forkd.log import open_log
from forkd.messages import Inform, Rows, encode
from forkd.quota import MappedLedger, ledger_path
from forkd.serving.pool import Mailbox
from forkd.supervisor import prepare


class Rig:
    def __init__(self, folder: Path) -> None:
        self.config = Config(
            server=Server(state_dir=str(folder), runtime_dir=str(folder)),
            storage=Storage(path=str(folder / "data")),
            tls=Tls(mode="off"),
            limits=Limits(sessions_per_user=3),
            log=Log(file=str(folder / "log")),
        )
        prepare.prepare(self.config)
        self.ledger = LedgerFile(ledger_path(self.config))
        self.told: list[Rows] = []
        self.mailbox = Mailbox()
        self.informant = Informant(
            self.config,
            self.ledger,
            LimitsFile(limits_path(self.config)),
            open_log(self.config.log),
            self.mailbox,
            self.told.append,
        )

    def add(self, name: str, home: str | None = None) -> None:
        accounts = open_accounts(self.config)
        ledger = MappedLedger(self.ledger, 0)
        accounts.add(name, "a password", prepare=enrol.for_admin(self.config, ledger, 7), home=home)
        accounts.close()

    def ask(self, question: Inform) -> list[Rows]:
        self.told.clear()
        self.informant.submit(question)
        ends = time.monotonic() + 30
        while not self.told or self.told[-1].more:
            assert time.monotonic() < ends
            self.mailbox.deliver()
            time.sleep(0.01)
        return list(self.told)


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    quick = partial(PasswordHasher, time_cost=1, memory_cost=8, parallelism=1)
    monkeypatch.setattr(passwords, "PasswordHasher", quick)
    rig = Rig(tmp_path)
    yield rig
    rig.ledger.close()


def test_accounts_are_told_with_what_is_known_of_them(rig: Rig) -> None:
    rig.add("alice")
    rig.add("bob")
    limits = open_table(rig.config, 5)
    assert limits.enter(USER + "alice", 0)
    limits.failed(USER + "alice")
    limits.file.close()
    (rows,) = rig.ask(Inform(1, "accounts"))
    alice, bob = rows.rows
    shown = {"name": "alice", "used": 7, "sessions": 1, "sessions_limit": 3, "failed": 1}
    assert shown.items() <= alice.items()
    assert (bob["name"], bob["sessions"], bob["failed"]) == ("bob", 0, 0)
    assert set(alice) == set(reports.Account.__struct_fields__)
    (rows,) = rig.ask(Inform(2, "accounts", "bob"))
    assert (rows.tag, rows.rows) == (2, [bob])
    assert rig.ask(Inform(3, "accounts", "nobody")) == [Rows(3, [], False)]


def test_many_accounts_come_in_packets(rig: Rig) -> None:
    for number in range(30):
        rig.add(f"user{number:02}", home="/".join([f"h{number}", *["ä" * 100] * 9]))
    pages = rig.ask(Inform(1, "accounts"))
    assert len(pages) > 1
    assert all(len(encode(page)) <= MAX_PACKET for page in pages)
    names = [row["name"] for page in pages for row in page.rows]
    assert names == [f"user{number:02}" for number in range(30)]


def test_bans_are_told_and_lifted(rig: Rig) -> None:
    limits = open_table(rig.config, 0)
    for _ in range(2):
        limits.failed(ADDRESS + "192.0.2.9")
    limits.ban("192.0.2.9", 600)
    limits.failed(ADDRESS + "192.0.2.1")
    limits.file.close()
    (rows,) = rig.ask(Inform(1, "bans"))
    assert [(row["address"], row["failures"]) for row in rows.rows] == [
        ("192.0.2.9", 2),
        ("192.0.2.1", 1),
    ]
    (rows,) = rig.ask(Inform(2, "lift", "192.0.2.9"))
    assert [row["address"] for row in rows.rows] == ["192.0.2.9"]
    assert rig.ask(Inform(3, "lift", "192.0.2.9")) == [Rows(3, [], False)]
    (rows,) = rig.ask(Inform(4, "bans"))
    assert len(rows.rows) == 1


def test_what_cannot_be_read_is_a_failure(rig: Rig) -> None:
    Path(rig.config.server.state_dir, "accounts.db").write_bytes(b"this is no database")
    (rows,) = rig.ask(Inform(1, "accounts"))
    assert rows.rows == []
    assert rows.failure
