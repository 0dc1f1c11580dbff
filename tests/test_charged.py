"""Changes of an account's files that are paid for, also when the process dies in the middle."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from corerig import ALICE, Place, killed_at_every_store, place_in

from forkd.errors import Refusal
from forkd.link import Link, link_pair
from forkd.log import log_to
from forkd.messages import Drain
from forkd.quota import MappedLedger
from forkd.scoreboard import Scoreboard
from forkd.storage.charged import ChargedTree, Incoming
from forkd.storage.sidecar import Source

OLD, NEW = b"old" * 1000, b"new!" * 2000


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with place_in(tmp_path) as made:
        yield made


@pytest.fixture
def sweep(place: Place, tmp_path: Path) -> Callable[[], None]:
    """One round of the keeper."""
    board = Scoreboard.create(str(tmp_path / "scoreboard"))
    ours, its = link_pair()
    master = Link(ours)
    log = log_to(os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT), place.config.log)
    keeper = place.keeper(board, Link(its), log)

    def once() -> None:
        master.send(Drain(None))
        keeper.serve()

    return once


def source(size: int, **more: object) -> Source:
    declared = {"path": "f", "client": "c", "tag": "v1", "check": False, "digest": None}
    return Source(**(declared | {"size": size} | more))


def put(files: ChargedTree, name: str, content: bytes, *, may_replace: bool = True) -> bool:
    incoming = files.begin_own(name, len(content))
    return fill_and_publish(files, incoming, name, content, may_replace)


def stream(files: ChargedTree, name: str, content: bytes, *, restart: bool = False) -> bool:
    incoming = files.begin_stream(source(len(content)), (name.encode(),), restart)
    return fill_and_publish(files, incoming, name, content[incoming.staged.held :], True)


def fill_and_publish(
    files: ChargedTree, incoming: Incoming, name: str, content: bytes, may_replace: bool
) -> bool:
    os.pwrite(incoming.staged.fd, content, incoming.staged.held)
    folder = files.tree.open_folder((), parents=False)
    try:
        return files.publish(incoming, folder, name.encode(), may_replace)
    finally:
        os.close(folder)


def part_of_stream(files: ChargedTree, content: bytes, arrived: int) -> None:
    incoming = files.begin_stream(source(len(content)), (b"f",), False)
    os.pwrite(incoming.staged.fd, content[:arrived], 0)
    files.abandon(incoming)


# whole lives


@pytest.mark.parametrize("way", [put, stream])
def test_an_upload_is_charged_its_size_and_leaves_nothing_behind(place: Place, way) -> None:
    files = place.files()
    assert way(files, "f", OLD) is False
    assert (place.home / "f").read_bytes() == OLD
    assert way(files, "f", NEW) is True
    assert (place.home / "f").read_bytes() == NEW
    assert place.charged == len(NEW) == place.on_disk()
    assert place.staged() == []
    assert list(place.file.leases()) == []


def test_removing_gives_the_bytes_back(place: Place) -> None:
    files = place.files()
    put(files, "f", OLD)
    files.remove_file((b"f",))
    assert place.charged == 0
    assert (place.staged(), list(place.file.leases())) == ([], [])
    with pytest.raises(Refusal) as refused:
        files.remove_file((b"f",))
    assert refused.value.code == "not-found"
    assert list(place.file.leases()) == []


def test_a_link_costs_nothing_and_gives_nothing_back(place: Place) -> None:
    files = place.files()
    put(files, "f", OLD)
    (place.home / "link").symlink_to("f")
    files.remove_file((b"link",))
    assert place.charged == len(OLD)
    (place.home / "link").symlink_to("f")
    assert put(files, "link", NEW) is True
    assert not (place.home / "link").is_symlink()
    assert place.charged == len(OLD) + len(NEW) == place.on_disk()


def test_a_move_over_a_file_gives_its_bytes_back(place: Place) -> None:
    files = place.files()
    put(files, "a", NEW)
    put(files, "b", OLD)
    with pytest.raises(Refusal) as refused:
        files.move((b"a",), (b"b",), may_replace=False)
    assert refused.value.code == "exists"
    assert files.move((b"a",), (b"b",), may_replace=True) is True
    assert (place.home / "b").read_bytes() == NEW
    assert not (place.home / "a").exists()
    assert place.charged == len(NEW) == place.on_disk()
    assert files.move((b"b",), (b"c",), may_replace=True) is False
    assert place.charged == len(NEW)


def test_a_whole_folder_is_removed(place: Place) -> None:
    files = place.files()
    files.tree.make_folder((b"d", b"e"), parents=True)
    put(files, "keep", OLD)
    for name in ("x", "y"):
        put(files, name, NEW)
        files.move((name.encode(),), (b"d", b"e", name.encode()), may_replace=False)
    (place.home / "d" / "outside").symlink_to("/")
    assert list(files.remove_tree((b"d",)))[-1] == (3, 2)
    assert sorted(os.listdir(place.home)) == ["keep"]
    assert place.charged == len(OLD) == place.on_disk()


def test_a_name_that_is_taken_refuses_and_keeps_a_resumable_upload(place: Place) -> None:
    files = place.files()
    put(files, "f", OLD)
    with pytest.raises(Refusal) as refused:
        put(files, "f", NEW, may_replace=False)
    assert refused.value.code == "exists"
    assert place.charged == len(OLD) == place.on_disk()
    incoming = files.begin_stream(source(len(NEW)), (b"f",), False)
    with pytest.raises(Refusal):
        fill_and_publish(files, incoming, "f", NEW, False)
    assert (place.home / "f").read_bytes() == OLD
    assert place.charged == len(OLD) + len(NEW) == place.on_disk()
    again = files.begin_stream(source(len(NEW)), (b"f",), False)
    assert again.staged.held == len(NEW)
    assert fill_and_publish(files, again, "f", b"", True) is True
    assert place.charged == len(NEW) == place.on_disk()


def test_what_is_over_the_quota_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with place_in(tmp_path, limit=len(NEW)) as place:
        files = place.files()
        for begin in (
            lambda: files.begin_own("f", len(NEW) + 1),
            lambda: files.begin_stream(source(len(NEW) + 1), (b"f",), False),
        ):
            with pytest.raises(Refusal) as refused:
                begin()
            assert refused.value.code == "quota"
        assert (place.charged, place.staged(), list(place.file.leases())) == (0, [], [])
        put(files, "f", NEW)
        assert place.charged == len(NEW)


# partials


def test_an_interrupted_stream_keeps_its_bytes_and_goes_on(place: Place) -> None:
    files = place.files()
    part_of_stream(files, NEW, 100)
    assert place.charged == 100 == place.on_disk()
    incoming = files.begin_stream(source(len(NEW)), (b"f",), False)
    assert (incoming.staged.held, place.charged) == (100, len(NEW))
    fill_and_publish(files, incoming, "f", NEW[100:], True)
    assert (place.home / "f").read_bytes() == NEW
    assert place.charged == len(NEW) == place.on_disk()


def test_another_version_is_refused_until_the_client_restarts(place: Place) -> None:
    files = place.files()
    part_of_stream(files, NEW, 100)
    with pytest.raises(Refusal) as refused:
        files.begin_stream(source(len(NEW), tag="v2"), (b"f",), False)
    assert refused.value.code == "source-changed"
    assert place.charged == 100
    incoming = files.begin_stream(source(5, tag="v2"), (b"f",), True)
    assert (incoming.staged.held, place.charged, place.on_disk()) == (0, 5, 0)
    files.abandon(incoming)
    assert (place.charged, place.staged()) == (0, [])


@pytest.mark.parametrize("damage", ["torn", "garbage", "empty", "gone"])
def test_a_partial_that_nothing_describes_is_dropped_not_resumed(place: Place, damage) -> None:
    files = place.files()
    part_of_stream(files, NEW, 100)
    (journal,) = place.staging.glob("*.j")
    if damage == "gone":
        journal.unlink()
    else:
        whole = journal.read_bytes()
        journal.write_bytes({"torn": whole[:-10], "garbage": b"\xff\n\0", "empty": b""}[damage])
    incoming = files.begin_stream(source(len(NEW)), (b"f",), False)
    assert (incoming.staged.held, place.charged, place.on_disk()) == (0, len(NEW), 0)
    files.abandon(incoming)
    assert place.charged == 0


def test_two_uploads_of_one_client_have_a_partial_each(place: Place) -> None:
    files = place.files()
    first = files.begin_stream(source(10), (b"f",), False)
    second = files.begin_stream(source(10), (b"f",), False)
    assert first.staged.ident != second.staged.ident
    assert place.charged == 20
    for incoming in (first, second):
        files.abandon(incoming)
    assert place.charged == 0


def test_sixteen_at_once_are_enough(place: Place) -> None:
    files = place.files()
    running = [files.begin_stream(source(1), (b"f",), False) for _ in range(16)]
    with pytest.raises(Refusal) as refused:
        files.begin_stream(source(1), (b"f",), False)
    assert refused.value.code == "busy"
    for incoming in running:
        files.abandon(incoming)
    assert (place.charged, place.staged(), list(place.file.leases())) == (0, [], [])


# what fails


def test_a_name_that_is_leased_still_is_passed_over(place: Place) -> None:
    first, other = place.files(1), place.files(2)
    removed = first.begin_stream(source(9), (b"f",), False)
    os.unlink(removed.staged.ident, dir_fd=first.tree.staging_fd)  # its lease ends after this
    fresh = other.begin_stream(source(9), (b"f",), False)
    assert fresh.staged.ident != removed.staged.ident
    first.discard(removed)
    assert place.charged == 9
    other.discard(fresh)
    assert place.charged == 0
    assert place.staged() == []


def test_what_cannot_be_unlinked_stays_charged(place: Place, monkeypatch) -> None:
    files = place.files()
    put(files, "f", OLD)
    incoming = files.begin_own("g", 10)
    os.write(incoming.staged.fd, b"x" * 10)
    real = os.unlink

    def broken(path: object, **options: object) -> None:
        raise PermissionError(1, "read-only")

    monkeypatch.setattr(os, "unlink", broken)
    files.abandon(incoming)
    files.remove_file((b"f",))
    monkeypatch.setattr(os, "unlink", real)
    assert not (place.home / "f").exists()
    assert place.charged == len(OLD) + 10 == place.on_disk()
    assert list(place.file.leases()) == []


def test_nothing_is_given_back_for_what_somebody_else_removed(place: Place, monkeypatch) -> None:
    """The keeper was faster, and gave its bytes back."""
    files = place.files()
    put(files, "f", OLD)
    real = os.unlink

    def late(path: bytes, **options: int) -> None:
        real(path, **options)  # type: ignore[arg-type]
        raise FileNotFoundError(2, "gone")

    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", late)
        files.remove_file((b"f",))
    assert place.charged == len(OLD)
    assert list(place.file.leases()) == []


@pytest.mark.parametrize("readable", [True, False])
def test_what_must_not_be_resumed_is_not_even_if_it_cannot_be_unlinked(
    place: Place, monkeypatch, readable: bool
) -> None:
    """A complete upload that the disk did not take: the next flush of it might succeed."""

    def broken(*args: object, **options: object) -> None:
        raise OSError(30, "Read-only file system")

    files = place.files()
    incoming = files.begin_stream(source(100), (b"f",), False)
    os.pwrite(incoming.staged.fd, NEW[:100], 0)
    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", broken)
        if not readable:
            patched.setattr(os, "ftruncate", broken)
        files.discard(incoming)
    assert place.charged == 100 == place.on_disk()
    again = files.begin_stream(source(100), (b"f",), False)
    assert again.staged.held == 0
    files.discard(again)


def test_failures_leave_no_descriptor_open(place: Place) -> None:
    files = place.files()
    put(files, "f", OLD)
    part_of_stream(files, NEW, 100)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        for size, tag in ((1 << 61, "v1"), (len(NEW), "v2")):
            with pytest.raises(Refusal):
                files.begin_stream(source(size, tag=tag), (b"f",), False)
        with pytest.raises(Refusal):
            put(files, "f", NEW, may_replace=False)
        with pytest.raises(Refusal):
            files.move((b"f",), (b"no", b"where"), may_replace=True)
        with pytest.raises(Refusal):
            files.remove_file((b"none",))
        part_of_stream(files, NEW, 50)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_journal_that_cannot_be_written_leaves_no_descriptor_open(place: Place, monkeypatch):
    files = place.files()
    before = len(os.listdir("/proc/self/fd"))

    def full(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(Refusal) as refused:
            files.begin_stream(source(10), (b"f",), False)
    assert refused.value.code == "no-space"
    assert (place.charged, place.staged()) == (0, [])
    assert len(os.listdir("/proc/self/fd")) == before


# deaths at every store


class Stage:
    """What lies there before each death."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.files = place.files(slot=2)

    def clear(self) -> None:
        for folder in (self.place.home, self.place.staging):
            for entry in folder.iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        MappedLedger(self.place.file, 0).adopt(ALICE, 0)

    def adopt(self) -> None:
        MappedLedger(self.place.file, 0).adopt(ALICE, self.place.on_disk())

    def nothing(self) -> None:
        self.clear()

    def old_file(self) -> None:
        self.clear()
        (self.place.home / "f").write_bytes(OLD)
        self.adopt()

    def two_files(self) -> None:
        self.old_file()
        (self.place.home / "a").write_bytes(NEW)
        self.adopt()

    def link(self) -> None:
        self.old_file()
        (self.place.home / "a").symlink_to("f")

    def folder(self) -> None:
        self.clear()
        (self.place.home / "d" / "e").mkdir(parents=True)
        for name in ("d/x", "d/e/y", "d/e/z"):
            (self.place.home / name).write_bytes(OLD)
        self.adopt()

    def partial(self) -> None:
        self.old_file()
        part_of_stream(self.files, NEW, 100)

    def torn_partial(self) -> None:
        self.partial()
        (journal,) = self.place.staging.glob("*.j")
        journal.write_bytes(journal.read_bytes() + b"torn")


LIVES = {
    "a put": ("nothing", lambda files: put(files, "f", NEW)),
    "a put over a file": ("old_file", lambda files: put(files, "f", NEW)),
    "a put over a link": ("link", lambda files: put(files, "a", NEW)),
    "a put that is refused": ("old_file", lambda files: refused(put, files)),
    "a stream": ("nothing", lambda files: stream(files, "f", NEW)),
    "a stream over a file": ("old_file", lambda files: stream(files, "f", NEW)),
    "a broken-off stream": ("nothing", lambda files: part_of_stream(files, NEW, 100)),
    "a resumed stream": ("partial", lambda files: stream(files, "f", NEW)),
    "a resumed torn stream": ("torn_partial", lambda files: stream(files, "f", NEW)),
    "a restarted stream": ("partial", lambda files: stream(files, "f", NEW, restart=True)),
    "a removal": ("old_file", lambda files: files.remove_file((b"f",))),
    "a link's removal": ("link", lambda files: files.remove_file((b"a",))),
    "a move": ("old_file", lambda files: files.move((b"f",), (b"g",), False)),
    "a move over a file": ("two_files", lambda files: files.move((b"a",), (b"f",), True)),
    "a folder's removal": ("folder", lambda files: list(files.remove_tree((b"d",)))),
}


def refused(way: Callable[..., bool], files: ChargedTree) -> None:
    with pytest.raises(Refusal):
        way(files, "f", NEW, may_replace=False)


@pytest.mark.parametrize("life", LIVES)
def test_no_death_loses_count(place: Place, sweep, life: str) -> None:
    before, work = LIVES[life]
    stage = Stage(place)

    def start() -> Callable[[], object]:
        files = place.files()
        return lambda: work(files)

    deaths = exact = 0
    for _ in killed_at_every_store(getattr(stage, before), start):
        deaths += 1
        assert place.charged >= place.on_disk(), "a kill made the charge too small"
        place.reap()
        assert place.charged >= place.on_disk(), "reaping made the charge too small"
        if place.dirty:
            place.mend()
        sweep()
        if place.dirty:
            place.mend()
        else:
            exact += 1
        assert place.charged == place.on_disk()
        assert [name for name in place.staged() if name[0] != "p"] == []
        for path in place.home.rglob("*"):
            if path.is_file():
                assert path.read_bytes() in (OLD, NEW), f"{path} is half-done"
    assert exact > deaths / 3
