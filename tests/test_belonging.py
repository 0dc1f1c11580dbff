from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from forkd.config import Config, Server, Storage
from forkd.errors import StartError
from forkd.storage.belonging import claim
from forkd.storage.store import STAGING


def config(folder: Path, state: str) -> Config:
    (folder / state).mkdir(exist_ok=True)
    server = Server(state_dir=str(folder / state))
    return Config(server=server, storage=Storage(path=str(folder / "files")))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "files" / STAGING).mkdir(parents=True)
    return tmp_path


def test_the_first_state_folder_has_the_storage(files: Path) -> None:
    claim(config(files, "one"))
    claim(config(files, "one"))
    with pytest.raises(StartError, match=f"belong to the accounts in {files}/one, not to those"):
        claim(config(files, "two"))
    assert not (files / "two" / "storage-id").exists()
    claim(config(files, "one"))


def test_a_state_folder_may_move(files: Path) -> None:
    claim(config(files, "one"))
    shutil.move(files / "one", files / "moved")
    claim(config(files, "moved"))


def test_it_can_be_given_to_others(files: Path) -> None:
    claim(config(files, "one"))
    os.unlink(files / "files" / f"{STAGING}-belongs-to")
    claim(config(files, "two"))
    with pytest.raises(StartError):
        claim(config(files, "one"))


def test_one_state_folder_may_have_another_storage(files: Path) -> None:
    claim(config(files, "one"))
    shutil.rmtree(files / "files")
    (files / "files" / STAGING).mkdir(parents=True)
    claim(config(files, "one"))


def test_without_a_storage_there_is_nothing_to_claim(tmp_path: Path) -> None:
    claim(config(tmp_path, "one"))
    assert list((tmp_path / "one").iterdir()) == []
