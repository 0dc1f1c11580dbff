"""kill -9 of workers amid STOR, APPE, RNTO and DELE: what was answered holds, files are whole."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest
from crowd import Crowd
from disk import charged, leases, staged
from ftppeer import FtpPeer, Site, serving_ftp
from rig import Daemon, wait_for
from torture import Tell, scale

from forkd.admin.controlclient import ControlClient
from forkd.controlmessages import Sessions

pytestmark = pytest.mark.torture

KIB = 1 << 10
SIZES = (10, 300 * KIB, 3 * KIB * KIB)
CHANGES = ("STOR", "APPE", "RNTO", "DELE")
BROKEN = (EOFError, ConnectionError)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Client(FtpPeer):
    """Takes a farewell between commands for the end of the connection; amid a transfer it fails."""

    _last = ""

    def reply(self) -> str:
        before, self._last = self._last, super().reply()
        if self._last.startswith("421"):
            assert not before.startswith("150"), self._last
            raise ConnectionResetError(self._last)
        return self._last


class Killer:
    """Kills the worker of a client within the time that such a change took before."""

    def __init__(self, daemon: Daemon, kills: int, dice: random.Random) -> None:
        self.aimed: Counter[str] = Counter()
        self._daemon, self._left, self._dice = daemon, kills, dice
        self._took = dict.fromkeys(CHANGES, 0.01)
        self._guard = threading.Lock()

    @property
    def done(self) -> bool:
        return self._left == 0

    def shoot_more(self, kills: int) -> None:
        """Once it is done."""
        with self._guard:
            self._left += kills

    def worker_of(self, client: FtpPeer) -> int:
        """Its pid."""
        control = ControlClient(str(self._daemon.run / "control.sock"))
        here = f"127.0.0.1:{client.sock.getsockname()[1]}"
        slots = {
            each["slot"] for each in control.call(Sessions())["sessions"] if each["peer"] == here
        }
        for worker in self._daemon.status()["workers"]:
            if worker["slot"] in slots:
                return int(worker["pid"])
        raise ConnectionResetError("its worker is gone")

    def amid(self, verb: str, pid: int, change: Callable[[], str]) -> str:
        """Make the change, perhaps with a kill; its answer."""
        began = time.monotonic()
        with self._guard:
            # those that were aimed at less are more likely
            shoots = self._left and self._dice.random() < 0.4 and self._is_due(verb)
            if shoots:
                self._left -= 1
                self.aimed[verb] += 1
            moment = self._dice.uniform(0, self._took[verb])
        if shoots:
            shot = threading.Timer(moment, self._kill, (pid,))
            shot.start()
            try:
                return change()
            finally:
                shot.join()
        answer = change()
        self._took[verb] = (self._took[verb] + time.monotonic() - began) / 2
        return answer

    def _is_due(self, verb: str) -> bool:
        return self.aimed[verb] == min(self.aimed[each] for each in CHANGES)

    def _kill(self, pid: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class Writer:
    """An FTP client with two names of its own; `may` has the digests of what can be under each."""

    def __init__(self, site: Site, killer: Killer, number: int, seed: float) -> None:
        self.counts: Counter[str] = Counter()
        self.names = (f"w{number}-a", f"w{number}-b")
        self.may: dict[str, set[str | None]] = {name: {None} for name in self.names}
        """None: there is no such file.  More than one after a change that was not answered."""
        self.ever: dict[str, set[str]] = {name: set() for name in self.names}
        self._held: dict[str, bytes | None] = dict.fromkeys(self.names)
        self._whole: set[str] = set()
        """To be sent whole: there is an interrupted upload of them, and a file (ftp.resume)."""
        self._dice, self._site, self._killer = random.Random(seed), site, killer

    def write_until(self, crowd: Crowd) -> None:
        while crowd.going:
            with suppress(*BROKEN), closing(Client(self._site.port)) as ftp:
                ftp.log_in()
                self.counts["connections"] += 1
                for name in self.names:
                    self._see(ftp, name)
                pid = self._killer.worker_of(ftp)
                while crowd.going:
                    self._change(ftp, pid)
            time.sleep(0.05)

    def _see(self, ftp: FtpPeer, name: str) -> None:
        """Which of those that may be is there; from then on it stays."""
        data = ftp.passive()
        ftp.send(f"RETR {name}")
        answer = ftp.reply()
        if answer.startswith("150"):
            content = b"".join(iter(lambda: data.recv(1 << 18), b""))
            assert ftp.reply().startswith("226")
            self._settle({name: content})
        else:
            assert answer.startswith("550"), answer
            self._settle({name: None})
        data.close()

    def _change(self, ftp: FtpPeer, pid: int) -> None:
        name, other = self._dice.sample(self.names, 2)
        held = self._held[name]
        whole = held is None or name in self._whole
        verb = "STOR" if whole else self._dice.choice(CHANGES)
        content, now = b"", dict[str, bytes | None]()
        match verb:
            case "STOR" | "APPE":
                content = self._dice.randbytes(self._dice.choice(SIZES))
                now = {name: (held or b"") + content if verb == "APPE" else content}
            case "RNTO":
                now = {name: None, other: held}
                assert ftp.ask(f"RNFR {name}").startswith("350")
            case "DELE":
                now = {name: None}
        for each, after in now.items():
            self._expect(each, after)

        def change() -> str:
            if verb == "RNTO":
                return ftp.ask(f"RNTO {other}")
            return (
                ftp.ask(f"DELE {name}") if verb == "DELE" else ftp.store(f"{verb} {name}", content)
            )

        try:
            answer = self._killer.amid(verb, pid, change)
        except BROKEN:
            self.counts[f"{verb.lower()}_cut"] += 1
            raise
        if verb == "APPE" and answer.startswith("550") and "send it whole" in answer:
            self._whole.add(name)
            self._settle({name: held})
            return
        self._whole.discard(name)
        assert answer.startswith("226" if verb in ("STOR", "APPE") else "250"), answer
        self._settle(now)
        self.counts[verb.lower()] += 1

    def _expect(self, name: str, content: bytes | None) -> None:
        if content is None:
            self.may[name].add(None)
        else:
            self.ever[name].add(digest(content))
            self.may[name].add(digest(content))

    def _settle(self, now: dict[str, bytes | None]) -> None:
        for name, content in now.items():
            known = None if content is None else digest(content)
            assert known in self.may[name], name
            self.may[name], self._held[name] = {known}, content


def look_until(crowd: Crowd, home: Path, writers: list[Writer], looks: Counter[str]) -> None:
    """Every name that can be seen is one of theirs, and what it shows was sent whole."""
    ever = {name: writer.ever[name] for writer in writers for name in writer.names}
    while crowd.going:
        for name in os.listdir(home):
            with suppress(FileNotFoundError):
                assert digest((home / name).read_bytes()) in ever[name], name
                looks["looks"] += 1
            time.sleep(0.02)  # hashing must not starve the clients


def keep_serving(daemon: Daemon, killer: Killer, crowd: Crowd) -> None:
    """A new generation after every few kills, as one that crashes on and on is given up."""
    seen = 0
    while not killer.done:
        crowd.check()
        if killer.aimed.total() - seen >= 6:
            seen = killer.aimed.total()
            assert daemon.ctl("reload").returncode == 0
        time.sleep(0.05)


def all_cut(writers: list[Writer]) -> bool:
    """Each of the changes was broken off by a kill."""
    return all(any(each.counts[f"{verb.lower()}_cut"] for each in writers) for verb in CHANGES)


def test_killed_workers_leave_whole_files(folder: Path, dice: random.Random, tell: Tell) -> None:
    with serving_ftp(folder, server={"workers": "4"}) as site:
        daemon, looks = site.daemon, Counter[str]()
        daemon.log_in()  # makes the account's folder
        killer = Killer(daemon, scale(12, 200), dice)
        writers = [Writer(site, killer, number, dice.random()) for number in range(4)]
        with Crowd() as crowd:
            for writer in writers:
                crowd.start(writer.write_until, crowd)
            crowd.start(look_until, crowd, daemon.home(), writers, looks)
            for _ in range(6):  # a few shots at a change may all miss it
                keep_serving(daemon, killer, crowd)
                if all_cut(writers):
                    break
                killer.shoot_more(len(CHANGES))
            wait_for(lambda: crowd.check() or len(daemon.workers()) == 4, 60)
        counts = sum((writer.counts for writer in writers), looks)
        tell(kills=killer.aimed.total(), **counts)
        assert all_cut(writers)
        site.hang_up()
        daemon.hang_up()
        assert_exact(daemon, writers)


def assert_exact(daemon: Daemon, writers: list[Writer]) -> None:
    wait_for(lambda: not leases(daemon), 60)
    # only what can be gone on with is left beside the visible tree
    wait_for(lambda: all(name.startswith("p") for name in staged(daemon)), 60)
    for writer in writers:
        for name in writer.names:
            path = daemon.home() / name
            assert (digest(path.read_bytes()) if path.exists() else None) in writer.may[name], name
    assert charged(daemon) == daemon.bytes_on_disk()
    assert [account["drift"] for account in daemon.verify()] == [0]
