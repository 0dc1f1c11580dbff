from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from forkd.config import Log as LogSettings
from forkd.errors import StartError
from forkd.log import Log, log_to, open_log

TRANSFER = {
    "user": "alice",
    "address": "192.0.2.1:5000",
    "session": "1-7",
    "direction": "up",
    "path": "/in/a.bin",
    "size": 4096,
    "seconds": 0.25,
    "outcome": "ok",
    "door": "native",
}


def make(tmp_path: Path, **settings: object) -> tuple[Log, Path]:
    path = tmp_path / "log"
    log = open_log(LogSettings(file=str(path), **settings))  # type: ignore[arg-type]
    return log, path


def test_json_lines(tmp_path: Path) -> None:
    log, path = make(tmp_path)
    log.bind(role="worker", slot=3).info("worker-ready", pid=17)
    log.close()
    (line,) = path.read_text().splitlines()
    entry = json.loads(line)
    assert entry.pop("time").endswith("Z")
    assert entry == {
        "level": "info",
        "event": "worker-ready",
        "role": "worker",
        "slot": 3,
        "pid": 17,
    }


def test_human_lines(tmp_path: Path) -> None:
    log, path = make(tmp_path, format="human")
    log.warning("odd", path='a "b"', size=3, empty="")
    log.close()
    assert path.read_text().split(" ", 1)[1] == 'WARNING odd path="a \\"b\\"" size=3\n'


def test_a_list_is_told_item_by_item(tmp_path: Path) -> None:
    problems = ["f:1: a is wrong", "f:2: b\n is too"]
    for form, told in (("human", '="f:1: a is wrong; f:2: b\\n is too"'), ("json", None)):
        log, path = make(tmp_path, format=form)
        log.error("reload-failed", problems=problems)
        log.close()
        text = path.read_text()
        path.unlink()
        assert told in text if told else json.loads(text)["problems"] == problems


def test_level_filters_events_but_not_transfers(tmp_path: Path) -> None:
    log, path = make(tmp_path, level="error")
    log.warning("unseen")
    log.transfer(**TRANSFER)  # type: ignore[arg-type]
    log.close()
    (line,) = path.read_text().splitlines()
    entry = json.loads(line)
    assert entry["event"] == "transfer"
    assert entry["bytes"] == 4096
    assert entry["path"] == "/in/a.bin"


def test_transfers_can_be_turned_off(tmp_path: Path) -> None:
    log, path = make(tmp_path, transfers=False)
    log.transfer(**TRANSFER)  # type: ignore[arg-type]
    log.close()
    assert path.read_text() == ""


@pytest.mark.parametrize("form", ["human", "json"])
def test_what_a_peer_sends_cannot_forge_a_line_or_steer_a_terminal(
    tmp_path: Path, form: str
) -> None:
    log, path = make(tmp_path, format=form)
    evil = "a\nb\x1b[31m\x9bc\x7f\u202e\U000e0001 ü"
    log.info("odd", name=evil)
    log.transfer(**{**TRANSFER, "path": evil})  # type: ignore[arg-type]
    log.close()
    text = path.read_text()
    assert text.count("\n") == 2
    assert all(c.isprintable() for c in text.replace("\n", ""))
    assert "ü" in text
    if form == "json":
        entries = [json.loads(line) for line in text.splitlines()]
        assert entries[0]["name"] == evil
        assert entries[1]["path"] == evil


@pytest.mark.parametrize("form", ["human", "json"])
def test_a_name_that_is_not_utf8_is_still_logged(tmp_path: Path, form: str) -> None:
    log, path = make(tmp_path, format=form)
    log.info("odd", name=os.fsdecode(b"\xff"))
    log.transfer(**{**TRANSFER, "path": os.fsdecode(b"/\xff")})  # type: ignore[arg-type]
    log.close()
    assert path.read_text().count("udcff") == 2


def test_secrets_are_masked(tmp_path: Path) -> None:
    log, path = make(tmp_path)
    log.error("oops", password="hunter2", api_token="hunter2")
    log.close()
    assert "hunter2" not in path.read_text()


def test_an_unexpected_error_is_one_line(tmp_path: Path) -> None:
    log, path = make(tmp_path)
    try:
        raise ValueError("why")
    except ValueError as error:
        log.unexpected("oops", error)
    log.close()
    (line,) = path.read_text().splitlines()
    assert "test_log.py" in json.loads(line)["traceback"]


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "no" / "log"
    with pytest.raises(StartError, match=str(missing)):
        open_log(LogSettings(file=str(missing)))


def test_a_full_disk_loses_the_line_only() -> None:
    log = open_log(LogSettings(file="/dev/full"))
    log.info("lost")
    log.close()


def test_a_moved_file_is_made_anew(tmp_path: Path) -> None:
    log, path = make(tmp_path)
    bound = log.bind(slot=1)
    bound.info("before")
    path.rename(tmp_path / "log.1")
    bound.info("still in the old one")
    log.reopen(LogSettings(file=str(path), format="human", level="warning"))
    bound.info("unseen")
    bound.warning("after")
    log.close()
    assert len((tmp_path / "log.1").read_text().splitlines()) == 2
    assert path.read_text().split(" ", 1)[1] == "WARNING after slot=1\n"


def test_a_level_that_was_ordered_holds_when_the_files_are_opened_anew(tmp_path: Path) -> None:
    log, path = make(tmp_path)
    log.set_level("debug")
    log.reopen(log.settings)
    log.debug("seen")
    log.close()
    assert "seen" in path.read_text()


def test_a_reopening_that_fails_changes_nothing(tmp_path: Path) -> None:
    log, path = make(tmp_path)
    with pytest.raises(StartError):
        log.reopen(LogSettings(file=str(tmp_path / "no" / "log")))
    log.info("here")
    log.close()
    assert "here" in path.read_text()


def test_a_pipe_that_nobody_reads_is_not_waited_for() -> None:
    reader, writer = os.pipe()
    log = log_to(writer, LogSettings(format="json"))
    for number in range(5000):
        log.info("event", number=number, filler="x" * 100)
    first = os.read(reader, 1 << 20)
    log.info("after")
    rest = os.read(reader, 1 << 20).decode().splitlines()
    log.close()
    os.close(reader)
    kept = len(first.splitlines())
    assert 0 < kept < 5000
    lost, after = (json.loads(line) for line in rest)
    assert (lost["event"], lost["lines"]) == ("lines-lost", 5000 - kept)
    assert after["event"] == "after"
