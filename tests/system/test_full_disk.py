"""The disk is full: what does not fit is refused, everything else goes on, and it comes back."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import mounts
import pytest
from mounts import MIB
from peer import ERROR, REPLY, Peer, RefusedError, noise
from rig import PASSWORD, Daemon, running, wait_for
from torture import Tell, scale

from forkd.digest import digest_of

KINDS = {
    "tmpfs": lambda at: mounts.tmpfs(at, 32 * MIB),
    "ext4": lambda at: mounts.ext4(at, 64 * MIB),
}
BOTH = [("tmpfs", "none"), ("ext4", "group")]
OLD = noise(MIB)


class TlsPeer(Peer):
    """Over TCP, encrypted; whoever answers is believed."""

    def __init__(self, daemon: Daemon) -> None:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.sock = context.wrap_socket(socket.create_connection((daemon.host, daemon.port), 60))
        self._next = 0
        self.hello = self.ask({"op": "hello", "versions": [1]})[0]


@contextlib.contextmanager
def on(kind: str, folder: Path, durability: str = "group", part: str = "data") -> Iterator[Daemon]:
    """A daemon whose `part` is a small filesystem; alice has no limit but the disk's."""
    settings = {"storage": {"durability": f'"{durability}"'}}
    if part == "state":
        settings["log"] = {"file": f'"{folder}/state/forkd.log"'}
    with KINDS[kind](folder / part), running(folder, settings) as daemon:
        assert daemon.ctl("user", "set", "alice", "--quota", "unlimited").returncode == 0
        yield daemon


def staged(daemon: Daemon) -> list[str]:
    return sorted(os.listdir(daemon.data / ".forkd" / "1"))


def check_nothing_lost(daemon: Daemon, kept: dict[str, bytes]) -> None:
    """What was acknowledged is there, nothing else is, and it is charged exactly."""
    home = daemon.home()
    assert {p.name: p.read_bytes() for p in home.iterdir()} == kept
    assert staged(daemon) == []
    used = daemon.log_in().ask({"op": "quota"})[0]["used"]
    assert used == sum(map(len, kept.values())) == daemon.bytes_on_disk()
    (account,) = daemon.verify()
    assert (account["drift"], account["exact"]) == (0, True)


def go_on(daemon: Daemon, kept: dict[str, bytes]) -> None:
    """Other sessions download, list, and put what still fits."""
    other = daemon.log_in()
    assert other.get("old") == kept["old"]
    assert b'"old"' in other.ask({"op": "list", "path": ""})[1]
    other.put("small", b"still fits")
    kept["small"] = b"still fits"
    other.close()


def finish(peer: Peer, ident: int, content: bytes, *, check: bool) -> tuple[int, dict]:
    """Send the rest of a stream; (kind, meta) of its answer."""
    for at in range(0, len(content), MIB):
        peer.data(ident, content[at : at + MIB])
    peer.data(ident, last=True, meta={"digest": digest_of(content)} if check else None)
    kind, about, meta, _ = peer.read()
    assert about == ident
    return kind, meta


WAYS = {
    "spliced": {},
    "resumable": {"tag": "t"},
    "digest": {"tag": "t", "check": True},
}


@pytest.mark.parametrize(("kind", "durability"), BOTH)
def test_streams_on_a_disk_that_fills_up_in_mid_upload(folder, kind, durability):
    content = noise(8 * MIB)
    with on(kind, folder, durability) as daemon:
        kept = {"old": OLD}
        daemon.log_in().put("old", OLD)
        for way, declared in [*WAYS.items(), ("tls", WAYS["digest"])]:
            peer = TlsPeer(daemon) if way == "tls" else daemon.connect()
            peer.login("alice", PASSWORD)
            check = "check" in declared
            ident, _ = peer.begin("old", len(content), **declared)
            peer.data(ident, content[: 2 * MIB])
            wait_for(lambda: daemon.bytes_on_disk() >= 3 * MIB)
            ballast = mounts.fill(daemon.data, leave=MIB)
            kind_, meta = finish(peer, ident, content[2 * MIB :], check=False)
            assert (kind_, meta.get("code"), meta.get("retry")) == (ERROR, "no-space", True), way
            go_on(daemon, kept)
            check_nothing_lost(daemon, kept)
            with pytest.raises(RefusedError) as refused:
                peer.begin("old", len(content), **declared)
            assert refused.value.code == "no-space"
            ballast.unlink()
            ident, offer = peer.begin("old", len(content), **declared)
            assert offer["offset"] == 0
            kind_, meta = finish(peer, ident, content, check=check)
            assert (kind_, meta["replaced"]) == (REPLY, True)
            peer.put("old", OLD)
            check_nothing_lost(daemon, kept)
            peer.close()


@pytest.mark.torture
@pytest.mark.parametrize(("kind", "durability"), BOTH)
def test_many_small_files_on_a_disk_that_fills_up(folder, kind, durability, tell: Tell):
    count, refusals = scale(150, 600), 0
    with on(kind, folder, durability) as daemon:
        kept: dict[str, bytes] = {"old": OLD}
        peer = daemon.log_in()
        peer.put("old", OLD)
        for turn in range(scale(1, 10)):
            ballast = mounts.fill(daemon.data, leave=MIB // 2)
            sent = {}
            for number in range(count):
                name, content = f"f{number}", noise(1 + (number * 977) % (16 << 10))
                meta = {"op": "put", "path": name, "size": len(content)}
                sent[peer.request(meta, content)] = (name, content)
            for ident, (name, content) in sent.items():
                kind_, about, meta, _ = peer.read()
                assert about == ident
                if kind_ == REPLY:
                    kept[name] = content
                else:
                    assert (meta["code"], meta["retry"]) == ("no-space", True)
                    refusals += 1
            assert refusals > turn
            check_nothing_lost(daemon, kept)
            assert peer.get("old") == OLD
            ballast.unlink()
            peer.put("old", OLD)
        tell(refused=refusals, kept=len(kept))


FEW = {
    "tmpfs": lambda at: mounts.tmpfs(at, 32 * MIB, inodes=40),
    "ext4": lambda at: mounts.ext4(at, 64 * MIB, "-N", "64"),
}


@pytest.mark.parametrize("kind", FEW)
def test_the_inodes_are_used_up(folder, kind):
    with FEW[kind](folder / "data"), running(folder) as daemon:
        peer, kept = daemon.log_in(), {"old": b"old"}
        peer.put("old", b"old")
        for number in range(100):
            try:
                peer.put(f"f{number}", b"x")
            except RefusedError:
                break
            kept[f"f{number}"] = b"x"
        tries: list[Callable[[], object]] = [
            lambda: peer.put("old", b"new"),
            lambda: peer.begin("old", 3),
            lambda: peer.begin("old", 3, tag="t"),
            lambda: peer.begin("new", 3, tag="t", check=True),
            lambda: peer.ask({"op": "mkdir", "path": "folder"}),
            lambda: peer.put("a/b/c", b"x", parents=True),
        ]
        for attempt in tries:
            with pytest.raises(RefusedError) as refused:
                attempt()
            assert refused.value.code == "no-space"
        assert peer.get("old") == b"old"
        check_nothing_lost(daemon, kept)
        for name in ("f0", "f1", "f2"):
            peer.ask({"op": "remove", "path": name})
            del kept[name]
        peer.put("old", b"new")
        assert finish(peer, peer.begin("f0", 3, tag="t")[0], b"abc", check=False)[0] == REPLY
        check_nothing_lost(daemon, kept | {"old": b"new", "f0": b"abc"})


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_folder_is_full(folder, kind):
    """Transfers need no byte of it, nor do log-ins; what does is refused and comes back."""
    with on(kind, folder, part="state") as daemon:
        kept = {"old": OLD}
        daemon.log_in().put("old", OLD)
        assert daemon.ctl("reload").returncode == 0  # workers that have opened nothing yet
        daemon.hang_up()
        wait_for(lambda: len(daemon.status()["workers"]) == 2)
        ballast = mounts.fill(daemon.state)
        peer = daemon.log_in()
        go_on(daemon, kept)
        for number in range(50):
            peer.put(f"f{number}", noise(100_000))
            peer.ask({"op": "remove", "path": f"f{number}"})
        check_nothing_lost(daemon, kept)
        assert daemon.metrics()['forkd_workers{state="serving"}'] == 2
        added = daemon.ctl("user", "add", "bob", "--password-stdin", stdin=PASSWORD)
        assert added.returncode != 0
        assert "full" in added.stderr
        with pytest.raises(RefusedError) as refused:
            peer.ask({"op": "passwd", "old": PASSWORD, "new": "another horse 43"})
        assert refused.value.code == "no-space"
        daemon.log_in().close()
        ballast.unlink()
        daemon.add_user("bob")
        peer.ask({"op": "passwd", "old": PASSWORD, "new": "another horse 43"})
        daemon.connect().login("alice", "another horse 43")
        assert daemon.stop() == 0


def test_a_state_folder_without_room_for_the_ledger_is_told_at_once(folder):
    with mounts.tmpfs(folder / "state", 2 * MIB):
        daemon = Daemon(folder)
        try:
            with pytest.raises(AssertionError, match="no room for the quota ledger"):
                daemon.start()
        finally:
            daemon.destroy()


def test_the_runtime_folder_is_full(folder):
    with on("tmpfs", folder, part="run") as daemon:
        peer, kept = daemon.log_in(), {"old": OLD}
        peer.put("old", OLD)
        ballast = mounts.fill(daemon.run)
        go_on(daemon, kept)
        check_nothing_lost(daemon, kept)
        assert daemon.metrics()['forkd_workers{state="serving"}'] == 2
        assert daemon.ctl("reload").returncode == 0
        assert daemon.log_in().get("old") == OLD
        ballast.unlink()
        assert daemon.ctl("reload").returncode == 0
        check_nothing_lost(daemon, kept)
