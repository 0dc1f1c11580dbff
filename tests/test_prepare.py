"""What is made before anybody serves, and what stops a start."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from forkd.config import Config, Server, Storage, Tls
from forkd.errors import StartError
from forkd.quota import open_ledger
from forkd.supervisor.prepare import prepare


def make_config(folder: Path) -> Config:
    for name in ("state", "run", "data"):
        (folder / name).mkdir(exist_ok=True)
    return Config(
        server=Server(state_dir=str(folder / "state"), runtime_dir=str(folder / "run")),
        storage=Storage(path=str(folder / "data")),
        tls=Tls(mode="off"),
    )


def test_what_is_missing_is_made_and_kept(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    prepare(config)
    assert (tmp_path / "data" / ".forkd").is_dir()
    before = (tmp_path / "state" / "ledger").stat()
    prepare(config)
    assert (tmp_path / "state" / "ledger").stat().st_ino == before.st_ino


def test_a_disk_that_is_not_mounted_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    prepare(config)
    ledger = open_ledger(config)
    ledger.adopt(1, 4096)
    ledger.set_limit(1, "alice", None)
    shutil.rmtree(tmp_path / "data" / ".forkd")
    with pytest.raises(StartError, match="mounted"):
        prepare(config)
    assert ledger.usage(1).used == 4096
    assert not (tmp_path / "data" / ".forkd").exists()
