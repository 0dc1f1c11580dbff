"""What a dead process had reserved goes back, by what is on disk."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from corerig import ALICE, Place, place_in

from forkd.helpers import reaper
from forkd.quota import MappedLedger
from forkd.storage import partials
from forkd.storage.sidecar import Source

SOURCE = Source("f", "c", 1000, "v1", False, None)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with place_in(tmp_path) as made:
        yield made


@pytest.fixture
def dead(place: Place) -> MappedLedger:
    """The ledger of a process that is gone: its slot is free, its leases are not."""
    return MappedLedger(place.file, 1)


def stage(place: Place, name: str, size: int) -> bytes:
    (place.staging / name).write_bytes(b"x" * size)
    return name.encode()


def partial(place: Place, size: int) -> bytes:
    folder = os.open(place.staging, os.O_RDONLY)
    staged = partials.create(folder, SOURCE, b"f", None)
    os.write(staged.fd, b"x" * size)
    staged.close()
    os.close(folder)
    return staged.ident


def test_a_lease_whose_file_was_never_made(place: Place, dead: MappedLedger) -> None:
    dead.reserve(ALICE, b"s1.1-1", 500, 0)
    place.reap()
    assert (place.charged, place.dirty) == (0, False)


def test_an_upload_that_cannot_be_resumed(place: Place, dead: MappedLedger) -> None:
    dead.reserve(ALICE, stage(place, "s1.1-1", 200), 500, 0)
    place.reap()
    assert (place.charged, place.staged()) == (0, [])


def test_a_partial_keeps_what_has_arrived(place: Place, dead: MappedLedger) -> None:
    ident = partial(place, 300)
    dead.reserve(ALICE, ident, 1000, 0)
    place.reap()
    assert place.charged == 300 == place.on_disk()
    assert place.staged() == [ident.decode(), ident.decode() + ".j"]


@pytest.mark.parametrize("damage", ["gone", "torn"])
def test_a_partial_that_nothing_describes_goes(place: Place, dead: MappedLedger, damage) -> None:
    ident = partial(place, 300)
    journal = place.staging / (ident.decode() + ".j")
    if damage == "gone":
        journal.unlink()
    else:
        journal.write_bytes(journal.read_bytes()[:20])
    dead.reserve(ALICE, ident, 1000, 0)
    place.reap()
    assert (place.charged, place.staged()) == (0, [])


def test_a_removal_in_each_of_its_states(place: Place, dead: MappedLedger) -> None:
    dead.adopt(ALICE, 100 + 200 + 400)
    dead.claim(ALICE, b"t1.1-1", 0)  # not yet renamed
    dead.claim(ALICE, stage(place, "t1.1-2", 100), 0)  # renamed, not covered
    dead.cover(dead.claim(ALICE, stage(place, "t1.1-3", 200), 0), 200)  # covered
    dead.cover(dead.claim(ALICE, b"t1.1-4", 0), 400)  # unlinked, not settled
    place.reap()
    assert (place.charged, place.staged()) == (0, [])


def test_a_link_that_was_being_removed_gives_nothing_back(place: Place, dead: MappedLedger) -> None:
    dead.adopt(ALICE, 100)
    (place.staging / "t1.1-1").symlink_to("some/where/far/away")
    dead.claim(ALICE, b"t1.1-1", 0)
    place.reap()
    assert (place.charged, place.staged()) == (100, [])


def test_a_partial_that_somebody_looks_at_is_waited_for(place: Place, dead: MappedLedger) -> None:
    ident = partial(place, 300)
    dead.reserve(ALICE, ident, 1000, 0)
    folder = os.open(place.staging, os.O_RDONLY)
    lock = partials.open_locked(folder, ident)
    reaping = threading.Thread(target=place.reap)
    reaping.start()
    assert place.charged == 1000
    os.close(lock)
    reaping.join(30)
    assert place.charged == 300
    os.close(folder)


def test_a_partial_that_stays_locked_is_left_to_a_verification(
    place: Place, dead: MappedLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaper, "_TRIES", 3)
    ident = partial(place, 300)
    dead.reserve(ALICE, ident, 1000, 0)
    folder = os.open(place.staging, os.O_RDONLY)
    lock = partials.open_locked(folder, ident)
    place.reap()
    assert (place.charged, place.dirty) == (1000, True)
    place.mend()
    assert place.charged == 300
    os.close(lock)
    os.close(folder)


def test_an_account_without_a_staging_folder_has_nothing_staged(
    place: Place, dead: MappedLedger
) -> None:
    dead.reserve(ALICE, b"s1.1-1", 500, 0)
    place.staging.rmdir()
    place.reap()
    assert (place.charged, place.dirty) == (0, False)


def test_a_disk_that_is_not_there_gives_nothing_back(place: Place, dead: MappedLedger) -> None:
    dead.reserve(ALICE, stage(place, "s1.1-1", 200), 500, 0)
    elsewhere = place.storage + ".unmounted"
    shutil.move(place.storage, elsewhere)
    place.reap()
    assert (place.charged, place.dirty) == (500, True)
    shutil.move(elsewhere, place.storage)
    place.mend()
    assert place.charged == 200 == place.on_disk()


def test_reaping_leaves_no_descriptor_open(place: Place, dead: MappedLedger) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for number in range(5):
        dead.reserve(ALICE, stage(place, f"s1.1-{number}", 200), 500, 0)
        dead.reserve(ALICE, partial(place, 10), 1000, 10)
    place.reap()
    assert len(os.listdir("/proc/self/fd")) == before
