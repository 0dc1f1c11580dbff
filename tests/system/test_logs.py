"""The logs an operator has: one id for a session everywhere, and no line lost by rotation."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ftppeer import Site, serving_ftp
from rig import PASSWORD, Daemon, running, wait_for
from torture import Tell, scale

from forkd.admin.controlclient import ControlClient
from forkd.client import Client, KnownHosts, QuotaError, Settings
from forkd.controlmessages import Sessions

LOGROTATE = shutil.which("logrotate") or shutil.which("logrotate", path="/usr/sbin:/sbin")
SHIPPED = Path(__file__).parents[2] / "deploy/logrotate/forkd"


def lines_of(*paths: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def sessions(daemon: Daemon) -> set[str]:
    found = ControlClient(str(daemon.run / "control.sock")).call(Sessions())["sessions"]
    return {session["id"] for session in found}


def events_of(daemon: Daemon, session: str) -> list[str]:
    return [line["event"] for line in daemon.events() if line.get("session") == session]


def session_in(text: str) -> str:
    found = re.search(r"[Ss]ession (?:is )?([0-9a-f]+-[0-9a-f]+-[0-9a-f]+)", text)
    assert found, text
    return found[1]


# one id


def test_a_failed_put_has_one_id_everywhere(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        assert daemon.ctl("user", "set", "alice", "--quota", "1 MiB").returncode == 0
        (tmp_path / "large").write_bytes(bytes(2 << 20))
        with Client(daemon.url(), PASSWORD, Settings(KnownHosts())) as client:
            with pytest.raises(QuotaError) as refused:
                client.put_file(str(tmp_path / "large"), "large")
            session = session_in(str(refused.value))
            assert session in sessions(daemon)
            assert session in daemon.ctl("sessions").stdout
        wait_for(lambda: events_of(daemon, session) == ["login", "refused"])
        (line,) = [line for line in daemon.events() if line["event"] == "refused"]
        assert (line["user"], line["code"]) == ("alice", "quota")


def test_the_native_greeting_and_forkctl_share_the_id(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        peer = daemon.log_in()
        wait_for(lambda: peer.hello["session"] in sessions(daemon))
        assert events_of(daemon, peer.hello["session"]) == ["login"]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with serving_ftp(tmp_path) as site:
        yield site


def test_a_failed_stor_has_one_id_everywhere(site: Site) -> None:
    """The machine is at fault: the user is told what to tell the administrator."""
    ftp = site.connect().log_in()
    session = session_in(ftp.greeting)
    assert session_in(ftp.ask("STAT")) == session
    assert session in sessions(site.daemon)
    for worker in site.daemon.workers():
        subprocess.run(["prlimit", f"--pid={worker['pid']}", "--fsize=100000"], check=True)
    answer = ftp.store("STOR large", bytes(300_000))
    assert answer.startswith("452"), answer
    assert session_in(answer) == session
    wait_for(lambda: "transfer" in events_of(site.daemon, session))
    (line,) = [line for line in site.daemon.events() if line["event"] == "transfer"]
    assert (line["session"], line["outcome"], line["path"]) == (session, "no-space", "/large")


def test_failed_log_ins_and_kicks_have_the_id(site: Site) -> None:
    ftp = site.connect()
    session = session_in(ftp.greeting)
    assert ftp.try_log_in(password="wrong horse").startswith("530")
    ftp.log_in()
    assert site.daemon.ctl("kick", session).returncode == 0
    assert session_in(ftp.reply()) == session
    assert events_of(site.daemon, session) == ["login-failed", "login", "session-kicked"]


def test_who_is_refused_has_an_id(tmp_path: Path) -> None:
    limits = {"sessions_per_address": "1", "sessions_per_user": "1"}
    with serving_ftp(tmp_path, limits=limits) as site:
        site.connect().log_in()
        refused = site.connect()
        assert refused.greeting.startswith("421")
        session = session_in(refused.greeting)
        wait_for(lambda: events_of(site.daemon, session) == ["refused"])
        elsewhere = site.connect(source="127.0.0.2")
        assert elsewhere.try_log_in().startswith("421")
        session = session_in(elsewhere.greeting)
        wait_for(lambda: events_of(site.daemon, session) == ["refused"])


def test_a_command_has_the_id_of_its_session(tmp_path: Path) -> None:
    command = {"exec": '["true"]', "users": '["*"]'}
    with running(tmp_path, {"commands.nothing": command}) as daemon:
        assert daemon.forkc("run", daemon.url(), "nothing").returncode == 0
        told = {"command-started", "command-ended", "command"}
        wait_for(lambda: told <= {line["event"] for line in daemon.events()})
        ids = {line.get("session") for line in daemon.events() if line["event"] in told}
        assert len(ids) == 1
        assert "login" in events_of(daemon, ids.pop())


# rotation


@dataclass
class Uploads:
    """Clients that upload one small file after the other, until they are told to stop."""

    site: Site
    done: int = 0
    failures: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self, count: int) -> None:
        for number in range(count):
            door = self._native if number % 2 else self._ftp
            thread = threading.Thread(target=door, args=(number,))
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        assert self.failures == []

    def _count(self) -> None:
        with self._lock:
            self.done += 1

    def _native(self, number: int) -> None:
        try:
            peer = self.site.daemon.log_in()
            while not self._stop.is_set():
                peer.put(f"native-{number}", b"content")
                self._count()
        except Exception as error:
            self.failures.append(repr(error))

    def _ftp(self, number: int) -> None:
        try:
            ftp = self.site.connect().log_in()
            while not self._stop.is_set():
                ftp.stor(f"ftp-{number}", b"content")
                self._count()
        except Exception as error:
            self.failures.append(repr(error))


@dataclass
class Logged:
    """A daemon that logs to files in `folder`."""

    site: Site
    folder: Path

    @property
    def daemon(self) -> Daemon:
        return self.site.daemon

    def log_files(self) -> list[Path]:
        return sorted(self.folder.glob("forkd.log*"))

    def transfers(self) -> list[dict[str, Any]]:
        return [line for line in lines_of(*self.log_files()) if line["event"] == "transfer"]

    def xferlog(self) -> list[str]:
        paths = sorted(self.folder.glob("xferlog*"))
        return [line for path in paths for line in path.read_text().splitlines()]

    def writers_of(self, path: Path) -> int:
        """Processes of the daemon that have this very file open."""
        wanted = path.stat()
        found = 0
        for pid in self.daemon.processes():
            with contextlib.suppress(FileNotFoundError):  # it has just ended
                for entry in Path(f"/proc/{pid}/fd").iterdir():
                    status = entry.stat()
                    found += (status.st_dev, status.st_ino) == (wanted.st_dev, wanted.st_ino)
        return found


@pytest.fixture
def logged(tmp_path: Path) -> Iterator[Logged]:
    folder = tmp_path / "logs"
    folder.mkdir()
    files = {"file": f'"{folder}/forkd.log"', "xferlog": f'"{folder}/xferlog"'}
    with serving_ftp(tmp_path, log=files) as site:
        yield Logged(site, folder)


def test_usr1_makes_every_process_go_on_in_the_new_files(logged: Logged) -> None:
    processes = len(logged.daemon.processes())
    for name in ("forkd.log", "xferlog"):
        (logged.folder / name).rename(logged.folder / f"{name}.1")
    assert logged.writers_of(logged.folder / "forkd.log.1") == processes
    logged.daemon.signal(signal.SIGUSR1)
    wait_for(lambda: len(logged.log_files()) == 2)
    for name in ("forkd.log", "xferlog"):
        wait_for(lambda n=name: logged.writers_of(logged.folder / n) == processes)
        wait_for(lambda n=name: logged.writers_of(logged.folder / f"{n}.1") == 0)
    assert [line["event"] for line in lines_of(logged.folder / "forkd.log")] == ["log-reopened"]


def test_a_former_generation_goes_on_in_the_new_files_too(logged: Logged) -> None:
    peer = logged.daemon.log_in()
    ident, _ = peer.begin("slow", 8)
    for name in ("forkd.log", "xferlog"):
        (logged.folder / name).rename(logged.folder / f"{name}.1")
    assert logged.daemon.ctl("reload").returncode == 0
    wait_for(lambda: logged.writers_of(logged.folder / "forkd.log.1") == 0)
    peer.data(ident, b"8 bytes.", last=True)
    peer.answer(ident)
    wait_for(lambda: "/slow" in (logged.folder / "forkd.log").read_text())


def test_a_file_that_cannot_be_made_leaves_the_former(logged: Logged) -> None:
    path = logged.folder / "forkd.log"
    path.rename(logged.folder / "forkd.log.1")
    path.mkdir()
    logged.daemon.signal(signal.SIGUSR1)
    wait_for(lambda: "log-not-reopened" in (logged.folder / "forkd.log.1").read_text())
    path.rmdir()
    logged.daemon.signal(signal.SIGUSR1)
    wait_for(lambda: path.exists() and "log-reopened" in path.read_text())


@pytest.mark.torture
def test_rotation_under_load_loses_no_line(logged: Logged, tell: Tell) -> None:
    uploads, rounds = Uploads(logged.site), scale(10, 200)
    uploads.start(4)
    try:
        for number in range(1, rounds + 1):
            before = uploads.done
            wait_for(lambda before=before: uploads.done >= before + 20 or uploads.failures)
            for name in ("forkd.log", "xferlog"):
                (logged.folder / name).rename(logged.folder / f"{name}.{number}")
            logged.daemon.signal(signal.SIGUSR1)
            wait_for(lambda: (logged.folder / "forkd.log").exists())
            wait_for(lambda: (logged.folder / "xferlog").exists())
    finally:
        uploads.stop()
    logged.daemon.stop()
    told = {"rotations": rounds, "transfers": uploads.done}
    tell(**told, lines=len(logged.transfers()), xferlog=len(logged.xferlog()))
    assert len(logged.transfers()) == len(logged.xferlog()) == uploads.done
    assert all(len(line.split()) == 18 for line in logged.xferlog())


@pytest.mark.skipif(not LOGROTATE, reason="there is no logrotate")
def test_the_shipped_file_works_with_logrotate(logged: Logged, tmp_path: Path) -> None:
    rules = SHIPPED.read_text().replace("/var/log/forkd", str(logged.folder))
    rules = rules.replace("/run/forkd/forkd.pid", str(logged.daemon.run / "forkd.pid"))
    rules = rules.replace("systemctl --quiet is-active forkd.service", "false")
    rules = rules.replace("su forkd forkd", "su root root")
    config, state = tmp_path / "rotate", tmp_path / "rotated"
    config.write_text(rules)
    config.chmod(0o644)
    (logged.daemon.run / "forkd.pid").write_text(f"{logged.daemon.pid}\n")
    assert LOGROTATE
    uploads = Uploads(logged.site)
    uploads.start(2)
    try:
        for _ in range(3):
            before = uploads.done
            wait_for(lambda before=before: uploads.done >= before + 20 or uploads.failures)
            command = [LOGROTATE, "--force", "--state", state, config]
            subprocess.run(command, check=True, capture_output=True, timeout=30)
            wait_for(lambda: (logged.folder / "forkd.log").exists())
    finally:
        uploads.stop()
    logged.daemon.stop()
    for packed in logged.folder.glob("*.gz"):
        subprocess.run(["gunzip", packed], check=True)
    assert len(logged.log_files()) == 4
    assert len(logged.transfers()) == len(logged.xferlog()) == uploads.done
