"""Reloads under load: no transfer notices, nothing piles up, a bad configuration does nothing."""

from __future__ import annotations

import os
import random
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from crowd import Crowd
from rig import Daemon, wait_for
from torture import Tell, scale

pytestmark = pytest.mark.torture

KIB, MIB = 1 << 10, 1 << 20
PIECES = 12
SPANNED = 3
"""Generations that an upload outlives."""


class Clock:
    """Counts what is done to the daemon while uploads run."""

    now = 0


class SlowUpload:
    """A streamed put that sends its pieces while generations pass."""

    def __init__(self, daemon: Daemon, number: int, dice: random.Random) -> None:
        self.name = f"up{number}"
        self.content = dice.randbytes(dice.randrange(MIB, 3 * MIB))
        self.begun = False
        self._daemon = daemon
        self._check = bool(number % 2)

    def send(self, clock: Clock) -> None:
        """Piece by piece as the clock moves on, the last one when it has by SPANNED."""
        address = (self._daemon.host, self._daemon.port) if self._check else None
        peer = self._daemon.log_in(address=address)
        size, begun = len(self.content), clock.now
        ident, offer = peer.begin(self.name, size, tag=self.name, client="c")
        assert offer["offset"] == 0
        self.begun = True
        for piece in range(PIECES):
            due = begun + SPANNED * piece // (PIECES - 1)
            wait_for(lambda due=due: clock.now >= due, 120, 0.05)
            peer.data(ident, self.content[size * piece // PIECES : size * (piece + 1) // PIECES])
        peer.data(ident, last=True)
        assert peer.answer(ident)[0]["size"] == size
        peer.close()

    def assert_whole(self) -> None:
        assert (self._daemon.home() / self.name).read_bytes() == self.content


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def reload(daemon: Daemon, by_signal: bool) -> None:
    """Returns when the next generation serves."""
    before = daemon.status()["generation"]
    if by_signal:
        daemon.signal(signal.SIGHUP)
        wait_for(lambda: daemon.status()["generation"] > before, 60)
    else:
        result = daemon.ctl("reload")
        assert result.returncode == 0, result.stderr
    assert daemon.status()["generation"] > before


def test_reloads_cut_no_transfer(daemon: Daemon, dice: random.Random, tell: Tell) -> None:
    count, reloads = scale(10, 50), scale(6, 20)
    uploads = [SlowUpload(daemon, number, dice) for number in range(count)]
    at_first, open_at_first, most = len(daemon.processes()), descriptors(daemon.pid), 0
    clock, born = Clock(), reloads - SPANNED  # those begun later would not see enough
    with Crowd() as crowd:
        for clock.now in range(reloads):
            fresh = [u for i, u in enumerate(uploads) if i * born // count == clock.now]
            for upload in fresh:
                crowd.start(upload.send, clock)
            wait_for(lambda fresh=fresh: all(upload.begun for upload in fresh))
            reload(daemon, by_signal=dice.random() < 0.5)
            most = max(most, len(daemon.processes()))
            crowd.check()
        clock.now = reloads
    for upload in uploads:
        upload.assert_whole()
    tell(uploads=count, reloads=reloads, most_processes=most)
    generations = SPANNED + 2
    assert most <= 1 + generations * 2 + 4  # the master, workers, and two sets of two helpers
    wait_for(lambda: len(daemon.processes()) == at_first, 60)
    wait_for(lambda: descriptors(daemon.pid) == open_at_first)
    assert [account["drift"] for account in daemon.verify()] == [0]


@contextmanager
def taken_address() -> Iterator[str]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield f"127.0.0.1:{other.getsockname()[1]}"


def breakages(daemon: Daemon, taken: str) -> dict[str, tuple[str, str]]:
    """What is wrong with it -> (a broken configuration, what the refusal must tell)."""
    good = daemon.config.read_text()
    native = daemon.setting("listen", "native")
    metrics = daemon.setting("metrics", "listen")
    empty = str(daemon.folder / "empty.pem")
    Path(empty).touch()
    return {
        "syntax": (good + "[limits\n", f"{daemon.config}:"),
        "unknown key": (good + "[limits]\nmax_sesions = 5\n", "limits.max_sesions: unknown key"),
        "unknown section": (good + "[limit]\n", "unknown section [limit]"),
        "out of range": (good.replace("workers = 2", "workers = 99"), "server.workers"),
        "address in use": (
            good.replace(native, f'{native[:-1]}, "{taken}"]'),
            f"cannot listen on {taken}",
        ),
        "metrics address in use": (
            good.replace(metrics, f'"{taken}"'),
            f"cannot listen on {taken}",
        ),
        "certificate": (
            good + f'[tls]\nmode = "files"\ncert = "{empty}"\nkey = "{empty}"\n',
            empty,
        ),
    }


def test_no_broken_configuration_disturbs_a_transfer(
    daemon: Daemon, dice: random.Random, tell: Tell
) -> None:
    uploads = [SlowUpload(daemon, number, dice) for number in range(scale(4, 12))]
    before = daemon.status()
    good = daemon.config.read_text()
    clock, tried = Clock(), 0
    with Crowd() as crowd, taken_address() as taken:
        for upload in uploads:
            crowd.start(upload.send, clock)
        wait_for(lambda: daemon.status()["totals"]["transfers_now"] == len(uploads))
        for _ in range(scale(1, 3)):
            for broken, told in breakages(daemon, taken).values():
                daemon.config.write_text(broken)
                result = daemon.ctl("reload")
                daemon.config.write_text(good)
                assert result.returncode == 1
                assert told in result.stderr
                assert who_serves(daemon.status()) == who_serves(before)
                clock.now, tried = min(clock.now + 1, SPANNED - 1), tried + 1
                crowd.check()
        clock.now = SPANNED
    for upload in uploads:
        upload.assert_whole()
    tell(broken_reloads=tried, uploads=len(uploads))
    assert daemon.metrics()['forkd_reloads_total{outcome="failed"}'] == tried
    reload(daemon, by_signal=False)


def who_serves(status: dict[str, object]) -> object:
    workers = status["workers"]
    assert isinstance(workers, list)
    return status["generation"], [(w["pid"], w["state"], w["restarts"]) for w in workers]
