"""The real daemon for system tests: real processes, real sockets, real files."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from peer import Peer

from forkd.admin.controlclient import ControlClient
from forkd.admin.exits import CtlError
from forkd.controlmessages import Status

BIN = Path(sys.executable).parent
PASSWORD = "correct horse 42"


def free_port() -> int:
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Different ones: the kernel may well give the same one twice in a row."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def wait_for(what: Callable[[], Any], seconds: float = 20.0, every: float = 0.02) -> Any:
    """The first true answer of `what`; fails the test when there is none in time."""
    ends = time.monotonic() + seconds
    while True:
        answer = what()
        if answer:
            return answer
        assert time.monotonic() < ends, f"waited {seconds} s in vain for {what}"
        time.sleep(every)


class Daemon:
    """A forkd below `folder`; `settings` maps section -> key -> TOML value as text."""

    def __init__(self, folder: Path, settings: dict[str, dict[str, str]] | None = None) -> None:
        self.folder = folder
        self.host = "127.0.0.1"
        self.port, self.metrics_port = free_ports(2)
        self.state = folder / "state"
        self.run = folder / "run"
        self.data = folder / "data"
        self.unix_path = str(self.run / "forkd.sock")
        self.config = folder / "forkd.toml"
        self.log = folder / "log"
        self.users: dict[str, str] = {}
        self.process: subprocess.Popen[bytes] | None = None
        self.held: list[socket.socket] = []
        """Connections that are left open until all are closed."""
        self.peers: list[Peer] = []
        self._settings: dict[str, dict[str, str]] = {
            "server": {
                "workers": "2",
                "state_dir": f'"{self.state}"',
                "runtime_dir": f'"{self.run}"',
                "pidfile": f'"{self.run}/forkd.pid"',
            },
            "listen": {
                "native": f'["127.0.0.1:{self.port}", "unix:{self.unix_path}"]',
            },
            "storage": {"path": f'"{self.data}"'},
            "metrics": {"listen": f'"127.0.0.1:{self.metrics_port}"'},
        }
        for section, keys in (settings or {}).items():
            self._settings.setdefault(section, {}).update(keys)
        self.write_config()

    # configuration and life

    def configure(self, section: str, **keys: str) -> None:
        self._settings.setdefault(section, {}).update(keys)
        self.write_config()

    def unset(self, section: str) -> None:
        del self._settings[section]
        self.write_config()

    def setting(self, section: str, key: str) -> str:
        """As TOML."""
        return self._settings[section][key]

    def write_config(self) -> None:
        lines = []
        for section, keys in self._settings.items():
            lines.append(f"[{section}]")
            lines += [f"{key} = {value}" for key, value in keys.items()]
        self.config.write_text("\n".join(lines) + "\n")

    def start(self, *wrapper: str | Path, **more: Any) -> Daemon:
        """Run `forkd serve` and wait until it serves; `wrapper` is a command that executes it."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*wrapper, BIN / "forkd", "serve", "-c", self.config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **more,
            )
        wait_for(self._serves)
        return self

    def _serves(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"forkd did not start:\n{self.log.read_text()}"
        try:
            status = self.status()
        except CtlError:
            return False
        # the control socket may still be that of a master that was killed
        return status["pid"] == self.process.pid and status["state"] == "serving"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def stop(self) -> int:
        """TERM, and its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        return self.process.wait(40)

    def destroy(self) -> None:
        """End whatever of it is left, of earlier starts and detached ones too."""
        self.hang_up()
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
        wait_for(lambda: not self.processes())

    def processes(self) -> list[int]:
        """Every living process of this daemon: they map its files or were told its folder."""
        mark = os.fsencode(self.folder)
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit() and int(entry) != os.getpid():
                with contextlib.suppress(OSError):
                    seen = Path(f"/proc/{entry}/maps").read_bytes()
                    seen += Path(f"/proc/{entry}/cmdline").read_bytes()
                    if mark in seen:
                        found.append(int(entry))
        return found

    # commands

    def ctl(self, *args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BIN / "forkctl", "-c", self.config, *args],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def status(self) -> dict[str, Any]:
        """What `forkctl status --json` shows, without the cost of a process."""
        return ControlClient(str(self.run / "control.sock")).call(Status())

    def workers(self, state: str = "serving") -> list[dict[str, Any]]:
        return [w for w in self.status()["workers"] if w["state"] == state]

    def add_user(self, name: str, *options: str, password: str = PASSWORD) -> None:
        result = self.ctl("user", "add", name, "--password-stdin", *options, stdin=password)
        assert result.returncode == 0, result.stderr
        self.users[name] = password

    def connect(
        self, address: str | tuple[str, int] | None = None, tls: ssl.SSLContext | None = None
    ) -> Peer:
        """A connection, by default over the unix socket; closed with the daemon at the latest."""
        return self.adopt(Peer(self.unix_path if address is None else address, tls=tls))

    def adopt(self, peer: Peer) -> Peer:
        """It is closed with the daemon at the latest."""
        self.peers.append(peer)
        return peer

    def log_in(
        self,
        user: str = "alice",
        address: str | tuple[str, int] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> Peer:
        """A connection that is logged in."""
        peer = self.connect(address, tls)
        peer.login(user, self.users.get(user, PASSWORD))
        return peer

    def hang_up(self) -> None:
        """Close all connections."""
        for connection in (*self.peers, *self.held):
            connection.close()
        self.peers.clear()
        self.held.clear()

    def events(self) -> list[dict[str, Any]]:
        """The lines of the log, which must all be JSON."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def env(self, user: str = "alice") -> dict[str, str]:
        return {
            **os.environ,
            "FORKC_PASSWORD": self.users.get(user, PASSWORD),
            "XDG_CONFIG_HOME": str(self.folder / "client"),
        }

    def url(self, path: str = "", user: str = "alice") -> str:
        return f"forkd://{user}@{self.host}:{self.port}/{path}"

    def forkc(
        self, *args: str | Path, user: str = "alice", timeout: float = 120, **more: Any
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BIN / "forkc", *map(str, args)],
            capture_output=True,
            text=True,
            env=self.env(user),
            timeout=timeout,
            **more,
        )

    def forkc_start(self, *args: str | Path, user: str = "alice") -> subprocess.Popen[str]:
        return subprocess.Popen(
            [BIN / "forkc", *map(str, args)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.env(user),
        )

    # what is on the disk

    def home(self, user: str = "alice") -> Path:
        return self.data / user

    def bytes_on_disk(self, user: str = "alice") -> int:
        """Files and partials; `user` must be the only account."""
        total = 0
        for top in (self.home(user), self.data / ".forkd"):
            for folder, _, names in os.walk(top):
                for name in names:
                    if not name.endswith(".j"):
                        with contextlib.suppress(FileNotFoundError):
                            total += os.lstat(os.path.join(folder, name)).st_size
        return total

    def change_behind_its_back(self, statement: str) -> None:
        """Change the accounts' database; nobody tells the daemon."""
        with contextlib.closing(sqlite3.connect(self.state / "accounts.db")) as db, db:
            db.execute(statement)

    def verify(self) -> list[dict[str, Any]]:
        """Ledger against disk, by the daemon itself."""
        result = self.ctl("--json", "quota", "verify")
        accounts: list[dict[str, Any]] = json.loads(result.stdout)
        return accounts

    def metrics(self) -> dict[str, float]:
        """Every sample by its name with labels."""
        with urllib.request.urlopen(
            f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10
        ) as answer:
            text = answer.read().decode()
        samples = {}
        for line in text.splitlines():
            if not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                samples[name] = float(value)
        return samples


QUICK = (sys.executable, Path(__file__).parent / "quick.py")
"""Wrapper of a daemon whose log-ins cost nothing."""


@contextlib.contextmanager
def running(
    folder: Path, settings: dict[str, dict[str, str]] | None = None, *wrapper: str | Path
) -> Iterator[Daemon]:
    """A started daemon with the user alice; everything of it ends with the block."""
    daemon = Daemon(folder, settings)
    try:
        daemon.start(*wrapper)
        daemon.add_user("alice")
        yield daemon
    finally:
        daemon.destroy()
