"""Durable before acknowledged: the order of flushes, names and answers."""

from __future__ import annotations

import errno
import os
import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from corerig import Made, Place, place_in

from forkd import syscalls
from forkd.errors import Refusal
from forkd.serving.pool import Mailbox, Pool
from forkd.storage.charged import ChargedTree
from forkd.storage.commit import CROWD, Change, Committer, Folders, Result, make_committer

LONG = 30.0
ABOVE = [("flush folder", ".forkd"), ("flush folder", "data")]
"""What a process flushes once: the folders that hold the account's."""
Steps = list[tuple[str, str]]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with place_in(tmp_path) as made:
        yield made


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    """What is done to the disk, in order, with the name of the file or folder."""
    done: Steps = []

    def recorded(name: str, function: Callable[..., object], fd_at: int = 0) -> object:
        def call(*args: object) -> object:
            what = os.readlink(f"/proc/self/fd/{args[fd_at]}")
            result = function(*args)
            done.append((name, os.path.basename(what)))
            return result

        return call

    monkeypatch.setattr(os, "fdatasync", recorded("flush", os.fdatasync))
    monkeypatch.setattr(os, "fsync", recorded("flush folder", os.fsync))
    monkeypatch.setattr(syscalls, "start_writeback", recorded("begin", syscalls.start_writeback))
    monkeypatch.setattr(syscalls, "rename", recorded("name in", syscalls.rename, 2))
    return done


class Loop:
    """The loop's side: submits, and delivers until all is done."""

    def __init__(self, durability: str) -> None:
        self.mailbox = Mailbox()
        self.took: list[float] = []
        self.committer: Committer = make_committer(
            durability,  # type: ignore[arg-type]
            Pool(),
            self.mailbox,
            timed=self.took.append,
        )
        self.results: list[Result] = []

    def submit(self, change: Change) -> None:
        self.committer.submit([change])

    def finish(self) -> list[Result]:
        while not self.committer.idle:
            assert select.select([self.mailbox.fd], [], [], LONG)[0], "nobody answers"
            self.mailbox.deliver()
        return self.results


def upload(
    loop: Loop,
    files: ChargedTree,
    path: tuple[bytes, ...],
    content: bytes,
    *,
    parents: bool = False,
) -> None:
    incoming = files.begin_own("f", len(content))
    os.write(incoming.staged.fd, content)

    def apply(folders: Folders) -> object:
        try:
            folder = folders.get(files.tree, path[:-1], parents)
        except BaseException:
            files.abandon(incoming)
            raise
        return files.publish(incoming, folder, path[-1], True)

    loop.submit(
        Made(incoming.staged.fd, apply, lambda: files.discard(incoming), loop.results.append)
    )


def test_data_then_name_then_folder_then_answer(place: Place, steps: Steps) -> None:
    loop, files = Loop("group"), place.files()
    answered_after: list[int] = []
    incoming = files.begin_own("f", 3)
    os.write(incoming.staged.fd, b"abc")
    loop.submit(
        Made(
            incoming.staged.fd,
            lambda folders: files.publish(incoming, folders.get(files.tree, ()), b"f", False),
            lambda: None,
            lambda result: answered_after.append(len(steps)),
        )
    )
    loop.finish()
    staged = incoming.staged.ident.decode()
    assert steps == [
        ("begin", staged),
        ("flush", staged),
        ("name in", "alice"),
        ("flush folder", "alice"),
        *ABOVE,
    ]
    assert answered_after == [6]


def test_a_round_shares_the_flush_of_a_folder(place: Place, steps: Steps) -> None:
    loop, files = Loop("group"), place.files()
    for number in range(20):
        upload(loop, files, (b"f%d" % number,), b"x")
    assert loop.finish() == [False] * 20
    names = [name for name, what in steps if (name, what) not in ABOVE]
    assert names.count("flush") == 20
    assert names.count("flush folder") == 2  # the first went alone, the others came meanwhile
    assert names[4:] == (["begin"] * 19 + ["flush"] * 19 + ["name in"] * 19 + ["flush folder"])


def test_full_durability_has_a_round_for_each(place: Place, steps: Steps) -> None:
    loop, files = Loop("full"), place.files()
    for number in range(3):
        upload(loop, files, (b"f%d" % number,), b"x")
    loop.finish()
    names = [name for name, what in steps if (name, what) not in ABOVE]
    assert names == ["begin", "flush", "name in", "flush folder"] * 3


def test_no_durability_flushes_nothing_and_answers_at_once(place: Place, steps: Steps) -> None:
    loop, files = Loop("none"), place.files()
    upload(loop, files, (b"f",), b"x")
    assert loop.results == [False]
    assert steps == [("name in", "alice")]
    assert loop.committer.idle
    assert not loop.committer.crowded


def test_folders_that_are_made_on_the_way_are_flushed_with_those_above(
    place: Place, steps: Steps
) -> None:
    loop, files = Loop("group"), place.files()
    upload(loop, files, (b"a", b"b", b"f"), b"x", parents=True)
    assert loop.finish() == [False]
    flushed = [what for name, what in steps if name == "flush folder"]
    assert sorted(flushed) == [".forkd", "a", "alice", "b", "data"]
    assert steps.index(("name in", "b")) < min(steps.index(("flush folder", w)) for w in flushed)


def test_folders_that_another_process_made_are_flushed_once(place: Place, steps: Steps) -> None:
    """It may have died before it flushed them."""
    loop, files = Loop("group"), place.files()
    (place.home / "a" / "b").mkdir(parents=True)
    upload(loop, files, (b"a", b"b", b"f"), b"x")
    loop.finish()
    first = [what for name, what in steps if name == "flush folder"]
    assert sorted(first) == [".forkd", "a", "alice", "b", "data"]
    steps.clear()
    upload(loop, files, (b"a", b"b", b"g"), b"x")
    assert loop.finish() == [False, False]
    assert [what for name, what in steps if name == "flush folder"] == ["b"]


def test_what_is_above_is_flushed_again_after_a_failure(
    place: Place, steps: Steps, monkeypatch
) -> None:
    loop, files = Loop("group"), place.files()
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", broken_disk)
        upload(loop, files, (b"a", b"f"), b"x", parents=True)
        loop.finish()
    upload(loop, files, (b"a", b"f"), b"x")
    refusal, replaced = loop.finish()
    assert isinstance(refusal, Refusal)
    assert replaced is True
    flushed = [what for name, what in steps if name == "flush folder"]
    assert sorted(flushed) == [".forkd", "a", "alice", "data"]


def test_one_that_fails_fails_alone(place: Place) -> None:
    loop, files = Loop("group"), place.files()
    upload(loop, files, (b"first",), b"x")
    upload(loop, files, (b"none", b"f"), b"xx")
    upload(loop, files, (b"last",), b"x")
    first, middle, last = loop.finish()
    assert (first, last) == (False, False)
    assert isinstance(middle, Refusal)
    assert middle.code == "not-found"
    assert place.charged == 2 == place.on_disk()
    assert place.staged() == []


def broken_disk(fd: int) -> None:
    raise OSError(5, "Input/output error")


def test_data_that_cannot_be_flushed_gets_no_name(place: Place, monkeypatch) -> None:
    loop, files = Loop("group"), place.files()
    (place.home / "f").write_bytes(b"")
    monkeypatch.setattr(os, "fdatasync", broken_disk)
    upload(loop, files, (b"f",), b"new")
    (result,) = loop.finish()
    assert isinstance(result, Refusal)
    assert result.code == "io-error"
    assert (place.home / "f").read_bytes() == b""
    assert (place.charged, place.staged()) == (0, [])


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_failure_told_when_the_write_back_begins_counts(
    place: Place, monkeypatch, number: int
) -> None:
    """The kernel may not tell it again: a flush that succeeds after it proves nothing."""

    def begin(fd: int) -> None:
        raise OSError(number, os.strerror(number))

    loop, files = Loop("group"), place.files()
    monkeypatch.setattr(syscalls, "start_writeback", begin)
    upload(loop, files, (b"f",), b"new")
    (result,) = loop.finish()
    assert isinstance(result, Refusal)
    assert result.code == ("io-error" if number == errno.EIO else "no-space")
    assert (os.listdir(place.home), place.charged, place.staged()) == ([], 0, [])


def test_a_machine_that_cannot_begin_the_write_back_flushes_all_the_same(
    place: Place, monkeypatch
) -> None:
    def begin(fd: int) -> None:
        raise OSError(errno.ENOSYS, "")

    loop, files = Loop("group"), place.files()
    monkeypatch.setattr(syscalls, "start_writeback", begin)
    upload(loop, files, (b"f",), b"new")
    assert loop.finish() == [False]


def test_a_folder_that_cannot_be_flushed_is_told_to_those_who_changed_it(
    place: Place, monkeypatch
) -> None:
    loop, files = Loop("group"), place.files()
    (place.home / "bad").mkdir()
    (place.home / "good").mkdir()
    for path in ((b"good", b"0"), (b"bad", b"0")):
        upload(loop, files, path, b"x")
    assert loop.finish() == [False, False]
    loop.results.clear()
    fsync = os.fsync

    def flush(fd: int) -> None:
        broken_disk(fd) if os.readlink(f"/proc/self/fd/{fd}").endswith("/bad") else fsync(fd)

    monkeypatch.setattr(os, "fsync", flush)
    for path in ((b"good", b"1"), (b"bad", b"1"), (b"good", b"2"), (b"bad", b"2")):
        upload(loop, files, path, b"x")
    told = [r.code if isinstance(r, Refusal) else r for r in loop.finish()]
    assert told == [False, "io-error", False, "io-error"]


@pytest.mark.parametrize("durability", ["group", "full", "none"])
def test_a_fault_in_a_change_stops_nobody(place: Place, durability: str, monkeypatch) -> None:
    loop, files = Loop(durability), place.files()

    def fault(*_: object) -> object:
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", lambda fd: broken_disk(fd) if fd == -7 else None)
        loop.submit(Made(-7, fault, fault, loop.results.append))
        loop.submit(Made(None, fault, fault, loop.results.append))
        loop.finish()
    upload(loop, files, (b"f",), b"x")
    *faults, ok = loop.finish()
    assert [type(result) for result in faults] == [ZeroDivisionError] * 2
    assert ok is False


def test_changes_are_applied_and_answered_in_their_order(place: Place) -> None:
    loop = Loop("group")
    applied: list[int] = []
    for number in range(600):
        loop.submit(
            Made(
                None,
                lambda folders, n=number: applied.append(n) or n,
                lambda: None,
                loop.results.append,
            )
        )
    assert loop.finish() == list(range(600)) == applied


def test_a_crowd_is_told(place: Place) -> None:
    loop = Loop("full")
    for _ in range(CROWD + 2):
        loop.submit(Made(None, lambda folders: None, lambda: None, loop.results.append))
    assert loop.committer.crowded
    loop.finish()
    assert not loop.committer.crowded


def test_nothing_stays_open(place: Place) -> None:
    loop, files = Loop("group"), place.files()
    before = len(os.listdir("/proc/self/fd"))
    for turn in range(3):
        for number in range(10):
            upload(loop, files, (b"d%d" % number, b"f%d" % turn), b"x", parents=True)
            upload(loop, files, (b"none", b"f"), b"x")
        loop.finish()
    assert len(os.listdir("/proc/self/fd")) == before


def test_each_durable_change_is_timed_from_its_submission(place: Place) -> None:
    loop, files = Loop("full"), place.files()
    begun = time.monotonic()
    for name in (b"a", b"b"):
        upload(loop, files, (name,), b"x")
    upload(loop, files, (b"none", b"c"), b"x")  # fails: there is no such folder
    loop.finish()
    most = time.monotonic() - begun
    assert len(loop.took) == 2
    assert all(0 < took <= most for took in loop.took)


def test_what_is_not_made_durable_is_not_timed(place: Place) -> None:
    loop, files = Loop("none"), place.files()
    upload(loop, files, (b"a",), b"x")
    assert not loop.took
