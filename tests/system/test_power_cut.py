"""The power fails at random moments: whatever was acknowledged by then is on the disk, whole.

Clients note what they ask for and what was acknowledged; the disk (cutdisk.py) tells what a cut at
this moment would leave; that is mounted and compared.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import mounts
import pytest
from cutdisk import CutDisk, after_cut, cut_disk
from mounts import MIB
from peer import ERROR, REPLY, Peer, RefusedError, noise
from rig import Daemon, running, wait_for
from torture import Tell, scale

from forkd.digest import digest_of

SIZE = 64 * MIB
NAMES = 30
"""Paths of one client."""


def mark(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Noted:
    """`kept` is the digest that was acknowledged, None: no such file; `flying` are under way."""

    kept: str | None = None
    flying: list[str | None] = field(default_factory=list)

    @property
    def allowed(self) -> set[str | None]:
        return {self.kept, *self.flying}


class Client(threading.Thread):
    """Puts, replaces, moves and removes files in a folder of its own until it is stopped."""

    def __init__(self, peer: Peer, folder: str, lock: threading.Lock) -> None:
        super().__init__(daemon=True)
        self.paths: dict[str, Noted] = {}
        self.acknowledged = 0
        self.failure: BaseException | None = None
        self._peer = peer
        self._folder = folder
        self._lock = lock
        self._over = threading.Event()
        self._chance = random.Random(folder)

    def run(self) -> None:
        try:
            while not self._over.is_set():
                self._chance.choice((self.many_small, self.stream, self.remove, self.move))()
        except BaseException as failure:
            self.failure = failure

    def finish(self) -> None:
        self._over.set()
        self.join(60)
        if self.failure is not None:
            raise self.failure

    def _pick(self) -> str:
        number = self._chance.randrange(NAMES)
        return f"{self._folder}/{number % 3}/{number % 5}/{number}"

    def _announce(self, path: str, content: str | None) -> None:
        with self._lock:
            self.paths.setdefault(path, Noted()).flying.append(content)

    def _settle(self, path: str, content: str | None) -> None:
        """Answers come in the order of the requests."""
        with self._lock:
            told = self.paths[path]
            assert told.flying.pop(0) == content
            told.kept = content
            self.acknowledged += 1

    def many_small(self) -> None:
        sent = []
        for _ in range(self._chance.randrange(1, 40)):
            path, content = self._pick(), noise(self._chance.randrange(20_000))
            self._announce(path, mark(content))
            request = {"op": "put", "path": path, "size": len(content), "parents": True}
            sent.append((self._peer.request(request, content), path, mark(content)))
        for ident, path, digest in sent:
            kind, about, meta, _ = self._peer.read()
            assert (kind, about) == (REPLY, ident), meta
            self._settle(path, digest)

    def stream(self) -> None:
        path, content = self._pick(), noise(self._chance.randrange(300_000))
        self._announce(path, mark(content))
        declared = self._chance.choice(({}, {"tag": "t"}, {"tag": "t", "check": True}))
        ident, _ = self._peer.begin(path, len(content), parents=True, **declared)
        self._peer.data(ident, content)
        meta = {"digest": digest_of(content)} if "check" in declared else None
        self._peer.data(ident, last=True, meta=meta)
        kind, about, meta, _ = self._peer.read()
        assert (kind, about) == (REPLY, ident), meta
        self._settle(path, mark(content))

    def remove(self) -> None:
        path = self._pick()
        if self.paths.get(path, Noted()).kept is None:
            return
        self._announce(path, None)
        self._peer.ask({"op": "remove", "path": path})
        self._settle(path, None)

    def move(self) -> None:
        path, to = self._pick(), self._pick()
        known, replaced = (self.paths.get(each, Noted()).kept for each in (path, to))
        if known is None or replaced is None or path == to:
            return
        with self._lock:  # until it is acknowledged the two may have changed places
            self.paths[path].flying += [None, replaced]
            self.paths[to].flying.append(known)
        self._peer.ask({"op": "move", "path": path, "to": to, "replace": True})
        with self._lock:
            for name, content in ((path, None), (to, known)):
                self.paths[name].flying.clear()
                self.paths[name].kept = content
            self.acknowledged += 1


def lost(home: Path, allowed: dict[str, set[str | None]]) -> list[str]:
    """The paths that are not as they may be; files that nobody put are among them."""
    found = {
        str(path.relative_to(home)): mark(path.read_bytes())
        for path in home.rglob("*")
        if path.is_file()
    }
    wrong = [path for path, digests in allowed.items() if found.pop(path, None) not in digests]
    return wrong + list(found)


def cut_at_random(daemon: Daemon, disk: CutDisk, cuts: int) -> Iterator[tuple[list[str], int]]:
    """For each cut: the paths that are wrong after it, and how many changes were acknowledged."""
    chance, lock = random.Random(7), threading.Lock()
    clients = [Client(daemon.log_in(), f"c{number}", lock) for number in range(4)]
    for client in clients:
        client.start()
    try:
        for _ in range(cuts):
            time.sleep(chance.uniform(0.05, 0.3))
            with lock:
                allowed = {p: told.allowed for c in clients for p, told in c.paths.items()}
                count = sum(client.acknowledged for client in clients)
                image = disk.cut(chance)
            with after_cut(image, daemon.folder / "after") as found:
                yield lost(found / "alice", allowed) if allowed else [], count
    finally:
        for client in clients:
            client.finish()


@pytest.mark.torture
@pytest.mark.parametrize("durability", ["group", "full"])
def test_nothing_acknowledged_is_lost(folder, durability: str, tell: Tell):
    settings = {"storage": {"durability": f'"{durability}"'}}
    with cut_disk(folder / "data", SIZE) as disk, running(folder, settings) as daemon:
        cuts, counts = scale(6, 200), []
        for wrong, acknowledged in cut_at_random(daemon, disk, cuts):
            assert wrong == []
            counts.append(acknowledged)
        assert counts[-1] > cuts
        assert [told["drift"] for told in daemon.verify()] == [0]
        tell(cuts=cuts, acknowledged=counts[-1], lost=0)


def test_without_flushes_a_cut_does_lose(folder):
    """What the test above sees is seen."""
    settings = {"storage": {"durability": '"none"'}}
    with cut_disk(folder / "data", SIZE) as disk, running(folder, settings) as daemon:
        assert any(wrong for wrong, _ in cut_at_random(daemon, disk, 5))


SIGN = b"these bytes are not to be had on the disk"


@pytest.fixture
def bad(folder: Path) -> Iterator[tuple[CutDisk, Daemon]]:
    """A disk that fails to write whatever has the sign in it."""
    with cut_disk(folder / "data", SIZE) as disk, running(folder) as daemon:
        disk.fails = lambda data: SIGN in data
        yield disk, daemon


def test_what_the_disk_does_not_take_is_never_acknowledged(bad):
    disk, daemon = bad
    peer, content = daemon.log_in(), noise(200_000) + SIGN + noise(200_000)
    peer.put("f", b"old")
    for declared in ({}, {"tag": "t"}, {"tag": "t", "check": True}) * 2:
        ident, offer = peer.begin("f", len(content), **declared)
        assert offer["offset"] == 0
        peer.data(ident, content)
        end = {"digest": digest_of(content)} if "check" in declared else None
        peer.data(ident, last=True, meta=end)
        kind, _, meta, _ = peer.read()
        assert (kind, meta["code"], meta["retry"]) == (ERROR, "io-error", True)
        with pytest.raises(RefusedError) as told:
            peer.put("f", content)
        assert told.value.code == "io-error"
        assert peer.get("f") == b"old"
        assert daemon.bytes_on_disk() == 3
    assert disk.failed
    disk.fails = lambda data: False
    peer.put("f", content)
    assert [told["drift"] for told in daemon.verify()] == [0]


def test_a_partial_that_the_disk_did_not_take_is_not_resumed(bad):
    """Its pages were dropped, or are shown though they are nowhere: the flush at the end of the
    resumed upload would succeed."""
    disk, daemon = bad
    content, failed = SIGN + noise(9 * MIB), 0
    for name, check in (("plain", False), ("checked", True)):
        disk.fails = lambda data: SIGN in data
        peer, held = daemon.log_in(), daemon.bytes_on_disk()
        ident, _ = peer.begin(name, len(content), tag="t", check=check)
        peer.data(ident, content[: 8 * MIB + 1])
        wait_for(lambda held=held: daemon.bytes_on_disk() == held + 8 * MIB + 1)
        peer.close()
        wait_for(lambda: not daemon.status()["totals"]["sessions_now"])
        mounts.call("sync", "--file-system", daemon.data / ".forkd")
        assert disk.failed > failed
        failed = disk.failed
        disk.fails = lambda data: False
        peer = daemon.log_in()
        ident, offer = peer.begin(name, len(content), tag="t", check=check)
        assert offer["offset"] == 0
        peer.data(ident, content)
        peer.data(ident, last=True, meta={"digest": digest_of(content)} if check else None)
        assert peer.read()[0] == REPLY
        with after_cut(disk.cut(random.Random(1)), daemon.folder / "after") as found:
            assert (found / "alice" / name).read_bytes() == content
        assert [told["drift"] for told in daemon.verify()] == [0]
        peer.close()


def test_a_disk_that_dies_in_mid_upload(folder):
    """From now on it writes nothing: the filesystem gives up and is read-only."""
    kept = {f"f{number}": noise(50_000) for number in range(20)}
    with cut_disk(folder / "data", SIZE) as disk, running(folder) as daemon:
        peer, other = daemon.log_in(), daemon.log_in()
        workers = {worker["pid"] for worker in daemon.workers()}
        for name, content in kept.items():
            peer.put(name, content)
        ident, _ = peer.begin("f0", 8 * MIB, tag="t")
        peer.data(ident, noise(4 * MIB))
        wait_for(lambda: daemon.bytes_on_disk() == 20 * 50_000 + 4 * MIB)
        disk.fails = lambda data: True
        peer.data(ident, noise(4 * MIB))
        peer.data(ident, last=True)
        kind, _, meta, _ = peer.read()
        assert (kind, meta["code"] in ("io-error", "read-only"), meta["retry"]) == (
            ERROR,
            True,
            True,
        )
        for number in range(20):
            with pytest.raises(RefusedError) as told:
                other.put(f"f{number}", b"new")
            assert told.value.code in ("io-error", "read-only")
        with pytest.raises(RefusedError) as told:
            other.ask({"op": "remove", "path": "f3"})
        assert told.value.code in ("io-error", "read-only")
        for name in ("f7", "f8"):
            assert daemon.log_in().get(name) == kept[name]
        assert {worker["pid"] for worker in daemon.workers()} == workers
        assert daemon.events()
        with after_cut(disk.cut(random.Random(2)), folder / "after") as found:
            assert {p.name: p.read_bytes() for p in (found / "alice").iterdir()} == kept
