"""Workers that stand still or will not start: others serve, nothing stays locked, and it shows."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import pytest
from crowd import Crowd
from disk import charged, held_at_once, leases
from peer import Peer, RefusedError
from rig import Daemon, wait_for
from torture import Tell, scale

from forkd.ledger.file import LedgerFile

pytestmark = pytest.mark.torture

MIB = 1 << 20
SIZE = 4 * MIB


def slot_of(peer: Peer) -> int:
    return int(peer.hello["session"].split("-")[0], 16)


def pid_in(daemon: Daemon, slot: int) -> int:
    return next(int(worker["pid"]) for worker in daemon.workers() if worker["slot"] == slot)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


class Half:
    """A streamed put of which the first quarter is on the disk."""

    def __init__(self, daemon: Daemon, name: str, content: bytes) -> None:
        self.peer = daemon.log_in()
        self.slot = slot_of(self.peer)
        self._daemon, self._name, self._content = daemon, name, content
        before = on_disk(daemon)
        self._ident, self.offset = self._begin(self.peer)
        self.peer.data(self._ident, content[self.offset : MIB])
        wait_for(lambda: on_disk(daemon) == before + MIB - self.offset)

    def _begin(self, peer: Peer) -> tuple[int, int]:
        ident, offer = peer.begin(self._name, len(self._content), tag=self._name)
        return ident, offer["offset"]

    def finish(self) -> None:
        self.peer.data(self._ident, self._content[MIB:], last=True)
        assert self.peer.answer(self._ident)[0]["size"] == len(self._content)
        assert (self._daemon.home() / self._name).read_bytes() == self._content
        self.peer.close()

    def resume(self) -> None:
        """On a new connection."""
        self.peer = self._daemon.log_in()
        self._ident, self.offset = self._begin(self.peer)
        assert self.offset == MIB
        self.finish()


def on_disk(daemon: Daemon) -> int:
    return held_at_once(daemon.home(), daemon.data / ".forkd")


def be_served(daemon: Daemon) -> None:
    with closing(daemon.log_in()) as other:
        other.put("other", b"x")
        other.ask({"op": "remove", "path": "other"})


def test_a_stopped_worker_is_replaced_and_its_credits_return(
    daemon_with, dice: random.Random, tell: Tell
) -> None:
    daemon = daemon_with(server={"workers": "3", "watchdog_timeout": '"3s"'})
    rounds, served = scale(1, 6), 0
    for number in range(rounds):
        half = Half(daemon, f"f{number}", dice.randbytes(SIZE))
        victim = pid_in(daemon, half.slot)
        with stopped(victim):
            while victim in (worker["pid"] for worker in daemon.workers()):
                be_served(daemon)
                served += 1
            wait_for(lambda: not leases(daemon))
            assert charged(daemon) == number * SIZE + MIB
        half.peer.close()
        half.resume()
        wait_for(lambda: len(daemon.workers()) == 3)
    tell(stopped=rounds, served_meanwhile=served)
    killed = [event["why"] for event in daemon.events() if event["event"] == "killed"]
    assert len(killed) == rounds
    assert all("made no progress" in why for why in killed)
    assert [account["drift"] for account in daemon.verify()] == [0]


def test_a_worker_that_goes_on_does_no_harm(daemon_with, dice: random.Random, tell: Tell) -> None:
    """Stopped for less than the watchdog's time, also as an orphan while another master serves."""
    daemon = daemon_with(server={"watchdog_timeout": '"1h"'})
    rounds = scale(1, 5)
    for number in range(rounds):
        half = Half(daemon, f"{number}", dice.randbytes(SIZE))
        orphan = Half(daemon, f"{number} orphan", dice.randbytes(SIZE))
        for _ in range(5):
            with stopped(pid_in(daemon, half.slot)):
                be_served(daemon)
        half.finish()
        pid = pid_in(daemon, orphan.slot)
        kill_master(daemon)
        daemon.start()
        with stopped(pid):
            be_served(daemon)
            assert charged(daemon) == 2 * (number + 1) * SIZE
        orphan.finish()
        wait_for(lambda: not daemon.status()["foreign_slots"])
    tell(stopped=2 * rounds)
    assert charged(daemon) == on_disk(daemon) == 2 * rounds * SIZE
    assert [account["drift"] for account in daemon.verify()] == [0]


def kill_master(daemon: Daemon) -> None:
    daemon.signal(signal.SIGKILL)
    assert daemon.process
    daemon.process.wait(10)


@pytest.mark.parametrize("stop_before_the_start", [True, False])
def test_an_orphan_that_stands_still_is_ended(
    daemon_with, dice: random.Random, stop_before_the_start: bool
) -> None:
    """It has the addresses that the new master must bind, and credits that nobody can return."""
    daemon = daemon_with(server={"watchdog_timeout": '"3s"'})
    half = Half(daemon, "f", dice.randbytes(SIZE))
    orphan = pid_in(daemon, half.slot)
    if stop_before_the_start:
        os.kill(orphan, signal.SIGSTOP)
    kill_master(daemon)
    daemon.start()
    if not stop_before_the_start:
        os.kill(orphan, signal.SIGSTOP)
    wait_for(lambda: not daemon.status()["foreign_slots"])
    wait_for(lambda: charged(daemon) == MIB)
    half.peer.close()
    half.resume()
    killed = [event for event in daemon.events() if event["event"] == "killed"]
    assert [(event["process"], event["pid"]) for event in killed] == [("orphan", orphan)]
    assert [account["drift"] for account in daemon.verify()] == [0]


def test_a_lock_of_a_stopped_worker_stops_nobody_for_long(
    daemon_with, dice: random.Random, tell: Tell
) -> None:
    daemon = daemon_with(server={"watchdog_timeout": '"6s"'})
    small = dice.randbytes(100)

    def put_until_lost(crowd: Crowd, peer: Peer) -> None:
        with suppress(EOFError, ConnectionError, RefusedError):
            while crowd.going:
                idents = [
                    peer.request({"op": "put", "path": f"s{i}", "size": 100}, small)
                    for i in range(100)
                ]
                for ident in idents:
                    peer.answer(ident)

    refused = 0
    with Crowd() as crowd:
        victim, other = two_workers(daemon)
        crowd.start(put_until_lost, crowd, victim)
        pid = pid_in(daemon, slot_of(victim))
        stop_in_the_ledger(daemon, pid)
        while True:
            try:
                other.put("other", small)
                break
            except RefusedError as busy:
                assert busy.code == "busy", busy  # noqa: PT017
                refused += 1
    tell(refused_meanwhile=refused)
    assert refused
    wait_for(lambda: pid not in (worker["pid"] for worker in daemon.workers()))
    wait_for(lambda: not leases(daemon))
    wait_for(lambda: [account["drift"] for account in daemon.verify()] == [0])
    assert charged(daemon) == on_disk(daemon)


def two_workers(daemon: Daemon) -> tuple[Peer, Peer]:
    """Connections to two different ones."""
    first = daemon.log_in()
    while slot_of(other := daemon.log_in()) == slot_of(first):
        other.close()
    return first, other


def stop_in_the_ledger(daemon: Daemon, pid: int) -> None:
    """Stop a busy worker while it holds its account's lock."""
    with closing(LedgerFile(str(daemon.state / "ledger"))) as file:
        for _ in range(5000):
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.001)  # it may be on a CPU yet
            try:
                with file.locked(1, 0.0):
                    pass
            except TimeoutError:
                return
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.003)
    pytest.fail("the worker was never met with the lock")


def test_a_crash_loop_backs_off_shows_and_heals(daemon: Daemon, tell: Tell) -> None:
    """Workers that find no ledger at their start end at once."""
    ledger, away = daemon.state / "ledger", daemon.state / "away"
    ledger.rename(away)
    for worker in daemon.workers():
        os.kill(worker["pid"], signal.SIGKILL)
    failures = scale(5, 11)

    def deaths() -> list[float]:
        died = [e for e in daemon.events() if e["event"] == "died" and e["process"] == "worker 1"]
        return [event["next_start_in"] for event in died]

    wait_for(lambda: len(deaths()) >= failures, 120, 0.2)
    shown = daemon.ctl("status")
    pauses = deaths()
    tell(deaths=len(pauses), longest_pause=max(pauses))
    assert pauses == [min(30.0, 0.1 * 2**i) for i in range(len(pauses))]
    assert shown.returncode == 1
    assert "degraded" in shown.stdout
    assert "worker 1" in shown.stdout
    assert "ledger: No such file" in shown.stdout
    away.rename(ledger)
    wait_for(lambda: len(daemon.workers()) == 2, 60)
    assert daemon.ctl("status").returncode == 0
    be_served(daemon)
