"""Enrolment: real folders, a real ledger file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from forkd import config as configuration
from forkd.accounts import ALL_PERMISSIONS, Account, enrol
from forkd.errors import Refusal
from forkd.ledger.file import allocate
from forkd.quota import MappedLedger, ledger_path, open_ledger
from forkd.units import Bytes

ALICE = Account(3, "alice", "team/alice", "default", True, ALL_PERMISSIONS, 0.0, 0.0)


@pytest.fixture
def config(tmp_path: Path) -> configuration.Config:
    for name in ("state", "files"):
        (tmp_path / name).mkdir()
    return configuration.Config(
        server=configuration.Server(state_dir=str(tmp_path / "state")),
        storage=configuration.Storage(path=str(tmp_path / "files")),
        quota=configuration.Quota(default=Bytes(1000)),
    )


@pytest.fixture
def ledger(config: configuration.Config) -> Iterator[MappedLedger]:
    allocate(ledger_path(config), 8)
    opened = open_ledger(config, slot=1)
    yield opened
    opened.file.close()


def test_nothing_of_an_earlier_account_is_inherited(
    config: configuration.Config, ledger: MappedLedger, tmp_path: Path
) -> None:
    ledger.set_limit(3, "former", 5)
    ledger.adopt(3, 5)
    partial = tmp_path / "files/.forkd/3/pabc-0"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"left")
    enrol.for_stranger(config, ledger)(ALICE)
    assert ledger.usage(3).used == 0
    assert ledger.usage(3).limit == 1000
    assert [cell.name for cell in ledger.file.accounts()] == ["alice"]
    assert not partial.exists()


def test_an_id_is_not_given_away_while_uploads_of_it_end(
    config: configuration.Config, ledger: MappedLedger
) -> None:
    ledger.adopt(3, 0)
    ledger.set_limit(3, "former", 10)
    lease = ledger.reserve(3, b"s1", 10, 0)
    with pytest.raises(Refusal) as caught:
        enrol.for_admin(config, ledger, 0)(ALICE)
    assert caught.value.code == "busy"
    ledger.settle(lease, 0)
    enrol.for_admin(config, ledger, 0)(ALICE)


def test_a_stranger_gets_no_folder_that_exists(
    config: configuration.Config, ledger: MappedLedger, tmp_path: Path
) -> None:
    home = tmp_path / "files/team/alice"
    home.parent.mkdir()
    home.symlink_to("/nowhere")
    with pytest.raises(Refusal) as caught:
        enrol.for_stranger(config, ledger)(ALICE)
    assert caught.value.code == "exists"


def test_files_that_are_there_already_are_charged(
    config: configuration.Config, ledger: MappedLedger, tmp_path: Path
) -> None:
    home = tmp_path / "files/team/alice"
    (home / "deep/er").mkdir(parents=True)
    (home / "a").write_bytes(b"x" * 100)
    (home / "deep/er/b").write_bytes(b"x" * 23)
    (home / "link").symlink_to("a")
    (home / "loop").symlink_to(".")
    held = enrol.count_bytes(enrol.home_path(config, ALICE))
    assert held == 123
    enrol.for_admin(config, ledger, held)(ALICE)
    assert ledger.usage(3).used == 123


def test_a_path_may_be_longer_than_any_system_call_takes(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    for depth in range(60):
        name = f"{depth:03}".ljust(250, "x")
        os.mkdir(name, dir_fd=folder)
        below = os.open(name, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
        for size in (1, 2):
            fd = os.open(f"f{size}", os.O_CREAT | os.O_WRONLY, dir_fd=folder)
            os.truncate(fd, size)
            os.close(fd)
    os.close(folder)
    before = os.listdir("/proc/self/fd")
    assert enrol.count_bytes(str(tmp_path)) == 60 * 3
    assert os.listdir("/proc/self/fd") == before


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert enrol.count_bytes(str(tmp_path / "none")) == 0


def test_an_id_beyond_the_ledger_is_refused_with_advice(
    config: configuration.Config, ledger: MappedLedger
) -> None:
    beyond = Account(
        ledger.file.capacity + 1, "bob", "bob", "default", True, ALL_PERMISSIONS, 0.0, 0.0
    )
    with pytest.raises(Refusal, match=r"accounts\.max"):
        enrol.for_admin(config, ledger, 0)(beyond)
