"""Ledger against disk, while others work."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from corerig import ALICE, HOME, Place, place_in

from forkd.helpers import verify
from forkd.helpers.verify import Comparison, compare
from forkd.ledger.file import DIRTY, UNSURE
from forkd.quota import MappedLedger


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with place_in(tmp_path) as made:
        yield made


def look(place: Place, fix: bool = False) -> Comparison:
    return compare(place.file, place.storage, ALICE, HOME, fix)


def test_files_and_staged_objects_and_leases_are_counted_once(place: Place) -> None:
    ledger = place.ledger(1)
    (place.home / "d").mkdir()
    (place.home / "d" / "f").write_bytes(b"x" * 10)
    (place.home / "link").symlink_to("d/f")
    (place.staging / "pabc-0").write_bytes(b"x" * 200)
    (place.staging / "pabc-0.j").write_bytes(b"a sidecar is not charged")
    (place.staging / "t1.1-9").symlink_to("far/away")
    ledger.adopt(ALICE, 210)
    ledger.reserve(ALICE, b"pabc-0", 1000, 200)
    ledger.reserve(ALICE, b"s1.1-1", 5000, 0)
    assert look(place) == Comparison(6010, 6010, True, False)


def test_drift_is_told_and_mended_only_when_asked(place: Place) -> None:
    (place.home / "f").write_bytes(b"x" * 10)
    found = look(place)
    assert (found.drift, found.exact, found.fixed, place.charged) == (-10, True, False, 0)
    place.file.add_flag(ALICE, DIRTY | UNSURE)
    found = look(place, fix=True)
    assert (found.drift, found.fixed, place.charged) == (-10, True, 10)
    assert place.file.read_account(ALICE)[3] & (DIRTY | UNSURE) == 0
    assert look(place, fix=True) == Comparison(10, 10, True, False)


def test_a_home_that_is_gone_holds_nothing(place: Place) -> None:
    MappedLedger(place.file, 0).adopt(ALICE, 10)
    place.home.rmdir()
    assert look(place, fix=True).actual == 0


def test_a_disk_that_is_not_there_is_not_an_empty_one(place: Place) -> None:
    MappedLedger(place.file, 0).adopt(ALICE, 10)
    os.rename(place.storage, place.storage + ".unmounted")
    with pytest.raises(FileNotFoundError):
        look(place, fix=True)
    assert place.charged == 10


def test_a_link_as_home_is_followed(place: Place) -> None:
    real = place.folder / "data" / "elsewhere"
    os.rename(place.home, real)
    place.home.symlink_to(real)
    (real / "f").write_bytes(b"x" * 10)
    assert look(place).actual == 10


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "_FIRST_PAUSE", 0.0001)


@pytest.mark.usefixtures("impatient")
def test_an_account_that_never_rests_is_not_judged(place: Place) -> None:
    MappedLedger(place.file, 0).adopt(ALICE, 10)
    place.file.count_move(1, ALICE, finished=False)
    found = look(place, fix=True)
    assert (found.exact, found.fixed, place.charged) == (False, False, 10)
    place.file.count_move(1, ALICE, finished=True)
    assert look(place, fix=True).fixed


@pytest.mark.usefixtures("impatient")
def test_what_is_moved_while_the_disk_is_read_is_noticed(place: Place, monkeypatch) -> None:
    files = place.files()
    MappedLedger(place.file, 0).adopt(ALICE, 10)
    (place.home / "f").write_bytes(b"x" * 10)
    real, read = verify.count_bytes, []

    def count(folder: str) -> int:
        """After each of the first readings, something happens that does not change the sum."""
        total = real(folder)
        read.append(total)
        if len(read) == 1:
            files.move((b"f",), (b"g",), may_replace=False)
        if len(read) == 2:
            files.abandon(files.begin_own("h", 100))
        return total

    monkeypatch.setattr(verify, "count_bytes", count)
    assert look(place, fix=True) == Comparison(10, 10, True, False)
    assert len(read) == 3


def test_while_uploads_run_every_judgement_is_right(place: Place) -> None:
    files = place.files()
    over = threading.Event()

    def work() -> None:
        number = 0
        while not over.is_set():
            number += 1
            incoming = files.begin_own("f", 100)
            os.write(incoming.staged.fd, b"x" * 100)
            folder = files.tree.open_folder((), parents=False)
            files.publish(incoming, folder, b"f%d" % (number % 3), True)
            os.close(folder)
            if not number % 4:
                files.remove_file((b"f%d" % (number % 3),))
            over.wait(0.005)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        judged = [look(place) for _ in range(10)]
    finally:
        over.set()
        worker.join()
    assert {found.drift for found in judged if found.exact} <= {0}
    assert look(place) == Comparison(place.charged, place.on_disk(), True, False)
