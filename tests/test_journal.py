"""What a process writes of its changes, in which order, and when it cannot."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from forkd.events import files, journal
from forkd.events.files import ENDED, LIVE, Stem
from forkd.events.journal import SILENT, UNTOLD, FileJournal, Identity, Ticket, Told
from forkd.events.records import KINDS, Done, Header, Intent, Origin, Record, Undone, record_of

ORIGIN = Origin(1, "alice", "alice", "s-1", "native")


@pytest.fixture
def told(tmp_path: Path) -> FileJournal:
    return FileJournal(str(tmp_path), 3, 1234, "boot", KINDS, durable=True)


def ticket(path: str = "/f") -> Told:
    return Told("published", ORIGIN, path, lambda: Identity(5, size=7), staged=("s1",), digest="d")


def records(folder: Path, number: int = 0, suffix: str = LIVE) -> list[Record | None]:
    text = (folder / f"3.1234-{number}{suffix}").read_bytes()
    return [record_of(line) for line in text.splitlines()]


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Bytes that can still be written; [-1]: as many as one likes."""
    left = [-1]
    write = os.write

    def limited(fd: int, data: bytes) -> int:
        if left[0] < 0:
            return write(fd, data)
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = write(fd, data[: left[0]])
        left[0] -= count
        return count

    monkeypatch.setattr(os, "write", limited)
    return left


def test_an_intent_and_its_outcome(told: FileJournal, tmp_path: Path) -> None:
    done, undone = ticket(), ticket("/g")
    told.begin([done, UNTOLD, undone])
    header, first, second = records(tmp_path)
    assert header == Header("boot")
    assert isinstance(first, Intent)
    assert isinstance(second, Intent)
    assert (first.id, first.path, first.inode, first.size) == ("3.1234-1", "/f", 5, 7)
    assert (first.staged, first.digest, first.origin) == (("s1",), "d", ORIGIN)
    assert (second.id, second.path) == ("3.1234-2", "/g")
    done.done(9)
    told.settle([done, UNTOLD, undone])
    outcome, other = records(tmp_path)[3:]
    assert isinstance(outcome, Done)
    assert (outcome.id, outcome.size) == (first.id, 9)
    assert outcome.at >= first.at
    assert other == Undone(second.id)
    assert told.catch_up() == 1
    assert told.catch_up() == 0


def test_one_write_and_one_flush_for_a_round(
    told: FileJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    write, flush = os.write, os.fdatasync
    monkeypatch.setattr(os, "write", lambda *args: (calls.append("write"), write(*args))[1])
    monkeypatch.setattr(os, "fdatasync", lambda *args: (calls.append("flush"), flush(*args))[1])
    tickets = [ticket(f"/{i}") for i in range(256)]
    told.begin(tickets)
    assert calls == ["write", "flush"]
    told.settle(tickets)
    assert calls == ["write", "flush", "write"]
    calls.clear()
    told.begin([UNTOLD] * 3)
    told.settle([UNTOLD] * 3)
    assert calls == []


def test_what_destroys_evidence_waits_for_the_outcome(told: FileJournal, tmp_path: Path) -> None:
    seen: list[int] = []
    one = ticket()
    told.begin([one])
    one.done(then=lambda: seen.append(len(records(tmp_path))))
    assert seen == []
    told.settle([one])
    assert seen == [3]


def test_nobody_waits_where_nothing_is_told() -> None:
    seen: list[int] = []
    UNTOLD.done(then=lambda: seen.append(1))
    assert seen == [1]
    assert not SILENT.wants("published")


def test_a_change_that_cannot_be_told_is_refused(
    told: FileJournal, tmp_path: Path, full: list[int]
) -> None:
    full[0] = 30
    one = ticket()
    with pytest.raises(OSError, match="No space"):
        told.begin([one])
    told.settle([one])
    assert records(tmp_path) == [Header("boot")]
    full[0] = -1
    told.begin([one])
    assert len(records(tmp_path)) == 2


def test_an_outcome_that_cannot_be_written_is_kept(
    told: FileJournal, tmp_path: Path, full: list[int]
) -> None:
    seen: list[int] = []
    one, two = ticket(), ticket("/g")
    told.begin([one])
    full[0] = 10
    one.done(then=lambda: seen.append(len(records(tmp_path))))
    told.settle([one])
    assert len(records(tmp_path)) == 2
    with pytest.raises(OSError, match="No space"):
        told.begin([two])
    full[0] = -1
    assert told.catch_up() == 1
    assert isinstance(records(tmp_path)[2], Done)
    assert len(records(tmp_path)) == 3
    assert seen == [3]


def test_a_flush_that_fails_undoes_the_intents(
    told: FileJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(fd: int) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "fdatasync", broken)
    one = ticket()
    with pytest.raises(OSError, match="broken"):
        told.begin([one])
    assert records(tmp_path)[2] == Undone("3.1234-1")


def test_without_durability_nothing_is_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(fd: int) -> None:
        raise AssertionError("flushed")

    monkeypatch.setattr(os, "fdatasync", never)
    told = FileJournal(str(tmp_path), 3, 1234, "boot", KINDS, durable=False)
    told.begin([ticket()])


def test_a_grown_journal_is_ended_when_nothing_is_open(
    told: FileJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "SEGMENT", 400)
    one, two, three = ticket(), ticket(), ticket()
    for each in (one, two):
        told.begin([each])
    one.done()
    told.settle([one])
    told.begin([three])
    assert files.journals(str(tmp_path)) == {Stem(1234, 3, 0): True}
    told.settle([two, three])
    four = ticket()
    told.begin([four])
    assert files.journals(str(tmp_path)) == {Stem(1234, 3, 0): False, Stem(1234, 3, 1): True}
    assert len(records(tmp_path, 0, ENDED)) == 7
    assert [type(record) for record in records(tmp_path, 1)] == [Header, Intent]
    last = records(tmp_path, 1)[1]
    assert isinstance(last, Intent)
    assert last.id == "3.1234-4"


def test_a_journal_that_cannot_be_begun_leaves_the_grown_one(
    told: FileJournal, tmp_path: Path, full: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = ticket(), ticket("/g")
    told.begin([one])
    told.settle([one])
    monkeypatch.setattr(journal, "SEGMENT", 100)
    full[0] = 5
    with pytest.raises(OSError, match="No space"):
        told.begin([two])
    full[0] = -1
    told.begin([two])
    told.settle([two])
    assert files.journals(str(tmp_path)) == {Stem(1234, 3, 0): False, Stem(1234, 3, 1): True}
    assert [type(record) for record in records(tmp_path, 0, ENDED)] == [Header, Intent, Undone]
    assert [type(record) for record in records(tmp_path, 1)] == [Header, Intent, Undone]


def test_kinds_nobody_asked_for_are_not_wanted(tmp_path: Path) -> None:
    told = FileJournal(str(tmp_path), 3, 1234, "boot", ["removed"], durable=True)
    assert [kind for kind in KINDS if told.wants(kind)] == ["removed"]


def test_a_broken_line_is_no_record() -> None:
    from forkd.events.records import line_of

    line = line_of(Header("boot"))[:-1]
    assert record_of(line) == Header("boot")
    for wrong in (b"", b"x", line[:-1], line[1:], b"0" + line[1:], b"00000000 {}", b"\0" * 99):
        assert record_of(wrong) is None


def test_tickets_are_small() -> None:
    assert not hasattr(Ticket(), "__dict__")
    assert not hasattr(ticket(), "__dict__")
