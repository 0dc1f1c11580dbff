"""New folders are flushed in the folders that hold them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from forkd import folders


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that were flushed, in order."""
    done: list[str] = []
    fsync = os.fsync

    def flush(fd: int) -> None:
        fsync(fd)
        done.append(os.readlink(f"/proc/self/fd/{fd}"))

    monkeypatch.setattr(os, "fsync", flush)
    return done


def test_each_new_folder_is_flushed_in_the_one_above(tmp_path: Path, flushed: list[str]) -> None:
    folders.make(str(tmp_path / "a" / "b" / "c"), 0o700)
    assert flushed == [str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a" / "b")]
    assert stat.S_IMODE((tmp_path / "a" / "b" / "c").stat().st_mode) == 0o700


def test_what_is_there_is_left_alone(tmp_path: Path, flushed: list[str]) -> None:
    folders.make(str(tmp_path))
    assert flushed == []


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"")
    with pytest.raises(FileExistsError):
        folders.make(str(tmp_path / "f"))
    with pytest.raises(NotADirectoryError):
        folders.make(str(tmp_path / "f" / "g"))
    assert (tmp_path / "f").read_bytes() == b""


def test_flushing_what_is_no_folder_fails(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        folders.flush(str(tmp_path / "f"))
    with pytest.raises(FileNotFoundError):
        folders.flush(str(tmp_path / "none"))
