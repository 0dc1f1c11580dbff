"""The mapped file: allocated whole, recognized, marked after a crash of the machine."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from corerig import children, fork

from forkd.errors import StartError
from forkd.ledger.file import (
    DIRTY,
    FREE,
    HELD,
    IN_USE,
    LEASES,
    UNSURE,
    LedgerFile,
    allocate,
    locked_slots,
    mark_clean,
)
from forkd.ledger.layout import LEDGER_SLOTS, size_for


@pytest.fixture
def path(tmp_path: Path) -> str:
    made = str(tmp_path / "ledger")
    allocate(made, 10)
    return made


@pytest.fixture
def file(path: str) -> Iterator[LedgerFile]:
    opened = LedgerFile(path)
    yield opened
    opened.close()


def other_boot(path: str) -> None:
    """As if the machine had been started again since."""
    with open(path, "r+b") as raw:
        raw.seek(24)
        raw.write(b"another boot".ljust(40, b"\0"))


def test_the_file_is_allocated_whole(path: str) -> None:
    assert os.stat(path).st_size == size_for(10)
    assert os.stat(path).st_blocks * 512 >= size_for(10)
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_it_grows_and_keeps_what_it_says(path: str, file: LedgerFile) -> None:
    file.write_limit(3, "carol", 77)
    file.write_charge(3, 5, 1)
    allocate(path, 20)
    allocate(path, 4)
    grown = LedgerFile(path)
    assert grown.capacity == 20
    assert file.capacity == 10
    (cell,) = grown.accounts()
    assert (cell.id, cell.name, cell.charged, cell.limit, cell.reserved) == (3, "carol", 5, 77, 0)
    grown.write_charge(20, 1, 1)
    with pytest.raises(IndexError):
        file.read_account(20)
    grown.close()


def test_another_file_is_left_alone(tmp_path: Path) -> None:
    for content in (b"some text", b"forkd ledger 9\0\0" + bytes(4096), b"forkd ledger 1\0\0"):
        path = tmp_path / "ledger"
        path.write_bytes(content)
        with pytest.raises(StartError, match="not a quota ledger"):
            allocate(str(path), 10)
        assert path.read_bytes() == content


def test_a_start_that_died_before_the_header_was_written_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    path.write_bytes(bytes(size_for(10)))
    allocate(str(path), 10)
    LedgerFile(str(path)).close()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount a small filesystem")
def test_a_full_disk_is_told_at_the_start(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(tmp_path)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        with pytest.raises(StartError, match="no room"):
            allocate(str(tmp_path / "ledger"), 10)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_after_the_machine_went_down_every_account_is_unsure(path: str, file: LedgerFile) -> None:
    file.write_limit(3, "carol", 77)
    allocate(path, 10)
    assert file.read_account(3)[3] == IN_USE
    other_boot(path)
    allocate(path, 10)
    assert file.read_account(3)[3] == IN_USE | DIRTY | UNSURE
    assert file.read_account(4)[3] == 0
    file.remove_flag(3, DIRTY | UNSURE)
    allocate(path, 10)
    assert file.read_account(3)[3] == IN_USE


def test_a_clean_end_is_trusted_after_a_boot(path: str, file: LedgerFile) -> None:
    file.write_limit(3, "carol", 77)
    mark_clean(path)
    other_boot(path)
    allocate(path, 10)
    assert file.read_account(3)[3] == IN_USE


def test_a_ledger_that_found_no_room_has_no_end(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    path.write_bytes(b"")
    mark_clean(str(path))
    assert path.read_bytes() == b""


def test_an_end_is_not_clean_while_somebody_holds_a_slot(path: str, file: LedgerFile) -> None:
    file.write_limit(3, "carol", 77)
    assert file.hold_slot(5)
    mark_clean(path)
    other_boot(path)
    allocate(path, 10)
    assert file.read_account(3)[3] & UNSURE


def test_a_slot_is_held_until_its_process_dies(path: str, file: LedgerFile) -> None:
    read, ready = os.pipe()

    def hold() -> None:
        mine = LedgerFile(path)
        assert mine.hold_slot(2)
        os.write(ready, b".")
        threading.Event().wait()

    with children() as pids:
        pids.append(fork(hold))
        os.read(read, 1)
        assert not file.hold_slot(2)
        assert file.hold_slot(3)
        assert locked_slots(path) == {2, 3}
    assert file.hold_slot(2)
    file.drop_slot(2)
    assert locked_slots(path) == {3}
    assert locked_slots(path + ".none") == set()
    os.close(read)
    os.close(ready)


def test_leases_are_seen_by_everybody_and_forgotten_with_the_slot(
    path: str, file: LedgerFile
) -> None:
    file.write_lease(1, 0, HELD, 3, 100, b"s1.1-1")
    file.write_lease(1, 5, HELD, 4, 200, b"x" * 40)
    file.write_lease(LEDGER_SLOTS, LEASES - 1, HELD, 3, 7, b"t")
    other = LedgerFile(path)
    assert [(c.slot, c.index, c.account, c.total, c.id) for c in other.leases()] == [
        (1, 0, 3, 100, b"s1.1-1"),
        (1, 5, 4, 200, b"x" * 40),
        (LEDGER_SLOTS, LEASES - 1, 3, 7, b"t"),
    ]
    other.cover_lease(1, 0, 150)
    file.free_lease(1, 5)
    assert [(c.total, c.state) for c in file.leases(1)] == [(150, HELD)]
    file.free_lease(1, 0)
    file.forget_leases(1)
    assert list(other.leases(1)) == []
    file.write_lease(1, 5, FREE, 4, 200, b"x")
    assert list(other.leases(1)) == []
    other.close()


def test_moves_are_counted_over_all_slots(file: LedgerFile) -> None:
    file.count_move(1, 3, finished=False)
    file.count_move(2, 3, finished=False)
    file.count_move(2, 3, finished=True)
    assert file.moves(3) == (2, 1)
    assert file.moves(4) == (0, 0)
    file.forget_leases(1)
    assert file.moves(3) == (1, 1)


def test_threads_exclude_each_other_too(file: LedgerFile) -> None:
    def count() -> None:
        for _ in range(300):
            with file.locked(3, 30.0):
                charged, _, ops, _ = file.read_account(3)
                os.sched_yield()
                file.write_charge(3, charged + 1, ops + 1)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert file.read_account(3)[0] == 1200


def test_a_lock_is_given_back_when_the_work_under_it_raises(path: str, file: LedgerFile) -> None:
    other = LedgerFile(path)
    with pytest.raises(ZeroDivisionError), file.locked(3):
        raise ZeroDivisionError
    with other.locked(3, 0.0), pytest.raises(TimeoutError), file.locked(3, 0.0):
        pass
    with file.locked(3, 0.0), other.locked(4, 0.0):
        pass
    other.close()
