"""Long names, big folders, deep paths, partials by the thousand: whole, and in nobody's way."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from measure import MIB, Pulse, growth, worker_pids
from peer import Peer, RefusedError
from rig import QUICK, Daemon, running, wait_for
from torture import FULL, Tell, scale

FILES = scale(20_000, 200_000)
PARTIALS = scale(500, 10_000)
HELD = 1_000
DEPTH = 100
FLAT = 16 * MIB
FAST_ENOUGH = 0.05 if FULL else 1.0
"""Seconds for a small put and a get, in the middle of them all: the promise is the long form's."""

pytestmark = pytest.mark.torture


@pytest.fixture
def alice(swift: Daemon) -> Iterator[Peer]:
    peer = swift.log_in()
    yield peer
    assert [account["drift"] for account in swift.verify()] == [0] * len(swift.users)
    swift.hang_up()


@pytest.fixture
def pulse(swift: Daemon) -> Pulse:
    """Of another user."""
    if "bob" not in swift.users:
        swift.add_user("bob")
    pulse = Pulse(swift.log_in("bob"))
    pulse.beat()
    return pulse


@contextmanager
def undisturbed(daemon: Daemon, pulse: Pulse, tell: Tell) -> Iterator[None]:
    """Meanwhile another user's small files stay fast, and no worker grows."""
    with growth(worker_pids(daemon)) as grown, pulse.beating():
        yield
        wait_for(lambda: len(pulse.seconds) > 10)
    tell(grew=f"{grown.worst / MIB:.1f} MiB", **pulse.figures())
    assert grown.worst < FLAT
    assert pulse.median < FAST_ENOUGH


def names_in(content: bytes) -> list[str]:
    return [json.loads(line)["name"] for line in content.splitlines()]


def fill(folder: Path, count: int) -> set[str]:
    """Empty files straight on the disk, which nobody is charged for; their names."""
    folder.mkdir()
    names = {f"{number:x}-{'ü' * (number % 100)}" for number in range(count)}
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name in names:
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=fd))
    finally:
        os.close(fd)
    return names


@pytest.mark.parametrize("character", ["x", "é", "€", "🦀"])
def test_a_name_of_255_bytes(alice: Peer, character: str) -> None:
    name = character * (255 // len(character.encode()))
    name += "x" * (255 - len(name.encode()))
    path, other = f"{name}/{name}", "y" + name[1:]
    alice.put(path, b"long", parents=True)
    assert alice.get(path) == b"long"
    assert names_in(alice.ask({"op": "list", "path": name})[1]) == [name]
    alice.ask({"op": "move", "path": path, "to": other})
    assert alice.get(other) == b"long"
    with pytest.raises(RefusedError) as refused:
        alice.put(name + "x", b"")
    assert refused.value.code == "bad-name"
    for gone in (name, other):
        alice.ask({"op": "remove", "path": gone, "recursive": True})


def test_a_folder_of_very_many_files(swift: Daemon, alice: Peer, pulse: Pulse, tell: Tell) -> None:
    names = fill(swift.home() / "many", FILES)
    frames: list[int] = []
    found: list[str] = []
    with undisturbed(swift, pulse, tell):
        began = time.monotonic()
        ident = alice.request({"op": "list", "path": "many"})
        while True:
            kind, about, _, payload = alice.read()
            assert about == ident
            frames.append(len(payload))
            found += names_in(payload)
            if kind == 0xF4:
                break
        listed = time.monotonic() - began
        began = time.monotonic()
        removed, _ = alice.ask({"op": "remove", "path": "many", "recursive": True})
        took = time.monotonic() - began
    assert len(found) == FILES
    assert set(found) == names
    assert max(frames) <= MIB
    assert removed == {"files": FILES, "folders": 1}
    assert not (swift.home() / "many").exists()
    tell(files=FILES, frames=len(frames), listed=f"{listed:.1f} s", removed=f"{took:.1f} s")


def test_a_path_a_hundred_deep(swift: Daemon, alice: Peer) -> None:
    path = "/".join(f"level-{number:03}" for number in range(DEPTH))
    alice.put(f"{path}/leaf", b"down here", parents=True)
    assert alice.get(f"{path}/leaf") == b"down here"
    assert names_in(alice.ask({"op": "list", "path": path})[1]) == ["leaf"]
    assert alice.ask({"op": "stat", "path": path})[0]["type"] == "folder"
    alice.ask({"op": "move", "path": f"{path}/leaf", "to": "leaf"})
    alice.ask({"op": "move", "path": "leaf", "to": f"{path}/leaf"})
    removed, _ = alice.ask({"op": "remove", "path": "level-000", "recursive": True})
    assert removed == {"files": 1, "folders": DEPTH}
    assert os.listdir(swift.home()) == []
    with pytest.raises(RefusedError) as refused:
        alice.put("d/" * 256 + "leaf", b"", parents=True)
    assert refused.value.code == "bad-name"


def leave_partials(daemon: Daemon, count: int) -> None:
    """So many uploads that their clients have broken off."""

    def some(numbers: range) -> None:
        peer = daemon.log_in()
        for number in numbers:
            ident, _ = peer.begin(f"part-{number}", 5_000, tag="t", client="c")
            peer.data(ident, bytes(HELD))
            peer.data(ident, last=True, meta={"abort": True})
            with pytest.raises(RefusedError):
                peer.answer(ident)
        peer.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(some, (range(start, count, 4) for start in range(4))))


def partials(daemon: Daemon) -> int:
    return sum(
        name.startswith("p") and not name.endswith(".j")
        for _, _, names in os.walk(daemon.data / ".forkd")
        for name in names
    )


def test_thousands_of_partials_expire_at_once(folder: Path, tell: Tell) -> None:
    with running(folder, None, *QUICK) as daemon:
        daemon.add_user("bob")
        leave_partials(daemon, PARTIALS)
        assert partials(daemon) == PARTIALS
        alice = daemon.log_in()
        assert charged(alice) == PARTIALS * HELD
        alice.close()
        daemon.configure("storage", partial_expiry='"1s"')
        pulse = Pulse(daemon.log_in("bob"))
        with undisturbed(daemon, pulse, tell):
            began = time.monotonic()
            assert daemon.ctl("reload").returncode == 0
            alice = daemon.log_in()
            wait_for(lambda: charged(alice) == 0, 300)
            took = time.monotonic() - began
        assert not any(names for _, _, names in os.walk(daemon.data / ".forkd"))
        assert [account["drift"] for account in daemon.verify()] == [0, 0]
        assert daemon.metrics()["forkd_partials_expired_total"] == PARTIALS
    tell(partials=PARTIALS, expired=f"{took:.1f} s")


def charged(peer: Peer) -> int:
    """What the user is charged, in bytes."""
    used: int = peer.ask({"op": "quota"})[0]["used"]
    return used
