from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from forkd.config import Log as LogSettings
from forkd.log import open_log
from forkd.logs import priorities


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The journal, as far as a process can tell."""
    path = tmp_path / "journal"
    path.touch()
    status = path.stat()
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    return path


@pytest.mark.parametrize("format", ["json", "human"])
def test_every_line_for_the_journal_has_its_priority(file: Path, format: str) -> None:
    log = open_log(LogSettings(level="debug", format=format, file=str(file)))
    log.debug("one")
    log.info("two")
    log.warning("three")
    log.error("four")
    for outcome in ("ok", "quota"):
        log.transfer(
            user="u",
            address="a",
            session="s",
            direction="up",
            path="p",
            size=1,
            seconds=0.1,
            outcome=outcome,
            door="native",
        )
    log.flush()
    log.close()
    lines = file.read_text().splitlines()
    assert [line[:3] for line in lines] == ["<7>", "<6>", "<4>", "<3>", "<6>", "<4>"]
    if format == "json":
        assert [json.loads(line[3:])["event"] for line in lines[:2]] == ["one", "two"]


def test_other_files_have_none(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    log = open_log(LogSettings(file=str(other)))
    log.info("event")
    log.close()
    assert other.read_text().startswith("{")


def test_the_journal_is_recognized_by_device_and_inode(file: Path) -> None:
    with file.open() as journal, open(os.devnull) as other:
        assert priorities.is_journal(journal.fileno())
        assert not priorities.is_journal(other.fileno())
        assert not priorities.is_journal(journal.fileno(), {})
    assert not priorities.is_journal(-1)
