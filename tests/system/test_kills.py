"""kill -9 of workers during uploads: nothing is lost, nothing half-done is shown, nothing leaks."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from crowd import Crowd
from disk import charged, leases, staged
from rig import PASSWORD, Daemon, wait_for
from torture import Tell, scale

from forkd.client import Client, KnownHosts, RetryPolicy, Settings
from forkd.client.events import Event, Moved, Note, Started

pytestmark = pytest.mark.torture

KIB, MIB = 1 << 10, 1 << 20
SIZES = (0, 300 * KIB, 3 * MIB, 9 * MIB, 14 * MIB, 18 * MIB)
"""Inline puts, and streams of one and several blocks."""
SPEED = 8 * MIB
"""Bytes in a second at most."""
NAMES = 5
"""Of each client: they are overwritten again and again."""


class Putter:
    """A client of the library that puts files until it is told to end."""

    def __init__(self, daemon: Daemon, number: int, seed: float) -> None:
        self.counts: Counter[str] = Counter()
        self.acknowledged: dict[str, str] = {}
        self.known: dict[str, set[str]] = {}
        """Digests of all that was ever sent under a name."""
        self._dice = random.Random(seed)
        self._daemon = daemon
        self._number = number
        self._source = daemon.folder / f"source{number}"

    def put_until(self, crowd: Crowd) -> None:
        settings = Settings(
            KnownHosts(), RetryPolicy(first=0.05, longest=1.0), listener=self._listen
        )
        with Client(self._daemon.url(), PASSWORD, settings) as client:
            while crowd.going:
                self._put(client)

    def _put(self, client: Client) -> None:
        size = self._dice.choice(SIZES) + self._dice.randrange(KIB)
        content = (self._dice.randbytes(4 * KIB) * (size // (4 * KIB) + 1))[:size]
        digest = hashlib.sha256(content).hexdigest()
        name = f"c{self._number}-{self._dice.randrange(NAMES)}"
        self.known.setdefault(name, set()).add(digest)
        self._source.write_bytes(content)
        client.put_file(str(self._source), name)
        self.acknowledged[name] = digest
        self.counts["puts"] += 1

    def _listen(self, event: Event) -> None:
        match event:
            case Moved(count=count):
                time.sleep(count / SPEED)  # so that kills meet it half-way
            case Started(offset=offset) if offset:
                self.counts["resumed"] += 1
            case Note():
                self.counts["repeated"] += 1


class Readers:
    """Look at every name that can be seen: what is there must be whole."""

    def __init__(self, home: Path, putters: list[Putter]) -> None:
        self.looks = 0
        self._home = home
        self._putters = putters

    def look_until(self, crowd: Crowd) -> None:
        while crowd.going:
            for name in os.listdir(self._home):
                self._look(name)
                time.sleep(0.02)  # hashing must not starve the clients

    def _look(self, name: str) -> None:
        digest = hashlib.sha256((self._home / name).read_bytes()).hexdigest()
        assert any(digest in putter.known.get(name, ()) for putter in self._putters), name
        self.looks += 1


def kill_one(daemon: Daemon, dice: random.Random, dead: set[int]) -> None:
    """Any of those that had transfers under way when they counted, which is once a second."""

    def busy() -> list[int]:
        return [w["pid"] for w in daemon.workers() if w["transfers"] and w["pid"] not in dead]

    victim = dice.choice(wait_for(busy, 60))
    os.kill(victim, signal.SIGKILL)
    dead.add(victim)


def test_killed_workers_lose_nothing(
    daemon_with, dice: random.Random, tell: Tell, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = daemon_with(server={"workers": "4"})
    monkeypatch.setenv("XDG_CONFIG_HOME", str(daemon.folder / "client"))
    daemon.log_in()  # makes the account's folder
    putters = [Putter(daemon, number, dice.random()) for number in range(6)]
    readers = Readers(daemon.home(), putters)
    kills, dead = scale(7, 100), set()
    with Crowd() as crowd:
        for putter in putters:
            crowd.start(putter.put_until, crowd)
        crowd.start(readers.look_until, crowd)
        wait_for(lambda: all(putter.counts["puts"] for putter in putters))
        for number in range(1, kills + 1):
            time.sleep(dice.uniform(0, 0.5))
            kill_one(daemon, dice, dead)
            if not number % 6:  # a new generation knows no crash loop
                assert daemon.ctl("reload").returncode == 0
            crowd.check()
    counts = sum((putter.counts for putter in putters), Counter())
    tell(kills=kills, **counts, looks=readers.looks)
    assert counts["repeated"]
    assert counts["resumed"]
    assert_exact(daemon, putters)


def assert_exact(daemon: Daemon, putters: list[Putter]) -> None:
    wait_for(lambda: not leases(daemon), 60)
    wait_for(lambda: not staged(daemon), 60)
    acknowledged = {name: d for putter in putters for name, d in putter.acknowledged.items()}
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in daemon.home().iterdir()
    }
    assert found == acknowledged
    assert charged(daemon) == sum(path.stat().st_size for path in daemon.home().iterdir())
    assert [account["drift"] for account in daemon.verify()] == [0]
