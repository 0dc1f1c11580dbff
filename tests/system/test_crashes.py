"""kill -9 of everything, in the middle of changes: what was acknowledged is there after the start.

Each client has names of its own and keeps a model of them.  A change whose answer did not come
happened or did not: the files must show one of the two.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from crowd import Crowd
from disk import charged, held_at_once, leases, staged
from peer import Peer
from rig import Daemon, wait_for
from torture import Tell, scale

from forkd.digest import digest_of

pytestmark = pytest.mark.torture

KIB, MIB = 1 << 10, 1 << 20
CLIENTS = 5
NAMES = 4
State = dict[str, bytes]


class Changer:
    """Puts, overwrites, removes and moves its own files until the connection is lost."""

    def __init__(self, daemon: Daemon, number: int, seed: float) -> None:
        self.counts: Counter[str] = Counter()
        self.files: State = {}
        """What was acknowledged."""
        self.busy = False
        self._unsure: State | None = None
        """What there is if the last change, which was not answered, happened."""
        self._dice = random.Random(seed)
        self._daemon = daemon
        self._names = [f"c{number}-{i}" for i in range(NAMES)]

    def change_until_lost(self) -> None:
        with suppress(EOFError, ConnectionError):
            peer = self._daemon.log_in()
            while True:
                self._change(peer)
                self.busy = True

    def _change(self, peer: Peer) -> None:
        name, other = self._dice.sample(self._names, 2)
        changes = [self._put, self._stream, self._stream]
        if name in self.files:
            changes += [self._remove, self._move]
        change = self._dice.choice(changes)
        change(peer, name, other)
        self.counts[change.__name__.strip("_")] += 1

    @contextmanager
    def _becoming(self, after: State) -> Iterator[None]:
        """Around a change: where it is not answered, `after` may or may not be what there is."""
        self._unsure = after
        yield
        self.files, self._unsure = after, None

    def _put(self, peer: Peer, name: str, _other: str) -> None:
        content = self._content(200 * KIB)
        with self._becoming({**self.files, name: content}):
            peer.put(name, content)

    def _stream(self, peer: Peer, name: str, _other: str) -> None:
        content = self._content(6 * MIB)
        check = self._dice.random() < 0.5
        declared = {"tag": digest_of(content), "check": check, "client": "c", "restart": True}
        with self._becoming({**self.files, name: content}):
            ident, _ = peer.begin(name, len(content), **declared)
            for at in range(0, len(content), MIB):
                peer.data(ident, content[at : at + MIB])
            peer.data(ident, last=True, meta={"digest": declared["tag"]} if check else None)
            peer.answer(ident)

    def _remove(self, peer: Peer, name: str, _other: str) -> None:
        with self._becoming({n: content for n, content in self.files.items() if n != name}):
            peer.ask({"op": "remove", "path": name})

    def _move(self, peer: Peer, name: str, other: str) -> None:
        after = dict(self.files)
        after[other] = after.pop(name)
        with self._becoming(after):
            peer.ask({"op": "move", "path": name, "to": other, "replace": True})

    def _content(self, most: int) -> bytes:
        size = self._dice.randrange(most)
        return (self._dice.randbytes(4 * KIB) * (size // (4 * KIB) + 1))[:size]

    def look(self) -> None:
        """The files must be what was acknowledged, with or without the last change."""
        home, found = self._daemon.home(), {}
        for name in self._names:
            with suppress(FileNotFoundError):
                found[name] = (home / name).read_bytes()
        assert found in (self.files, self._unsure), _difference(found, self.files)
        self.counts["unanswered but done"] += found == self._unsure
        self.files, self._unsure, self.busy = found, None, False


def _difference(found: State, wanted: State) -> str:
    names = sorted(found.keys() | wanted.keys())
    return ", ".join(n for n in names if found.get(n) != wanted.get(n))


def kill_all(daemon: Daemon, dice: random.Random) -> None:
    """All processes, in any order; those that were just being forked too."""
    assert daemon.process
    while pids := daemon.processes():
        dice.shuffle(pids)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        daemon.process.wait(10)


def on_disk(daemon: Daemon) -> int:
    return held_at_once(daemon.home(), daemon.data / ".forkd")


def test_a_crash_of_everything_loses_nothing(daemon, dice: random.Random, tell: Tell) -> None:
    daemon.log_in()  # makes the account's folder
    changers = [Changer(daemon, number, dice.random()) for number in range(CLIENTS)]
    crashes, most_over = scale(5, 50), 0
    for _ in range(crashes):
        with Crowd() as crowd:
            for changer in changers:
                crowd.start(changer.change_until_lost)
            wait_for(lambda: all(changer.busy for changer in changers), 60)
            time.sleep(dice.uniform(0, 0.7))
            kill_all(daemon, dice)
        over = charged(daemon) - on_disk(daemon)
        assert over >= 0
        most_over = max(most_over, over)
        daemon.hang_up()
        daemon.start()
        assert charged(daemon) >= on_disk(daemon)  # in this order: repairs take from both
        for changer in changers:
            changer.look()
    counts = sum((changer.counts for changer in changers), Counter())
    tell(crashes=crashes, **counts, most_bytes_over=most_over)
    wait_for(lambda: not leases(daemon))
    wait_for(lambda: [account["drift"] for account in daemon.verify()] == [0], 60)
    assert charged(daemon) == on_disk(daemon)
    assert all(name.startswith("p") for name in staged(daemon)), staged(daemon)
