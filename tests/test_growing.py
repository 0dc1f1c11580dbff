"""Uploads of unknown length: leases that grow, partials that are found again, copies."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from corerig import ALICE, HOME, Place, children, fork, killed_at_every_store, place_in, wait
from msgspec.structs import replace

from forkd.errors import Refusal
from forkd.quota import MappedLedger
from forkd.storage.charged import Incoming
from forkd.storage.growing import GROW_LEAST, GROW_MOST, GrowingTree, copy_some
from forkd.storage.partials import Namer
from forkd.storage.sidecar import Source

MIB = 1024 * 1024
PARTS = (b"f",)
SOURCE = Source("/f", "ftp", None, "", False, None)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with place_in(tmp_path) as made:
        yield made


def files(place: Place, slot: int = 1, born: int = 7) -> GrowingTree:
    return GrowingTree(place.open_tree(), place.ledger(slot), ALICE, Namer(slot, born))


def limit(place: Place, size: int | None) -> None:
    MappedLedger(place.file, 0).set_limit(ALICE, HOME, size)


def write(tree: GrowingTree, incoming: Incoming, data: bytes) -> Incoming:
    """As a door does: no byte before it is leased."""
    at = os.fstat(incoming.staged.fd).st_size
    while data:
        room = incoming.lease.total - at
        if not room:
            incoming = tree.extend(incoming, at)
            continue
        count = os.pwrite(incoming.staged.fd, data[:room], at)
        at, data = at + count, data[count:]
    return incoming


def publish(tree: GrowingTree, incoming: Incoming) -> None:
    incoming = tree.complete(incoming, os.fstat(incoming.staged.fd).st_size)
    folder = tree.tree.open_folder((), parents=False)
    try:
        tree.publish(incoming, folder, b"f", may_replace=True)
    finally:
        os.close(folder)


def test_a_lease_grows_with_what_came_and_is_trimmed(place: Place) -> None:
    tree = files(place)
    incoming = tree.begin_growing(SOURCE, PARTS, 0, None)
    assert place.charged == 0
    incoming = tree.extend(incoming, 0)
    assert place.charged == GROW_LEAST
    incoming = tree.extend(incoming, 3 * MIB)
    assert place.charged == GROW_LEAST + 3 * MIB
    incoming = tree.extend(incoming, 100 * MIB)
    assert place.charged == GROW_LEAST + 3 * MIB + GROW_MOST
    os.pwrite(incoming.staged.fd, b"12345", 0)
    publish(tree, incoming)
    assert (place.home / "f").read_bytes() == b"12345"
    assert place.charged == place.on_disk() == 5
    assert place.staged() == []


def test_the_last_byte_is_usable_and_no_more(place: Place) -> None:
    limit(place, GROW_LEAST + 7)
    tree = files(place)
    incoming = write(tree, tree.begin_growing(SOURCE, PARTS, 0, None), bytes(GROW_LEAST + 7))
    assert place.charged == GROW_LEAST + 7
    with pytest.raises(Refusal) as refused:
        tree.extend(incoming, GROW_LEAST + 7)
    assert refused.value.code == "quota"
    publish(tree, incoming)
    assert place.charged == place.on_disk() == GROW_LEAST + 7


def test_racing_leases_share_what_there_is(place: Place) -> None:
    limit(place, 10 * MIB + 3)
    trees = [files(place, slot, slot) for slot in range(1, 5)]
    totals: list[int] = []

    def grow(tree: GrowingTree) -> None:
        incoming = tree.begin_growing(SOURCE, PARTS, 0, None)
        try:
            while True:
                incoming = tree.extend(incoming, incoming.lease.total)
        except Refusal:
            totals.append(incoming.lease.total)

    threads = [threading.Thread(target=grow, args=(tree,)) for tree in trees]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(totals) == place.charged == 10 * MIB + 3


def test_an_interrupted_upload_is_gone_on_with(place: Place) -> None:
    tree = files(place)
    tree.abandon(write(tree, tree.begin_growing(SOURCE, PARTS, 0, None), b"hello wor"))
    assert place.charged == 9
    held = tree.held(SOURCE, PARTS)
    assert held is not None
    assert held.size == 9
    incoming = tree.begin_growing(SOURCE, PARTS, None, None)
    assert incoming.staged.held == 9
    publish(tree, write(tree, incoming, b"ld"))
    assert (place.home / "f").read_bytes() == b"hello world"
    assert place.charged == 11
    assert tree.held(SOURCE, PARTS) is None


def test_an_offset_within_what_is_held_cuts_it(place: Place) -> None:
    tree = files(place)
    tree.abandon(write(tree, tree.begin_growing(SOURCE, PARTS, 0, None), b"hello XXXX"))
    publish(tree, write(tree, tree.begin_growing(SOURCE, PARTS, 6, None), b"world"))
    assert (place.home / "f").read_bytes() == b"hello world"
    assert place.charged == 11


def test_an_offset_beyond_is_refused(place: Place) -> None:
    tree = files(place)
    with pytest.raises(Refusal) as refused:
        tree.begin_growing(SOURCE, PARTS, 1, None)
    assert refused.value.code == "bad-range"
    tree.abandon(write(tree, tree.begin_growing(SOURCE, PARTS, 0, None), b"held"))
    with pytest.raises(Refusal):
        tree.begin_growing(SOURCE, PARTS, 5, None)
    assert place.charged == 4


def test_afresh_drops_what_is_held_but_not_what_is_written(place: Place) -> None:
    tree = files(place)
    running = write(tree, tree.begin_growing(SOURCE, PARTS, 0, None), b"running")
    tree.abandon(write(tree, tree.begin_growing(SOURCE, PARTS, 0, None), b"old one"))
    assert place.charged >= 14
    fresh = write(tree, tree.begin_growing(SOURCE, PARTS, 0, None), b"fresh")
    assert sum(not name.endswith(".j") for name in place.staged()) == 2
    publish(tree, fresh)
    assert (place.home / "f").read_bytes() == b"fresh"
    publish(tree, running)
    assert (place.home / "f").read_bytes() == b"running"
    assert place.charged == place.on_disk() == 7


def test_the_newest_is_gone_on_with(place: Place) -> None:
    tree = files(place)
    one = write(tree, tree.begin_growing(SOURCE, PARTS, 0, None), b"longer but older")
    two = write(tree, tree.begin_growing(SOURCE, PARTS, 0, None), b"newest")
    os.utime(one.staged.fd, (1, 1))
    tree.abandon(one)
    tree.abandon(two)
    held = tree.held(SOURCE, PARTS)
    assert held is not None
    assert held.size == 6


def test_what_is_announced_is_refused_before_the_first_byte(place: Place) -> None:
    limit(place, 100)
    tree = files(place)
    with pytest.raises(Refusal) as refused:
        tree.begin_growing(SOURCE, PARTS, 0, 101)
    assert refused.value.code == "quota"
    assert place.charged == 0
    assert place.staged() == []


@pytest.mark.parametrize("at", [0, 1, 5, 9])
def test_a_copy_takes_the_place_of_its_original(place: Place, at: int) -> None:
    tree = files(place)
    publish(tree, write(tree, tree.begin_growing(SOURCE, PARTS, 0, None), b"published"))
    base = tree.tree.open_read(PARTS)
    incoming = tree.begin_copy(at, None, "f")
    assert place.charged == 9 + at
    copied = 0
    while copied < at:
        copied += copy_some(base, incoming.staged, copied, 2, PARTS)
    os.close(base.fd)
    publish(tree, write(tree, incoming, b" and more"))
    assert (place.home / "f").read_bytes() == b"published"[:at] + b" and more"
    assert place.charged == place.on_disk() == at + 9


def test_a_broken_off_copy_leaves_nothing(place: Place) -> None:
    tree = files(place)
    publish(tree, write(tree, tree.begin_growing(SOURCE, PARTS, 0, None), b"published"))
    tree.abandon(write(tree, tree.begin_copy(0, None, "f"), b"new"))
    assert place.charged == 9
    assert place.staged() == []


def test_drop_held_gives_back(place: Place) -> None:
    tree = files(place)
    tree.abandon(write(tree, tree.begin_growing(SOURCE, PARTS, 0, None), b"held"))
    assert tree.drop_held(SOURCE, PARTS) == 4
    assert place.charged == 0
    assert place.staged() == []


def test_a_kill_anywhere_leaves_the_charge_right(place: Place) -> None:
    """Whatever was stored last, the reaper and the verifier bring charge and disk together."""

    def prepare() -> None:
        place.reap()
        if place.dirty:
            place.mend()
        assert place.charged == place.on_disk()

    def start() -> object:
        tree = files(place, born=os.getpid())  # as processes differ in it

        def upload() -> None:
            incoming = tree.begin_growing(SOURCE, PARTS, None, None)
            incoming = write(tree, incoming, b"x" * 10)
            incoming = tree.extend(incoming, 100)
            publish(tree, incoming)
            copy = tree.begin_copy(0, None, "f")
            tree.abandon(replace(write(tree, copy, b"y" * 5), size=5))

        return upload

    for _ in killed_at_every_store(prepare, start):  # type: ignore[arg-type]
        place.reap()
        assert place.charged >= place.on_disk()
        if place.dirty:
            place.mend()
        assert place.charged == place.on_disk()


def test_the_slot_of_a_killed_grower_gives_back_what_was_not_written(place: Place) -> None:
    with children() as pids:

        def doomed() -> None:
            tree = files(place)
            incoming = tree.extend(tree.begin_growing(SOURCE, PARTS, 0, None), 4 * MIB)
            os.pwrite(incoming.staged.fd, b"abc", 0)

        pids.append(fork(doomed))
        assert wait(pids.pop()) == 0
    assert place.charged == 4 * MIB
    place.reap()
    assert place.charged == place.on_disk() == 3
