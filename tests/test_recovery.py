"""What a process that is killed at any moment has told, and what it has done, are the same."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from corerig import ALICE, HOME, Made, Place, killed_at_every_store, place_in

from forkd.errors import Refusal
from forkd.events import files as journals
from forkd.events.files import LIVE
from forkd.events.follow import Follower
from forkd.events.journal import FileJournal
from forkd.events.records import KINDS, Intent, Origin, line_of, record_of
from forkd.events.recovery import recover
from forkd.events.teller import Teller
from forkd.link import Link, link_pair
from forkd.log import log_to
from forkd.quota import MappedLedger
from forkd.scoreboard import Scoreboard
from forkd.storage.charged import ChargedTree
from forkd.storage.commit import Folders, run_round
from forkd.storage.partials import Namer
from forkd.storage.sidecar import Source, boot_id

OLD, NEW = b"old" * 1000, b"new!" * 2000
ORIGIN = Origin(ALICE, "alice", HOME, "s-1", "native")
BORN = 7
Work = Callable[[], object]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with place_in(tmp_path) as made:
        os.mkdir(made.events)
        yield made


@dataclass
class Worker:
    """A process with a journal, that makes changes in rounds as a worker does."""

    files: ChargedTree
    journal: FileJournal

    def publish(self, incoming, content: bytes) -> None:
        os.pwrite(incoming.staged.fd, content[incoming.staged.held :], incoming.staged.held)
        ticket = self.files.publishing(incoming, (b"f",), "d1")

        def apply(folders: Folders) -> object:
            folder = folders.get(self.files.tree, ())
            return self.files.publish(incoming, folder, b"f", True, ticket)

        self.round(apply, ticket)

    def put(self) -> None:
        self.publish(self.files.begin_own("f", len(NEW)), NEW)

    def stream(self) -> None:
        self.publish(self.files.begin_stream(source(), (b"f",), False), NEW)

    def remove(self) -> None:
        removal = self.files.removing((b"f",))
        self.round(lambda _: self.files.remove(removal), removal.ticket)

    def remove_recursive(self) -> None:
        list(self.files.remove_tree((b"d",)))

    def remove_folder(self) -> None:
        ticket = self.files.removing_folder((b"d",))
        self.round(lambda _: self.files.remove_folder((b"d",), ticket), ticket)

    def move(self) -> None:
        ticket = self.files.moving((b"f",), (b"g",))
        self.round(lambda _: self.files.move((b"f",), (b"g",), True, ticket), ticket)

    def round(self, apply, ticket) -> None:
        change = Made(None, apply, lambda: None, lambda result: None, ticket)
        for result in run_round([change], self.journal, set()):
            if isinstance(result, BaseException):
                raise result


def source() -> Source:
    return Source("f", "c", len(NEW), "v1", False, None)


def process(place: Place, slot: int = 1, born: int = BORN) -> Worker:
    journal = FileJournal(place.events, slot, born, boot_id(), KINDS, durable=True)
    files = ChargedTree(
        *(place.open_tree(), place.ledger(slot), ALICE, Namer(slot, born)),
        Teller(journal, ORIGIN),
    )
    return Worker(files, journal)


class Stage:
    """The account before each death."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def clear(self) -> None:
        for folder in (self.place.home, self.place.staging):
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.rmtree(self.place.events)
        os.mkdir(self.place.events)
        self.charge()

    def charge(self) -> None:
        ledger = MappedLedger(self.place.file, 0)
        ledger.clear(ALICE)
        ledger.adopt(ALICE, self.place.on_disk())
        ledger.set_limit(ALICE, HOME, None)

    def old(self) -> None:
        self.clear()
        (self.place.home / "f").write_bytes(OLD)
        self.charge()

    def two(self) -> None:
        self.old()
        (self.place.home / "g").write_bytes(NEW)
        self.charge()

    def folder(self) -> None:
        self.clear()
        (self.place.home / "d").mkdir()

    def full_folder(self) -> None:
        self.folder()
        (self.place.home / "d" / "f").write_bytes(OLD)
        self.charge()

    def partial(self) -> None:
        """A whole one, that is to be resumed."""
        self.old()
        place = self.place
        ledger = place.ledger(3)
        files = ChargedTree(place.open_tree(), ledger, ALICE, Namer(3, BORN))
        incoming = files.begin_stream(source(), (b"f",), False)
        os.pwrite(incoming.staged.fd, NEW, 0)
        files.abandon(incoming)
        ledger.file.drop_slot(3)


def told(place: Place) -> list[Intent]:
    follower = Follower(place.events, {}, boot_id())
    follower.look()
    found = []
    while (taken := follower.take()) is not None:
        found.append(taken.intent)
    follower.close()
    return found


OPERATIONS = (
    # before, what is done, its event, what shows that it was done
    ("clear", "put", "published", lambda home: (home / "f").exists()),
    ("old", "put", "published", lambda home: (home / "f").read_bytes() == NEW),
    ("clear", "stream", "published", lambda home: (home / "f").exists()),
    ("old", "stream", "published", lambda home: (home / "f").read_bytes() == NEW),
    ("partial", "stream", "published", lambda home: (home / "f").read_bytes() == NEW),
    ("old", "remove", "removed", lambda home: not (home / "f").exists()),
    ("folder", "remove_folder", "removed", lambda home: not (home / "d").exists()),
    ("full_folder", "remove_recursive", "removed", lambda home: not (home / "d/f").exists()),
    ("old", "move", "renamed", lambda home: not (home / "f").exists()),
    ("two", "move", "renamed", lambda home: (home / "g").read_bytes() == OLD),
)
IDS = [f"{operation[1]} on {operation[0]}" for operation in OPERATIONS]


def deaths(place: Place, operation) -> Iterator[bool]:
    """Kill it at every store; was the change made?"""
    before, work, _, shows = operation
    stage = Stage(place)
    for _ in killed_at_every_store(getattr(stage, before), lambda: getattr(process(place), work)):
        yield shows(place.home)


@pytest.mark.parametrize("operation", OPERATIONS, ids=IDS)
def test_told_is_what_was_done(place: Place, operation) -> None:
    made = []
    for was_made in deaths(place, operation):
        place.reap()
        found = [event for event in told(place) if event.type == "file" or operation[0] == "folder"]
        assert len(found) == was_made
        for event in found:
            assert (event.kind, event.origin) == (operation[2], ORIGIN)
        made.append(was_made)
        assert journals.undecided(place.events) == set()
        if place.dirty:
            place.mend()
        assert place.charged >= place.on_disk()
    assert {True, False} <= {*made}


def resumed(worker: Worker) -> bool:
    """False where it is refused, since a dead process's partial is not decided."""
    try:
        worker.stream()
    except Refusal as refusal:
        if refusal.code != "busy":
            raise
        return False
    return True


@pytest.mark.parametrize("operation", OPERATIONS[:6], ids=IDS[:6])
def test_others_who_go_on_before_it_is_decided_change_nothing(
    place: Place, operation, tmp_path: Path
) -> None:
    """A sweep of the keeper, and another session that puts, resumes and removes the same name."""
    board = Scoreboard.create(str(tmp_path / "scoreboard"))
    log = log_to(os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT), place.config.log)
    keeper = place.keeper(board, Link(link_pair()[1]), log)
    refused = 0
    for number, was_made in enumerate(deaths(place, operation)):
        keeper._sweep_all()
        other = ChargedTree(place.open_tree(), place.ledger(2), ALICE, Namer(2, BORN + number))
        worker = Worker(other, None)  # type: ignore[arg-type]
        worker.round = lambda apply, ticket: apply(Folders())  # type: ignore[method-assign]
        refused += not resumed(worker)
        if (place.home / "f").exists():
            other.remove_file((b"f",))
        keeper._sweep_all()
        place._files[-1].drop_slot(2)
        place.reap()
        assert [event.kind for event in told(place)] == [operation[2]] * was_made
    assert refused > 0 or operation[1] != "stream"


def test_a_partial_whose_name_is_taken_is_told_to_nobody_and_stays(place: Place) -> None:
    Stage(place).old()
    worker = process(place)
    incoming = worker.files.begin_stream(source(), (b"f",), False)
    os.pwrite(incoming.staged.fd, NEW, 0)
    ticket = worker.files.publishing(incoming, (b"f",), None)

    def apply(folders: Folders) -> object:
        folder = folders.get(worker.files.tree, ())
        return worker.files.publish(incoming, folder, b"f", False, ticket)

    with pytest.raises(Refusal, match="exists"):
        worker.round(apply, ticket)
    assert told(place) == []
    assert list(place.file.leases()) == []
    worker.stream()
    assert (place.home / "f").read_bytes() == NEW
    assert [event.path for event in told(place)] == ["/f"]
    assert list(place.file.leases()) == []
    assert place.charged == place.on_disk() == len(NEW)


def test_a_recovery_that_is_killed_is_done_again(place: Place) -> None:
    stage = Stage(place)
    decided = 0

    def prepare() -> None:
        stage.old()
        (place.staging / "t1.7-1").write_bytes(OLD)
        write_journal(place, intent("removed", staged=("t1.7-1",)), intent("published", inode=1))

    def start() -> Work:
        return lambda: recover(place.events, 1, place.storage, boot_id())

    for _ in killed_at_every_store(prepare, start):
        place.reap()
        assert [event.kind for event in told(place)] == ["removed", "published"]
        decided += 1
    assert decided >= 3


# one by one


_numbers = itertools.count(1)


def intent(kind, **more) -> Intent:
    at = next(_numbers)
    return Intent(id=f"1.7-{at}", kind=kind, origin=ORIGIN, path="/f", time=1.0, at=at, **more)


def write_journal(place: Place, *intents: Intent, boot: str | None = None) -> None:
    FileJournal(place.events, 1, BORN, boot or boot_id(), KINDS, durable=False)
    with open(os.path.join(place.events, f"1.{BORN}-0{LIVE}"), "ab") as file:
        file.write(b"".join(map(line_of, intents)))


def decide(place: Place) -> list[Intent]:
    recover(place.events, 1, place.storage, boot_id())
    return told(place)


def test_a_torn_end_is_cut_off(place: Place) -> None:
    write_journal(place)
    path = Path(place.events) / f"1.{BORN}-0{LIVE}"
    lines = line_of(intent("published", inode=1)) + line_of(intent("published", inode=1))
    path.write_bytes(path.read_bytes() + lines[:-5])
    assert len(decide(place)) == 1
    ended = path.with_suffix(".ended").read_bytes()
    assert [record_of(line) is None for line in ended.splitlines()] == [False] * 3


@pytest.mark.parametrize("tail", [b"\0" * 4096, b"garbage\n" * 10, b"\n"])
def test_what_a_power_cut_left_at_the_end_is_cut_off(place: Place, tail: bytes) -> None:
    write_journal(place, intent("published", inode=1))
    with open(os.path.join(place.events, f"1.{BORN}-0{LIVE}"), "ab") as file:
        file.write(tail)
    assert [event.kind for event in decide(place)] == ["published"]


def test_an_exchange_leaves_the_old_file_under_the_name(place: Place) -> None:
    (place.staging / "s1.7-1").write_bytes(OLD)
    inode = (place.staging / "s1.7-1").stat().st_ino
    write_journal(place, intent("published", staged=("s1.7-1",), inode=inode + 1))
    assert len(decide(place)) == 1


def test_what_was_removed_tells_its_size(place: Place) -> None:
    (place.staging / "t1.7-1").write_bytes(OLD)
    write_journal(place, intent("removed", staged=("t1.7-1",)))
    assert [event.size for event in decide(place)] == [len(OLD)]


def test_after_a_power_cut_gone_is_removed(place: Place) -> None:
    write_journal(place, intent("removed", staged=("t1.7-1",)), boot="another")
    assert len(decide(place)) == 1


def test_after_a_power_cut_there_is_not_removed(place: Place) -> None:
    (place.home / "f").write_bytes(OLD)
    write_journal(place, intent("removed", staged=("t1.7-1",)), boot="another")
    assert decide(place) == []


@pytest.mark.parametrize(
    ("at_old", "at_new", "made"),
    [
        ("it", None, False),
        (None, "it", True),
        ("other", "it", True),
        ("it", "other", False),
        ("other", "other", False),
        ("other", None, False),
        (None, None, True),
    ],
)
def test_a_move_by_what_is_where(place: Place, at_old, at_new, made: bool) -> None:
    it = place.folder / "it"
    it.write_bytes(OLD)
    inode = it.stat().st_ino
    for what, name in ((at_old, "old"), (at_new, "f")):
        if what == "it":
            it.rename(place.home / name)
        elif what == "other":
            (place.home / name).write_bytes(NEW)
    write_journal(place, intent("renamed", inode=inode, source="/old"))
    assert len(decide(place)) == made


def test_without_its_storage_nothing_is_decided(place: Place) -> None:
    write_journal(place, intent("published", inode=1))
    shutil.rmtree(place.storage)
    with pytest.raises(FileNotFoundError):
        decide(place)
    assert journals.undecided(place.events) == {(1, BORN)}


def test_a_journal_that_was_being_made_is_removed(place: Place) -> None:
    for name in ("1.7-0.new", "11.7-0.new", "1.7-0.other"):
        (Path(place.events) / name).touch()
    recover(place.events, 1, place.storage, boot_id())
    assert sorted(os.listdir(place.events)) == ["1.7-0.other", "11.7-0.new"]


def test_another_slots_journal_is_left_alone(place: Place) -> None:
    process(place, slot=2)
    recover(place.events, 1, place.storage, boot_id())
    assert journals.undecided(place.events) == {(2, BORN)}
