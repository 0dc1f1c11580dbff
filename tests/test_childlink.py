from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from forkd.childlink import ChildLink
from forkd.config import Log as LogSettings
from forkd.link import Link, link_pair
from forkd.log import Log, open_log
from forkd.messages import Drain, Reopen


@dataclass
class Ends:
    master: Link
    child: ChildLink
    log: Log
    folder: Path

    def opened(self, name: str) -> int:
        return os.open(self.folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def text(self, name: str) -> str:
        return (self.folder / name).read_text()


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Ends]:
    ours, theirs = link_pair()
    log = open_log(LogSettings(file=str(tmp_path / "log"), xferlog=str(tmp_path / "xferlog")))
    ends = Ends(Link(ours), ChildLink(theirs, log), log, tmp_path)
    yield ends
    ends.master.close()
    ends.child.close()
    log.close()


def send(ends: Ends, message: Reopen | Drain, *names: str) -> None:
    files = [ends.opened(name) for name in names]
    ends.master.send(message, files)
    for fd in files:
        os.close(fd)


def test_the_log_goes_on_in_the_files_that_come(ends: Ends) -> None:
    before = open_files()
    send(ends, Reopen(log=1, xferlog=0), "new-xferlog", "new-log")
    ends.master.send(Drain())
    assert ends.child.receive() == [Drain()]
    ends.log.info("here")
    assert "here" in ends.text("new-log")
    assert ends.text("log") == ""
    assert open_files() == before


def test_files_that_nobody_asked_for_are_closed(ends: Ends) -> None:
    before = open_files()
    send(ends, Drain(), "stray")
    send(ends, Reopen(log=5, xferlog=-1), "beyond")
    assert ends.child.receive() == [Drain()]
    ends.log.info("as before")
    assert "as before" in ends.text("log")
    assert open_files() == before


def test_standard_error_stays_what_it_is(tmp_path: Path) -> None:
    ours, theirs = link_pair()
    master, log = Link(ours), open_log(LogSettings())
    child = ChildLink(theirs, log)
    with (tmp_path / "other").open("wb") as other:
        master.send(Reopen(log=0), [other.fileno()])
    before = open_files()
    assert child.receive() == []
    assert (open_files(), log.descriptors) == (before, [])
    master.close()
    child.close()


def test_files_of_a_child_that_does_not_read_are_kept_until_it_does(ends: Ends) -> None:
    while not ends.master.wants_write:
        ends.master.send(Drain())
    send(ends, Reopen(log=0), "late")
    while ends.master.wants_write:
        ends.child.receive()
        ends.master.flush()
    ends.child.receive()
    ends.log.info("here")
    assert "here" in ends.text("late")


def test_a_master_takes_no_files(ends: Ends) -> None:
    before = open_files()
    ends.child.send(Drain(), [0])
    assert ends.master.receive() == [Drain()]
    assert open_files() == before
