"""Reloads and upgrades at random under a crowd that never pauses: no transfer notices."""

from __future__ import annotations

import hashlib
import os
import random
import re
import signal
import socket
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from crowd import Crowd
from ftppeer import FtpPeer, read_all
from installed import InstalledDaemon
from peer import INTERIM, NOTICE, Peer, RefusedError
from rig import QUICK, Daemon, free_port, wait_for
from torture import Tell, scale

pytestmark = [pytest.mark.torture, pytest.mark.timeout(900)]

KIB, MIB = 1 << 10, 1 << 20
PIECES = 4
MOST_SPANNED = 3
"""Changes that a transfer outlives at most."""
DOWN = random.Random(1).randbytes(12 * MIB)
"""More than the sockets' buffers hold: who does not read keeps the server in it."""
RISING = ("_total", "_bucket", "_sum", "_count")


@dataclass
class Clock:
    """`now` counts the changes; `over`: no new transfers."""

    now: int = 0
    over: bool = False

    def wait(self, changes: int) -> None:
        due = self.now + changes
        while self.now < due and not self.over:
            time.sleep(0.02)


class Client:
    """One transfer after another, each over some changes; `done` counts them."""

    def __init__(self, daemon: Daemon, ftp_port: int, number: int, seed: int) -> None:
        self.done = 0
        self._daemon, self._ftp_port, self._number = daemon, ftp_port, number
        users = sorted(daemon.users)
        self._user = users[number % len(users)]
        self._dice = random.Random(seed)
        self._transfers = (self._put, self._stor, self._get, self._retr)

    def run(self, clock: Clock) -> None:
        while not clock.over:
            self._transfers[(self._number + self.done) % len(self._transfers)](clock)
            self.done += 1

    def _content(self) -> tuple[list[bytes], str]:
        pieces = [self._dice.randbytes(self._dice.randrange(1, 48 * KIB)) for _ in range(PIECES)]
        return pieces, f"f{self._number}"

    def _pause(self, clock: Clock) -> None:
        clock.wait(self._dice.randrange(MOST_SPANNED + 1))

    def _check(self, name: str, pieces: list[bytes]) -> None:
        assert (self._daemon.home(self._user) / name).read_bytes() == b"".join(pieces)

    def _begin(self, request: dict[str, Any]) -> tuple[Peer, int, dict[str, Any]]:
        """Log in and begin a transfer, anew where the server leaves before it has begun."""
        while True:
            peer = Peer((self._daemon.host, self._daemon.port), 300)
            try:
                peer.login(self._user, self._daemon.users[self._user])
                ident = peer.request(request)
                kind, _, meta, _ = peer.read()
                if kind == NOTICE:
                    kind, _, meta, _ = peer.read()
                if kind == INTERIM:
                    return peer, ident, meta
                raise RefusedError(meta)
            except RefusedError as refused:
                peer.close()
                if refused.code not in ("busy", "going-away"):
                    raise
                time.sleep(0.2)

    def _put(self, clock: Clock) -> None:
        pieces, name = self._content()
        size = sum(map(len, pieces))
        request = {"op": "put", "path": name, "size": size, "tag": str(self.done), "client": name}
        peer, ident, _ = self._begin(request)
        with closing(peer):
            peer.data(ident, pieces[0])
            self._pause(clock)
            for piece in pieces[1:]:
                peer.data(ident, piece)
            peer.data(ident, last=True)
            assert peer.answer(ident)[0]["size"] == size
        self._check(name, pieces)

    def _get(self, clock: Clock) -> None:
        peer, ident, meta = self._begin({"op": "get", "path": "down"})
        with closing(peer):
            assert meta["length"] == len(DOWN)
            self._pause(clock)
            assert peer.answer(ident)[1] == DOWN

    def _open(self, command: str) -> tuple[FtpPeer, socket.socket]:
        """Log in and begin a transfer, anew where the server leaves before it has begun."""
        while True:
            peer = FtpPeer(self._ftp_port)
            peer.sock.settimeout(300)
            answer = peer.try_log_in(self._user)
            for word in ("TYPE I", "EPSV"):
                answer = peer.ask(word) if answer[0] == "2" else answer
            if found := re.search(r"\(\|\|\|(\d+)\|\)", answer):
                data = socket.create_connection((peer.host, int(found[1])), 300)
                answer = peer.ask(command)
                if answer.startswith("150"):
                    return peer, data
                data.close()
            peer.close()
            assert answer.startswith(("450", "421")), answer
            time.sleep(0.2)

    def _stor(self, clock: Clock) -> None:
        pieces, name = self._content()
        peer, data = self._open(f"STOR {name}")
        with closing(peer), closing(data):
            data.sendall(pieces[0])
            self._pause(clock)
            data.sendall(b"".join(pieces[1:]))
            data.close()
            answer = peer.reply()
            assert answer.startswith("226"), answer
        self._check(name, pieces)

    def _retr(self, clock: Clock) -> None:
        peer, data = self._open("RETR down")
        with closing(peer), closing(data):
            self._pause(clock)
            content = read_all(data)
            assert hashlib.sha256(content).digest() == hashlib.sha256(DOWN).digest()
            answer = peer.reply()
            assert answer.startswith("226"), answer


class Watcher:
    """Scrapes all the time; no counter may go backwards, and no scrape may fail."""

    def __init__(self, daemon: Daemon) -> None:
        self.scrapes = 0
        self._daemon = daemon

    def run(self, clock: Clock) -> None:
        before: dict[str, float] = {}
        while not clock.over:
            samples = self._daemon.metrics()
            now = {k: v for k, v in samples.items() if k.partition("{")[0].endswith(RISING)}
            fallen = {k: (v, now.get(k)) for k, v in before.items() if now.get(k, -1.0) < v}
            assert not fallen
            before, self.scrapes = now, self.scrapes + 1
            time.sleep(0.1)


def change(daemon: InstalledDaemon, what: str, dice: random.Random) -> None:
    """Returns when the next generation serves."""
    generation = daemon.status()["generation"]
    if dice.random() < 0.5:
        daemon.signal(signal.SIGUSR2 if what == "upgrade" else signal.SIGHUP)
        wait_for(lambda: serves(daemon, generation + 1), 120, 0.05)
    else:
        result = daemon.ctl(what)
        assert result.returncode == 0, result.stderr
    assert daemon.status()["generation"] == generation + 1


def serves(daemon: Daemon, generation: int) -> bool:
    status = daemon.status()
    return status["generation"] == generation and status["state"] == "serving"


def storm(dice: random.Random, reloads: int, upgrades: int) -> list[str]:
    changes = ["reload"] * reloads + ["upgrade"] * upgrades
    dice.shuffle(changes)
    return changes


def test_reloads_and_upgrades_at_random_cut_no_transfer(
    folder: Path, dice: random.Random, tell: Tell
) -> None:
    ftp_port = free_port()
    settings = {
        "listen": {"ftp": f'["127.0.0.1:{ftp_port}"]'},
        "ftp": {"tls": '"allow"'},
        "server": {"drainers": "16", "graceful_timeout": '"120s"'},
    }
    daemon = InstalledDaemon(folder, settings)
    try:
        daemon.start(*QUICK)
        (folder / "down").write_bytes(DOWN)
        for number in range(scale(4, 20)):
            home = daemon.home(f"user{number}")
            home.mkdir(parents=True)
            os.link(folder / "down", home / "down")
            daemon.add_user(home.name)
        weather(daemon, ftp_port, dice, tell)
    finally:
        daemon.destroy()


def weather(daemon: InstalledDaemon, ftp_port: int, dice: random.Random, tell: Tell) -> None:
    changes = storm(dice, scale(6, 50), scale(2, 5))
    clients = [
        Client(daemon, ftp_port, number, dice.randrange(1 << 32))
        for number in range(scale(16, 200))
    ]
    wait_for(lambda: daemon.status()["totals"]["sessions_now"] == 0)
    at_first, most, pid = len(daemon.processes()), 0, daemon.status()["pid"]
    watcher, clock = Watcher(daemon), Clock()
    with Crowd() as crowd:
        crowd.start(watcher.run, clock)
        for client in clients:
            crowd.start(client.run, clock)
        wait_for(lambda: daemon.status()["totals"]["transfers_now"] >= len(clients) // 2, 120)
        for number, what in enumerate(changes, 1):
            if what == "upgrade":
                daemon.installed.set_version(f"0.1.{number}")
            change(daemon, what, dice)
            clock.now = number
            most = max(most, len(daemon.processes()))
            crowd.check()
        clock.over = True
    status = daemon.status()
    assert status["pid"] == pid
    assert status["generation"] == 1 + len(changes)
    assert most <= 1 + (MOST_SPANNED + 3) * 2 + 2 * 3  # master, workers, helpers and a trial
    wait_for(lambda: len(daemon.processes()) == at_first, 120)
    assert {account["drift"] for account in daemon.verify()} == {0}
    tell(
        clients=len(clients),
        transfers=sum(client.done for client in clients),
        reloads=changes.count("reload"),
        upgrades=changes.count("upgrade"),
        most_processes=most,
        scrapes=watcher.scrapes,
    )
