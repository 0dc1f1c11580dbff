"""System calls of a living worker fail: the right code, nobody else harmed, nothing lost.

strace makes the calls fail in the real worker; there is one, so that everybody else is in it too.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import mounts
import pytest
import strace
from mounts import MIB, call
from peer import ERROR, REPLY, Peer, RefusedError, noise
from rig import Daemon, running, wait_for
from torture import scale

from forkd.digest import digest_of

CODES = {"EIO": "io-error", "ENOSPC": "no-space", "EDQUOT": "no-space", "EROFS": "read-only"}
ERRORS = list(CODES)[: scale(2, len(CODES))]
OLD, NEW = noise(300_000), noise(5 * MIB)


@pytest.fixture(scope="module")
def single() -> Iterator[Daemon]:
    """A daemon with one worker, for all tests of this module."""
    strace.need()
    with (
        tempfile.TemporaryDirectory(prefix="forkd-") as folder,
        running(Path(folder), {"server": {"workers": "1"}}) as daemon,
    ):
        yield daemon


class Scene:
    """An account of its own: a file that is to be overwritten, and somebody who only reads."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.worker = daemon.workers()[0]["pid"]
        self.user = f"user{len(daemon.users)}"
        daemon.add_user(self.user)
        self.home = daemon.home(self.user)
        self.staging = daemon.data / ".forkd" / str(len(daemon.users))
        self.peer = self.log_in()
        self.reader = self.log_in()
        self.kept: dict[str, bytes] = {}
        self.restore()

    def log_in(self) -> Peer:
        return self.daemon.log_in(self.user)

    def restore(self) -> None:
        self.put("old", OLD)

    def put(self, name: str, content: bytes) -> None:
        self.peer.put(name, content)
        self.kept[name] = content

    @contextlib.contextmanager
    def failing(self, *faults: tuple[str, str, Path | None]) -> Iterator[None]:
        """These calls fail with these errors, on these paths, while others read undisturbed."""
        with contextlib.ExitStack() as stack:
            for name, error, path in faults:
                stack.enter_context(strace.failing(self.worker, name, error, path))
            yield
            self.others_go_on()
        assert self.daemon.workers()[0]["pid"] == self.worker

    def others_go_on(self) -> None:
        assert self.reader.get("old") in (self.kept["old"], NEW)
        assert b'"old"' in self.reader.ask({"op": "list", "path": ""})[1]
        assert self.reader.ask({"op": "stat", "path": "old"})[0]["type"] == "file"

    def next_own(self) -> Path:
        """What the worker's next small put will be staged as."""
        ident, _ = self.peer.begin("unused", 1)
        (name,) = [n for n in os.listdir(self.staging) if n.startswith("s")]
        self.peer.data(ident, last=True, meta={"abort": True})
        assert self.peer.read()[0] == ERROR
        head, number = re.fullmatch(r"(.*-)(\d+)", name).groups()
        return self.staging / f"{head}{int(number) + 1}"

    def staged(self) -> list[str]:
        return sorted(os.listdir(self.staging))

    def check(self) -> None:
        """Nothing acknowledged is lost, nothing is left over, the ledger is right."""
        assert {p.name: p.read_bytes() for p in self.home.iterdir()} == self.kept
        assert self.staged() == []
        used = self.reader.ask({"op": "quota"})[0]["used"]
        assert used == sum(map(len, self.kept.values()))
        self.check_ledger()

    def check_ledger(self) -> None:
        (account,) = [told for told in self.daemon.verify() if told["user"] == self.user]
        assert (account["drift"], account["exact"]) == (0, True)

    def arrived(self) -> int:
        """Bytes of the partials."""
        return sum(p.stat().st_size for p in self.staging.iterdir() if p.suffix != ".j")


@pytest.fixture
def scene(single: Daemon) -> Iterator[Scene]:
    yield Scene(single)
    single.hang_up()


WAYS = {
    "spliced": {},
    "resumable": {"tag": "t", "client": "c"},
    "digest": {"tag": "t", "client": "c", "check": True},
}


def end(peer: Peer, ident: int, content: bytes, *, check: bool) -> tuple[int, dict]:
    peer.data(ident, content)
    peer.data(ident, last=True, meta={"digest": digest_of(NEW)} if check else None)
    kind, about, meta, _ = peer.read()
    assert about == ident
    return kind, meta


def stream(scene: Scene, way: str, *faults: tuple[str, str, str]) -> tuple[int, dict]:
    """Overwrite "old" while calls fail from the first byte on; their paths: see `places`."""
    declared = WAYS[way]
    ident, offer = scene.peer.begin("old", len(NEW), **declared)
    assert offer["offset"] == 0
    (own,) = [name for name in scene.staged() if not name.endswith(".j")]
    places = {
        "data": scene.staging / own,
        "sidecar": scene.staging / f"{own}.j",
        "staging": scene.staging,
        "home": scene.home,
    }
    with scene.failing(*((name, error, places[place]) for name, error, place in faults)):
        return end(scene.peer, ident, NEW, check="check" in declared)


def repeat(scene: Scene, way: str, *, resumes: bool | None) -> None:
    """The very same upload once more, now that nothing fails; None: it may go on or begin anew."""
    declared = WAYS[way]
    ident, offer = scene.peer.begin("old", len(NEW), **declared)
    assert resumes in (None, bool(offer["offset"])), offer
    kind, meta = end(scene.peer, ident, NEW[offer["offset"] :], check="check" in declared)
    assert kind == REPLY, meta
    scene.kept["old"] = NEW
    scene.check()
    scene.restore()


def refused(answer: tuple[int, dict], error: str) -> None:
    kind, meta = answer
    assert (kind, meta.get("code"), meta.get("retry")) == (ERROR, CODES[error], True), meta


WRITES = {"spliced": "splice", "resumable": "splice", "digest": "pwrite64"}


@pytest.mark.torture
@pytest.mark.parametrize("way", WAYS)
def test_a_write_fails(scene: Scene, way: str):
    for error in ERRORS:
        refused(stream(scene, way, (WRITES[way], error, "data")), error)
        assert scene.reader.get("old") == OLD
        repeat(scene, way, resumes=False if CODES[error] == "no-space" else None)


@pytest.mark.torture
def test_a_write_of_a_small_put_fails(scene: Scene):
    for error in ERRORS:
        place = scene.next_own()
        with scene.failing(("write", error, place)), pytest.raises(RefusedError) as told:
            scene.peer.put("old", b"new")
        assert (told.value.code) == CODES[error]
        scene.check()
        scene.put("old", OLD)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["sync_file_range", "fdatasync"])
def test_a_flush_that_failed_is_not_healed_by_one_that_succeeds(scene: Scene, way, name):
    """The kernel may have dropped what it could not write, and tells so once."""
    for error in ("EIO", "ENOSPC"):
        refused(stream(scene, way, (name, error, "data")), error)
        assert scene.reader.get("old") == OLD
        scene.check()
        repeat(scene, way, resumes=False)


def test_a_partial_that_cannot_even_be_removed_is_not_resumed(scene: Scene):
    faults = [("fdatasync,unlinkat", "EIO", None)]
    ident, _ = scene.peer.begin("old", len(NEW), **WAYS["digest"])
    with scene.failing(*faults):
        refused(end(scene.peer, ident, NEW, check=True), "EIO")
    assert len(scene.staged()) == 2
    repeat_from = scene.peer.begin("old", len(NEW), **WAYS["digest"])
    assert repeat_from[1]["offset"] == 0
    kind, meta = end(scene.peer, repeat_from[0], NEW, check=True)
    assert kind == REPLY, meta
    scene.kept["old"] = NEW
    scene.check()


@pytest.mark.parametrize("error", CODES)
def test_flush_name_and_folder_of_small_puts_fail(scene: Scene, error: str):
    for name, place in (("fdatasync", None), ("renameat2", None), ("openat", scene.staging)):
        with scene.failing((name, error, place)), pytest.raises(RefusedError) as told:
            scene.peer.put("old", b"new")
        assert told.value.code == CODES[error], name
        scene.check()
    with scene.failing(("fsync", error, None)), pytest.raises(RefusedError) as told:
        scene.peer.put("fresh", b"new")
    assert told.value.code == CODES[error]
    assert "repeat" in str(told.value)
    assert (scene.home / "fresh").read_bytes() == b"new"  # nobody knows for how long
    scene.put("fresh", b"newer")
    scene.check()


@pytest.mark.torture
@pytest.mark.parametrize("way", WAYS)
def test_a_name_that_cannot_be_given(scene: Scene, way: str):
    for error in ERRORS:
        refused(stream(scene, way, ("renameat2", error, "staging")), error)
        assert scene.reader.get("old") == OLD
        repeat(scene, way, resumes=way != "spliced")


def test_a_partial_that_cannot_be_cut(scene: Scene):
    ident, _ = scene.peer.begin("old", len(NEW), **WAYS["digest"])
    scene.peer.data(ident, NEW[: 4 * MIB + 10])
    wait_for(lambda: scene.arrived() == 4 * MIB + 10)
    scene.peer.data(ident, last=True, meta={"abort": True})
    assert scene.peer.read()[0] == ERROR
    with scene.failing(("ftruncate", "EIO", None)), pytest.raises(RefusedError) as told:
        scene.peer.begin("old", len(NEW), **WAYS["digest"])
    assert told.value.code == "io-error"
    repeat(scene, "digest", resumes=True)


def test_a_file_that_cannot_be_read(scene: Scene):
    """What cannot be told any more in mid-frame is told by the end of the connection."""
    ident, _ = scene.peer.begin("big", len(NEW))
    assert end(scene.peer, ident, NEW, check=False)[0] == REPLY
    scene.kept["big"] = NEW
    with scene.failing(("pread64", "EIO", None)):
        scene.put("small", b"small")
        with pytest.raises(RefusedError) as told:
            scene.peer.get("small")
        assert told.value.code == "io-error"
    for name, declared in (("sendfile", {}), ("preadv,preadv2", {"check": True})):
        with scene.failing((name, "EIO", scene.home / "big")):
            peer = scene.log_in()
            with pytest.raises(EOFError):
                peer.get("big", **declared)
    ident = scene.peer.request({"op": "get", "path": "big"})
    assert scene.peer.answer(ident)[1] == NEW
    scene.check()


def test_what_could_not_be_removed_is_charged_until_its_worker_leaves(folder):
    strace.need()
    with running(folder, {"server": {"workers": "1"}}) as daemon:
        scene = Scene(daemon)
        faults = ("fdatasync,unlinkat", "EIO", None)
        with scene.failing(faults), pytest.raises(RefusedError):
            scene.peer.put("old", b"new")
        with scene.failing(("unlinkat", "EIO", None)):
            scene.put("old", b"newer")
        assert len(scene.staged()) == 2
        used = scene.peer.ask({"op": "quota"})[0]["used"]
        assert used == len(b"newer") + len(b"new") + len(OLD)
        scene.check_ledger()
        scene.peer.close()
        scene.reader.close()
        assert daemon.ctl("reload").returncode == 0
        scene.reader = scene.log_in()
        wait_for(lambda: scene.staged() == [], 60)
        scene.check()


@pytest.mark.torture
def test_a_change_of_names_fails(scene: Scene):
    scene.put("other", b"other")
    for error in ERRORS:
        for name, request in (
            ("renameat2", {"op": "remove", "path": "old"}),
            ("renameat2", {"op": "move", "path": "old", "to": "new"}),
            ("renameat2", {"op": "move", "path": "other", "to": "old", "replace": True}),
            ("mkdirat", {"op": "mkdir", "path": "folder"}),
        ):
            with scene.failing((name, error, None)), pytest.raises(RefusedError) as told:
                scene.peer.ask(request)
            assert told.value.code == CODES[error]
    scene.check()


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_disk_that_becomes_read_only(folder, kind):
    small = {"tmpfs": mounts.tmpfs, "ext4": mounts.ext4}[kind]
    with small(folder / "data", 64 * MIB) as disk, running(folder) as daemon:
        scene = Scene(daemon)
        assert call("mount", "-o", "remount,ro", disk).returncode == 0
        tries = [
            {"op": "put", "path": "old", "size": 0},
            {"op": "put", "path": "old", "size": 1 << 20, "tag": "t"},
            {"op": "put", "path": "new", "size": 1 << 20},
            {"op": "mkdir", "path": "folder"},
            {"op": "remove", "path": "old"},
            {"op": "move", "path": "old", "to": "new"},
        ]
        for request in tries:
            with pytest.raises(RefusedError) as told:
                scene.peer.ask(request)
            assert told.value.code == "read-only", request
        scene.others_go_on()
        assert scene.log_in().get("old") == OLD
        scene.check()
        assert call("mount", "-o", "remount,rw", disk).returncode == 0
        scene.put("old", NEW[:1000])
        scene.check()
