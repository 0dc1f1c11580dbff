"""What holds a worker back: openat2 keeps a session in its account's folder, whatever races there;
Landlock keeps the whole worker in the daemon's folders, whatever its code does; and it has no
rights to gain.
"""

from __future__ import annotations

import os
import pwd
import random
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from corerig import children, fork
from measure import worker_pids
from peer import Peer, RefusedError
from rig import PASSWORD, Daemon, running
from torture import Tell, scale

import forkd
from forkd import syscalls

SECONDS = scale(3, 60)
SECRET = b"the secret of another"
MARK = "only-outside"

landlocked = pytest.mark.skipif(
    syscalls.landlock_abi() < 2, reason="this kernel has no Landlock, or one that is too old"
)


def reachable_by_all(path: str) -> bool:
    return all(
        folder.stat().st_mode & stat.S_IXOTH
        for form in (Path(path), Path(path).resolve())
        for folder in form.parents
    )


# the worker


def kernels_word(pid: int) -> Iterator[dict[str, str]]:
    """What the kernel says of each thread of a process."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        lines = (task / "status").read_text().splitlines()
        yield dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def test_no_thread_of_a_worker_can_gain_rights(daemon: Daemon) -> None:
    daemon.log_in().put("f", b"")  # threads of the pool are there now
    for pid in worker_pids(daemon):
        assert {thread["NoNewPrivs"] for thread in kernels_word(pid)} == {"1"}


@landlocked
def test_a_worker_that_follows_a_link_outside_is_stopped_by_the_kernel(daemon: Daemon) -> None:
    """A log-in opens the account's home by name, and follows links: nothing but Landlock is there
    to stop the worker when the home has become a link to /etc."""
    daemon.add_user("mallory")
    home = daemon.home("mallory")
    for target in (Path("/etc"), daemon.folder, Path("/proc/self")):
        home.unlink(missing_ok=True)
        home.symlink_to(target)
        assert os.listdir(home)  # this process, of the same user, may look
        for _ in range(4):  # whichever worker takes it
            peer = daemon.connect()
            with pytest.raises(RefusedError) as refused:
                peer.login("mallory", PASSWORD)
            assert refused.value.code == "denied"
    home.unlink()
    home.symlink_to(daemon.data / "elsewhere")  # inside the storage folder it goes as ever
    (daemon.data / "elsewhere").mkdir()
    daemon.log_in("mallory").put("f", b"x")
    assert (daemon.data / "elsewhere" / "f").read_bytes() == b"x"


@landlocked
@pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(reachable_by_all, (forkd.__file__, os.__file__))),
    reason="only root can become another user, who must reach the code",
)
def test_started_by_root_nothing_is_left_of_root(folder: Path) -> None:
    os.chmod(folder, 0o755)
    nobody = pwd.getpwnam("nobody")
    with running(folder, {"server": {"user": '"nobody"'}}) as daemon:
        peer = daemon.log_in()
        peer.put("f", b"mine")
        assert (daemon.home() / "f").stat().st_uid == nobody.pw_uid
        for pid in worker_pids(daemon):
            for thread in kernels_word(pid):
                assert set(thread["Uid"].split()) == {str(nobody.pw_uid)}
                assert set(thread["Gid"].split()) == {str(nobody.pw_gid)}
                assert thread["NoNewPrivs"] == "1"
                for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
                    assert int(thread[kind], 16) == 0


# the session


class Watchful(Peer):
    """Sees to it that no byte of the others' ever arrives."""

    def _exactly(self, count: int) -> bytes:
        data = super()._exactly(count)
        assert SECRET not in data
        assert MARK.encode() not in data
        return data


def furnish(folder: Path) -> None:
    """What nobody may see, list, change or remove; its files are where alice has some too."""
    (folder / "deep").mkdir(parents=True)
    (folder / "tree" / "a").mkdir(parents=True)
    for name in ("f", "victim", "deep/f", "tree/a/f", MARK, f"tree/{MARK}"):
        (folder / name).write_bytes(SECRET)


def snapshot(folder: Path) -> dict[str, tuple[int, ...]]:
    """Every file and folder below, with what a change of it would change."""
    found = {}
    for path in (folder, *folder.rglob("*")):
        status = path.stat()
        found[str(path)] = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_nlink)
    return found


def swap_for_ever(home: Path, targets: list[Path | str]) -> None:
    """Exchange `swap`, a folder, and `leaf`, a file, with links that lead to each of the targets.

    A client that puts `leaf` replaces the link, so there is a new one again and again.
    """
    fd = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    for number, target in enumerate(targets):
        os.symlink(target, f"swap-{number}", dir_fd=fd)
    while True:
        for number, target in enumerate(targets):
            os.symlink(f"{target}/f", "fresh", dir_fd=fd)
            os.rename("fresh", "leaf-link", src_dir_fd=fd, dst_dir_fd=fd)
            for _ in range(50):  # an even number: the folder is back then
                exchange(fd, b"swap", b"swap-%d" % number)
                exchange(fd, b"leaf", b"leaf-link")


def exchange(fd: int, one: bytes, other: bytes) -> None:
    syscalls.rename(fd, one, fd, other, syscalls.RENAME_EXCHANGE)


def deeds(rng: random.Random) -> list[tuple[dict, bytes]]:
    """One round of what a client does through the contested paths."""
    number = rng.randrange(4)
    requests: list[tuple[dict, bytes]] = [
        ({"op": "get", "path": rng.choice(["swap/f", "swap/deep/f", "leaf"])}, b""),
        ({"op": "get", "path": "leaf", "offset": 1, "check": True}, b""),
        ({"op": "list", "path": rng.choice(["swap", "swap/deep", "swap/tree"])}, b""),
        ({"op": "stat", "path": rng.choice(["swap/f", "leaf", "swap/tree"])}, b""),
        ({"op": "put", "path": f"swap/new-{number}", "size": 3}, b"new"),
        ({"op": "put", "path": "swap/f", "size": 6}, b"inside"),
        ({"op": "put", "path": "leaf", "size": 4}, b"mine"),
        ({"op": "put", "path": "swap/deep/f", "size": 6, "parents": True}, b"inside"),
        ({"op": "put", "path": "swap/victim", "size": 1}, b"v"),
        ({"op": "mkdir", "path": f"swap/folder-{number}"}, b""),
        ({"op": "mkdir", "path": "swap/tree/a/b", "parents": True}, b""),
        ({"op": "move", "path": f"swap/new-{number}", "to": f"taken-{number}"}, b""),
        ({"op": "move", "path": f"taken-{number}", "to": "swap/given", "replace": True}, b""),
        ({"op": "move", "path": "swap/deep", "to": f"swap/folder-{number}/deep"}, b""),
        ({"op": "move", "path": "swap/victim", "to": "stolen", "replace": True}, b""),
        ({"op": "remove", "path": "swap/victim"}, b""),
        ({"op": "remove", "path": f"swap/folder-{number}", "recursive": True}, b""),
        ({"op": "remove", "path": "swap/tree", "recursive": True}, b""),
    ]
    return rng.sample(requests, len(requests))


def work_on(peer: Peer, ends: float, count: Callable[[str], None]) -> None:
    rng = random.Random()
    while time.monotonic() < ends:
        idents = [peer.request(meta, payload) for meta, payload in deeds(rng)]
        for ident in idents:
            try:
                peer.answer(ident)
                count("done")
            except RefusedError as refused:
                count(refused.code)
        try:
            ident, _ = peer.begin("swap/stream", 70_000, parents=True)
        except RefusedError as refused:
            count(refused.code)
            continue
        peer.data(ident, bytes(70_000), last=True)
        try:
            peer.answer(ident)
        except RefusedError as refused:
            count(refused.code)


@pytest.mark.torture
def test_links_swapped_in_a_race_let_nobody_out(daemon: Daemon, tell: Tell) -> None:
    """Bob's home lies in the storage folder: there Landlock helps nobody, openat2 must."""
    daemon.add_user("bob")
    home, outside = daemon.home(), daemon.folder / "outside"
    theirs = [outside, daemon.home("bob")]
    for folder in theirs:
        furnish(folder)
    (home / "swap" / "deep").mkdir(parents=True)
    (home / "swap" / "f").write_bytes(b"inside")
    (home / "leaf").write_bytes(b"mine")
    before = [snapshot(folder) for folder in theirs]
    targets: list[Path | str] = [*theirs, "../bob", "../../outside", "../../../../../../etc"]
    counts: dict[str, int] = {}
    failed: list[BaseException] = []

    def client() -> None:
        try:
            peer = Watchful(daemon.unix_path)
            peer.login("alice", PASSWORD)
            work_on(peer, ends, lambda what: counts.update({what: counts.get(what, 0) + 1}))
            peer.close()
        except BaseException as error:
            failed.append(error)

    with children() as swappers:
        swappers.append(fork(lambda: swap_for_ever(home, targets)))
        ends = time.monotonic() + SECONDS
        clients = [threading.Thread(target=client) for _ in range(3)]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join()
        assert os.waitpid(swappers[0], os.WNOHANG) == (0, 0), "the swapper is not there any more"
    assert not failed, failed
    assert [snapshot(folder) for folder in theirs] == before
    assert counts["done"] > 20
    assert counts["outside"] > 20
    assert not {"internal", "denied", "io-error"} & counts.keys()
    assert not [event for event in daemon.events() if "traceback" in event]
    tell(answers=sum(counts.values()), done=counts["done"], outside=counts["outside"])
