"""The ledger's promise: never a byte over the limit, never a byte forgotten, whoever dies."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from corerig import ALICE, Place, children, fork, place_in, wait

from forkd.errors import Refusal
from forkd.ledger.file import DIRTY, LEASES, UNSURE, LedgerFile
from forkd.quota import MappedLedger, reap_slot

KILLS = 100
KILL_SECONDS = 12.0


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with place_in(tmp_path, limit=1000) as made:
        yield made


@pytest.fixture
def ledger(place: Place) -> MappedLedger:
    return place.ledger(1)


def all_back(account: int, ident: bytes, total: int) -> int:
    """Nothing of it is on disk."""
    return total


# one process


def test_the_last_byte_is_usable_and_not_one_more(ledger: MappedLedger) -> None:
    lease = ledger.reserve(ALICE, b"s1", 999, 0)
    with pytest.raises(Refusal) as refused:
        ledger.reserve(ALICE, b"s2", 2, 0)
    assert refused.value.code == "quota"
    last = ledger.reserve(ALICE, b"s2", 1, 0)
    assert (ledger.usage(ALICE).used, ledger.usage(ALICE).reserved) == (1000, 1000)
    ledger.drop(lease)
    assert (ledger.usage(ALICE).used, ledger.usage(ALICE).reserved) == (1000, 1)
    ledger.settle(last, 0)
    assert (ledger.usage(ALICE).used, ledger.usage(ALICE).reserved) == (999, 0)


def test_what_is_held_already_is_not_charged_twice(ledger: MappedLedger) -> None:
    ledger.adopt(ALICE, 300)
    lease = ledger.reserve(ALICE, b"p1", 1000, 300)
    assert ledger.usage(ALICE).used == 1000
    ledger.settle(lease, 450)
    assert ledger.usage(ALICE).used == 450
    smaller = ledger.reserve(ALICE, b"p1", 100, 450)
    assert ledger.usage(ALICE).used == 450
    ledger.settle(smaller, 100)
    assert ledger.usage(ALICE).used == 100


def test_a_claim_charges_nothing_and_gives_all_back(ledger: MappedLedger) -> None:
    ledger.adopt(ALICE, 1000)
    lease = ledger.cover(ledger.claim(ALICE, b"t1", 0), 400)
    assert (ledger.usage(ALICE).used, ledger.leased(ALICE)) == (1000, {b"t1"})
    ledger.settle(lease, 0)
    assert (ledger.usage(ALICE).used, ledger.leased(ALICE)) == (600, set())


def test_a_limit_can_be_lowered_below_what_is_used(ledger: MappedLedger) -> None:
    ledger.adopt(ALICE, 900)
    ledger.set_limit(ALICE, "alice", 10)
    with pytest.raises(Refusal):
        ledger.reserve(ALICE, b"s1", 1, 0)
    ledger.drop(ledger.reserve(ALICE, b"s1", 0, 0))
    ledger.set_limit(ALICE, "alice", None)
    assert ledger.usage(ALICE).limit is None
    ledger.drop(ledger.reserve(ALICE, b"s1", 1 << 40, 0))
    assert ledger.usage(ALICE).used == 900 + (1 << 40)


def test_without_a_limit_the_ledger_does_not_overflow(ledger: MappedLedger) -> None:
    ledger.set_limit(ALICE, "alice", None)
    lease = ledger.reserve(ALICE, b"s1", 1 << 62, 0)
    with pytest.raises(Refusal) as refused:
        ledger.reserve(ALICE, b"s2", 1 << 62, 0)
    assert refused.value.code == "quota"
    assert ledger.file.busy(1) == 0
    ledger.settle(lease, 0)
    assert ledger.usage(ALICE).used == 0


def test_an_account_that_was_not_counted_takes_no_upload(place: Place) -> None:
    ledger = place.ledger(1)
    ledger.set_limit(2, "bob", 1000)
    with pytest.raises(Refusal) as refused:
        ledger.reserve(2, b"s1", 1, 0)
    assert (refused.value.code, refused.value.retry) == ("busy", True)
    assert place.file.read_account(2)[3] & DIRTY & ~UNSURE
    ledger.clear(2)
    ledger.adopt(2, 5)
    ledger.set_limit(2, "bob", 1000)
    assert ledger.settle(ledger.reserve(2, b"s1", 1, 0), 1) is None
    assert ledger.usage(2).used == 6


def test_removals_have_leases_when_uploads_have_none(ledger: MappedLedger) -> None:
    ledger.set_limit(ALICE, "alice", None)
    leases = [ledger.reserve(ALICE, b"s%d" % i, 0, 0) for i in range(LEASES - 64)]
    with pytest.raises(Refusal) as refused:
        ledger.reserve(ALICE, b"s", 0, 0)
    assert (refused.value.code, refused.value.retry) == ("busy", True)
    claims = [ledger.claim(ALICE, b"t%d" % i, 0) for i in range(64)]
    with pytest.raises(Refusal):
        ledger.claim(ALICE, b"t", 0)
    for lease in (*leases, *claims):
        ledger.drop(lease)
    assert ledger.leased(ALICE) == set()
    ledger.drop(ledger.reserve(ALICE, b"s1", 1, 0))


def test_an_id_beyond_the_ledger_is_not_its_account(ledger: MappedLedger) -> None:
    beyond = ledger.file.capacity + 1
    for act in (
        lambda: ledger.reserve(beyond, b"s1", 1, 0),
        lambda: ledger.set_limit(beyond, "x", 1),
        lambda: ledger.usage(0),
    ):
        with pytest.raises(IndexError):
            act()
    assert ledger.file.busy(1) == 0


# reaping


def test_reaping_asks_about_each_lease_and_gives_back_what_it_hears(place: Place) -> None:
    ledger = place.ledger(1)
    asked = []
    for ident, total in ((b"s1", 100), (b"p2", 200)):
        ledger.reserve(ALICE, ident, total, 0)

    def end(account: int, ident: bytes, total: int) -> int:
        asked.append((account, ident, total))
        return {b"s1": 100, b"p2": 150}[ident]

    assert reap_slot(place.file, 1, end) == [ALICE, ALICE]
    assert asked == [(ALICE, b"s1", 100), (ALICE, b"p2", 200)]
    assert place.charged == 50
    assert not place.dirty
    assert reap_slot(place.file, 1, end) == []


def test_a_death_between_two_stores_asks_for_a_verification(place: Place) -> None:
    ledger = place.ledger(1)
    ledger.reserve(ALICE, b"s1", 100, 0)
    ledger.adopt(2, 0)
    ledger.set_limit(2, "bob", None)
    ledger.reserve(2, b"s2", 70, 0)
    place.file.set_busy(1, ALICE)
    reap_slot(place.file, 1, all_back)
    assert place.dirty
    assert place.charged == 100
    assert place.file.read_account(2)[0] == 0
    assert not place.file.read_account(2)[3] & DIRTY
    assert list(place.file.leases()) == []


def test_an_object_that_cannot_be_looked_at_stops_nobody_else(place: Place) -> None:
    ledger = place.ledger(1)
    for number in range(3):
        ledger.reserve(ALICE, b"s%d" % number, 100, 0)

    def end(account: int, ident: bytes, total: int) -> int:
        if ident == b"s1":
            raise PermissionError(13, "no")
        return total

    reap_slot(place.file, 1, end)
    assert (place.charged, place.dirty) == (100, True)
    assert list(place.file.leases()) == []


def test_a_reaper_that_dies_in_the_middle_asks_for_a_verification(place: Place) -> None:
    ledger = place.ledger(1)
    lease = ledger.claim(ALICE, b"t1", 0)  # unlinked by the one who died, size unknown
    assert lease.total == 0

    def dies(account: int, ident: bytes, total: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    assert wait(fork(lambda: reap_slot(LedgerFile(place.path), 1, dies))) == -signal.SIGKILL
    reap_slot(place.file, 1, all_back)
    assert place.dirty


# many processes


def churn(place: Place, slot: int, rounds: int, seed: int) -> None:
    """Reserve and give back at random; in a child."""
    ledger = place.ledger(slot)
    chance = random.Random(seed)
    held = []
    for number in range(rounds):
        if held and chance.random() < 0.5:
            ledger.settle(held.pop(chance.randrange(len(held))), 0)
            continue
        try:
            held.append(
                ledger.reserve(ALICE, b"s%d.1-%d" % (slot, number), chance.randrange(90), 0)
            )
        except Refusal as refusal:
            if refusal.code != "quota":
                raise
        assert ledger.usage(ALICE).used <= 1000
    for lease in held:
        ledger.settle(lease, 0)


def test_racing_processes_keep_the_limit_and_lose_no_byte(place: Place) -> None:
    with children() as pids:
        for slot in range(1, 5):
            pids.append(fork(lambda slot=slot: churn(place, slot, 1500, slot)))
        most = 0
        alive = list(pids)
        while alive:
            most = max(most, place.charged)
            alive = [
                pid
                for pid in alive
                if not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            ]
        assert [wait(pid) for pid in pids] == [0, 0, 0, 0]
        pids.clear()
    assert 0 < most <= 1000
    assert place.charged == 0
    assert list(place.file.leases()) == []


def write_and_keep(place: Place, slot: int, seed: int, ready: int) -> None:
    """Uploads, some of which end, until somebody kills us; in a child."""
    ledger = place.ledger(slot)
    chance = random.Random(seed)
    os.write(ready, b".")
    number = 0
    while True:
        number += 1
        name = b"s%d.%d-%d" % (slot, seed, number)
        size = chance.randrange(1, 60)
        try:
            lease = ledger.reserve(ALICE, name, size, 0)
        except Refusal:
            continue
        path = place.staging / name.decode()
        path.write_bytes(b"x" * size)
        if chance.random() < 0.6:
            path.unlink()
            ledger.settle(lease, 0)
        else:
            ledger.drop(lease)
            path.rename(place.home / name.decode())
            if chance.random() < 0.9:
                lease = ledger.claim(ALICE, name, 0)
                (place.home / name.decode()).rename(path)
                lease = ledger.cover(lease, size)
                path.unlink()
                ledger.settle(lease, 0)


def test_kills_at_random_moments_leave_no_charge_too_small(place: Place) -> None:
    seed, ends, kills = 0, time.monotonic() + KILL_SECONDS, 0
    read, ready = os.pipe()
    chance = random.Random(1)
    with children() as pids:
        while kills < KILLS and time.monotonic() < ends:
            pids.clear()
            for slot in (1, 2):
                seed += 1
                pids.append(fork(lambda s=slot, n=seed: write_and_keep(place, s, n, ready)))
            for _ in pids:
                os.read(read, 1)
            time.sleep(chance.random() * 0.02)
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
                assert wait(pid) == -signal.SIGKILL
                kills += 1
            for slot in (1, 2):
                place.reap(slot)
            if place.dirty:
                place.mend()
                for path in place.staging.iterdir():  # what the keeper sweeps
                    path.unlink()
                place.mend()
            assert place.charged == place.on_disk()
            assert place.charged <= 1000
    os.close(read)
    os.close(ready)
    assert kills >= 10


def test_a_process_that_stands_still_stops_nobody_for_long(place: Place) -> None:
    ledger = place.ledger(1)
    ledger.adopt(2, 0)
    ledger.set_limit(2, "bob", None)
    owed = ledger.reserve(ALICE, b"s1", 400, 0)
    read, ready = os.pipe()

    def stand_still() -> None:
        file = LedgerFile(place.path)
        with file.locked(ALICE):
            os.write(ready, b".")
            signal.pause()

    with children() as pids:
        pids.append(fork(stand_still))
        os.read(read, 1)
        with pytest.raises(Refusal) as refused:
            ledger.reserve(ALICE, b"s2", 1, 0)
        assert (refused.value.code, refused.value.retry) == ("busy", True)
        ledger.drop(ledger.reserve(2, b"s3", 1, 0))
        ledger.settle(owed, 0)
        assert place.charged == 400
        assert ledger.leased(ALICE) == {b"s1"}
    ledger.settle_owed()
    assert (place.charged, ledger.leased(ALICE)) == (0, set())
    os.close(read)
    os.close(ready)
