"""kill -9 of the master: its workers finish and leave, and another master serves at once."""

from __future__ import annotations

import random
import signal
from contextlib import closing, suppress
from pathlib import Path

import pytest
from disk import charged, held_at_once, leases
from peer import Peer, RefusedError
from rig import Daemon, wait_for
from torture import Tell, scale

pytestmark = pytest.mark.torture

MIB = 1 << 20
SIZE = 3 * MIB
UPLOADS = 4


class Upload:
    """A streamed put whose second half is sent after its master's end."""

    def __init__(self, daemon: Daemon, name: str, content: bytes) -> None:
        self.name = name
        self._content = content
        self._home = daemon.home()
        self._peer = daemon.log_in(address=(daemon.host, daemon.port))
        self._ident, _ = self._peer.begin(name, len(content), tag=name)
        self._peer.data(self._ident, content[: len(content) // 2])

    def finish(self) -> None:
        self._peer.data(self._ident, self._content[len(self._content) // 2 :], last=True)
        assert self._peer.answer(self._ident)[0]["size"] == len(self._content)
        assert (self._home / self.name).read_bytes() == self._content
        self._peer.close()


def worker_pids(daemon: Daemon) -> set[int]:
    return {worker["pid"] for worker in daemon.workers()}


def refused_quota(peer: Peer, size: int) -> bool:
    try:
        peer.begin("one too many", size)
    except RefusedError as refused:
        return refused.code == "quota"
    return False


def test_orphans_and_their_successors_share_one_quota(
    daemon: Daemon, dice: random.Random, tell: Tell
) -> None:
    """Every upload outlives two masters; the quota holds exactly all of them."""
    rounds = scale(2, 12)
    limit = (rounds + 2) * UPLOADS * SIZE
    assert daemon.ctl("user", "set", "alice", "--quota", str(limit)).returncode == 0
    orphans: set[int] = set()
    running: list[list[Upload]] = []
    for number in range(rounds):
        begun = [Upload(daemon, f"{number}-{i}", dice.randbytes(SIZE)) for i in range(UPLOADS)]
        running.append(begun)
        orphans |= worker_pids(daemon)
        daemon.signal(signal.SIGKILL)
        assert daemon.process
        daemon.process.wait(10)
        daemon.start()
        assert not worker_pids(daemon) & orphans
        with closing(daemon.log_in(address=(daemon.host, daemon.port))) as newcomer:
            newcomer.put(f"{number}-new", b"at once")
            used = newcomer.ask({"op": "quota"})[0]["used"]
            assert used == (number + 1) * (UPLOADS * SIZE + len(b"at once"))
            assert refused_quota(newcomer, limit - used + 1)
        if number:
            for upload in running.pop(0):
                upload.finish()
    for upload in running.pop():
        upload.finish()
    wait_for(lambda: not any(alive(pid) for pid in orphans), 60)
    wait_for(lambda: not daemon.status()["foreign_slots"])
    wait_for(lambda: not leases(daemon))
    tell(masters_killed=rounds, orphans=len(orphans), uploads=rounds * UPLOADS)
    assert [account["drift"] for account in daemon.verify()] == [0]
    fill_up(daemon, limit)


def fill_up(daemon: Daemon, limit: int) -> None:
    used = charged(daemon)
    peer = daemon.log_in()
    ident, _ = peer.begin("the rest", limit - used)
    peer.data(ident, bytes(limit - used), last=True)
    peer.answer(ident)
    assert refused_quota(peer, 1)
    assert held_at_once(daemon.home(), daemon.data / ".forkd") == limit


def alive(pid: int) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
