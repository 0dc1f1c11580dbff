"""All journals as one stream: the order of the changes, nothing twice, nothing too early."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from forkd.events import files, follow
from forkd.events.files import ENDED, LIVE, Stem
from forkd.events.follow import Follower
from forkd.events.records import Done, Header, Intent, Origin, Record, Undone, line_of

ORIGIN = Origin(1, "alice", "alice", "s-1", "native")
BOOT = "now"


class Writer:
    """A journal that is written by hand."""

    def __init__(self, folder: Path, slot: int, born: int = 100, boot: str = BOOT) -> None:
        self.stem = Stem(born, slot, 0)
        self.folder = folder
        self.path = folder / f"{self.stem}{LIVE}"
        self.write(Header(boot))

    def write(self, *records: Record) -> None:
        with self.path.open("ab") as file:
            file.write(b"".join(map(line_of, records)))

    def begin(self, name: str, at: int) -> None:
        self.write(Intent(name, "published", ORIGIN, f"/{name}", 1.0, at))

    def done(self, name: str, at: int) -> None:
        self.write(Done(name, at))

    def change(self, name: str, at: int) -> None:
        self.begin(name, at)
        self.done(name, at)

    def end(self) -> None:
        files.end(str(self.folder), self.stem)
        self.path = self.folder / f"{self.stem}{ENDED}"


@pytest.fixture
def follower(tmp_path: Path) -> Follower:
    return Follower(str(tmp_path), {}, BOOT)


def taken(follower: Follower, settle: bool = True) -> list[str]:
    follower.look()
    names = []
    while (found := follower.take()) is not None:
        names.append(found.intent.id)
        if settle:
            follower.settle(found)
    return names


def test_several_journals_come_in_the_order_of_the_changes(tmp_path, follower) -> None:
    one, two = Writer(tmp_path, 1), Writer(tmp_path, 2)
    one.change("a", 1)
    two.change("b", 2)
    one.change("c", 3)
    two.change("d", 4)
    assert taken(follower) == ["a", "b", "c", "d"]
    assert taken(follower) == []
    one.change("e", 5)
    assert taken(follower) == ["e"]


def test_outcomes_out_of_order_in_one_journal(tmp_path, follower) -> None:
    one = Writer(tmp_path, 1)
    one.begin("late", 1)
    one.begin("early", 2)
    one.done("late", 9)
    one.done("early", 3)
    assert taken(follower) == ["early", "late"]


def test_what_is_refused_is_not_told(tmp_path, follower) -> None:
    one = Writer(tmp_path, 1)
    one.begin("a", 1)
    one.write(Undone("a"))
    assert taken(follower) == []
    one.end()
    taken(follower)
    assert follower.finished() == {one.stem}


def test_an_open_change_holds_up_what_came_after_it(tmp_path, follower) -> None:
    one, two = Writer(tmp_path, 1), Writer(tmp_path, 2)
    two.change("before", 1)
    one.begin("open", 2)
    two.change("after", 3)
    assert taken(follower) == ["before"]
    one.done("open", 4)
    assert taken(follower) == ["after", "open"]


def test_nothing_is_told_that_was_made_after_the_look(tmp_path, follower, monkeypatch) -> None:
    monkeypatch.setattr(follow.time, "monotonic_ns", lambda: 10)
    one = Writer(tmp_path, 1)
    one.change("a", 10)
    one.change("b", 11)
    assert taken(follower) == ["a"]
    monkeypatch.setattr(follow.time, "monotonic_ns", lambda: 11)
    assert taken(follower) == ["b"]


def test_a_former_boot_comes_first_whatever_its_clock_said(tmp_path, follower, monkeypatch) -> None:
    monkeypatch.setattr(follow.time, "monotonic_ns", lambda: 10)
    now = Writer(tmp_path, 1, born=200)
    former = Writer(tmp_path, 2, born=100, boot="former")
    now.change("b", 1)
    former.change("a", 10**12)
    former.end()
    assert taken(follower) == ["a", "b"]


def test_the_position_is_before_what_is_not_settled(tmp_path, follower) -> None:
    one = Writer(tmp_path, 1)
    for at, name in enumerate("abc", 1):
        one.change(name, at)
    follower.look()
    a, b, c = (follower.take() for _ in range(3))
    follower.settle(b)
    assert taken(Follower(str(tmp_path), follower.positions(), BOOT)) == ["a", "b", "c"]
    follower.settle(a)
    assert taken(Follower(str(tmp_path), follower.positions(), BOOT)) == ["c"]
    follower.settle(c)
    assert taken(Follower(str(tmp_path), follower.positions(), BOOT)) == []
    assert follower.behind == 0


def test_a_line_that_is_being_written_is_waited_for(tmp_path, follower) -> None:
    one = Writer(tmp_path, 1)
    one.begin("a", 1)
    line = line_of(Done("a", 2))
    with one.path.open("ab") as file:
        file.write(line[:7])
        file.flush()
        assert taken(follower) == []
        file.write(line[7:])
    assert taken(follower) == ["a"]


def test_a_torn_end_that_is_cut_while_it_is_followed(tmp_path, follower) -> None:
    one = Writer(tmp_path, 1)
    one.begin("a", 1)
    whole = one.path.stat().st_size
    with one.path.open("ab") as file:
        file.write(b"no record at all, and longer than one\n" * 9)
    assert taken(follower) == []
    with one.path.open("rb+") as file:
        file.truncate(whole)
    one.done("a", 2)
    one.end()
    assert taken(follower) == ["a"]


def test_a_damaged_line_of_an_ended_journal_is_passed_over_and_told(tmp_path, follower) -> None:
    one = Writer(tmp_path, 1)
    one.change("a", 1)
    with one.path.open("ab") as file:
        file.write(b"damage\n")
    one.change("b", 2)
    one.end()
    assert taken(follower) == ["a", "b"]
    assert follower.broken() == [one.stem]
    assert follower.broken() == []


def test_a_journal_is_finished_when_it_is_ended_and_settled(tmp_path, follower) -> None:
    one = Writer(tmp_path, 1)
    one.change("a", 1)
    taken(follower)
    assert follower.finished() == set()
    one.end()
    assert taken(follower) == []
    assert follower.finished() == {one.stem}
    one.path.unlink()
    follower.look()
    assert follower.finished() == set()
    assert follower.positions() == {}


def test_a_long_backlog_is_not_held_in_memory(tmp_path, follower) -> None:
    one, two = Writer(tmp_path, 1), Writer(tmp_path, 2)
    count = 3000
    for number in range(count):
        (one if number % 2 else two).change(f"{number}", number + 1)
    follower.look()
    for number in range(count):
        found = follower.take()
        assert found is not None
        assert found.intent.id == str(number)
        follower.settle(found)
        held = [len(reader.ready) for reader in follower._readers.values()]
        assert max(held) <= 1
    assert follower.take() is None


def test_any_interleaving_of_writers_gives_one_order(tmp_path) -> None:
    """Writers make changes, as on a clock; looks come in between; order and number are right."""
    dice = random.Random(5)
    for trial in range(30):
        folder = tmp_path / str(trial)
        folder.mkdir()
        follower = Follower(str(folder), {}, BOOT)
        writers = [Writer(folder, slot) for slot in (1, 2, 3)]
        open_changes: list[tuple[Writer, str]] = []
        made: list[str] = []
        seen: list[str] = []
        for at in range(1, 120):
            if open_changes and dice.random() < 0.5:
                writer, name = open_changes.pop(dice.randrange(len(open_changes)))
                writer.done(name, at)
                made.append(name)
            else:
                writer, name = dice.choice(writers), f"{at}"
                writer.begin(name, at)
                open_changes.append((writer, name))
            if dice.random() < 0.2:
                seen += taken(follower)
                assert seen == made[: len(seen)]
        for at, (writer, name) in enumerate(open_changes, 200):
            writer.done(name, at)
            made.append(name)
        assert seen + taken(follower) == made
