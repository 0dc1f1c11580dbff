"""The unit files as systemd reads them, and what a service manager hears of the real daemon."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rig import BIN, Daemon, free_port, wait_for

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
EXPOSURE_MOST = 1.5
"""As `systemd-analyze security` counts: 10 is without any protection."""


def need(program: str) -> None:
    if not shutil.which(program):
        pytest.skip(f"there is no {program}")


@pytest.fixture
def units(tmp_path: Path) -> list[str]:
    """The unit files with programs that are there, as `make install-systemd` writes them."""
    copies = []
    for path in (*UNITS.glob("*.service"), *UNITS.glob("*.socket")):
        copy = tmp_path / path.name
        copy.write_text(path.read_text().replace("/usr/bin/", f"{BIN}/"))
        copies.append(str(copy))
    drop_in = tmp_path / "forkd.service.d"
    drop_in.mkdir()
    shutil.copy(UNITS / "low-ports.conf", drop_in)
    return copies


def test_systemd_finds_nothing_wrong_with_the_units(units: list[str]) -> None:
    need("systemd-analyze")
    assert len(units) == 3
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_the_service_exposes_little() -> None:
    need("systemd-analyze")
    unit = str(UNITS / "forkd.service")
    threshold = f"--threshold={EXPOSURE_MOST * 10:.0f}"
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", threshold, unit],
        capture_output=True,
        text=True,
    )
    assert judged.returncode == 0, judged.stdout + judged.stderr


def test_sockets_of_socket_activate_are_served(folder: Path) -> None:
    need("systemd-socket-activate")
    daemon = Daemon(folder)
    port, ftp_port = free_port(), free_port()
    daemon.configure("ftp", tls='"allow"')
    activate = ("systemd-socket-activate", f"--listen=127.0.0.1:{port}")
    names = (f"--listen=127.0.0.1:{ftp_port}", "--fdname=native:ftp")
    try:
        with daemon.log.open("ab") as log:
            daemon.process = subprocess.Popen(
                [*activate, *names, BIN / "forkd", "serve", "-c", daemon.config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_for(lambda: "Listening on" in daemon.log.read_text())
        with wait_for(lambda: greeted(ftp_port)) as ftp:  # the first one starts it
            assert ftp.recv(3) == b"220"
        wait_for(lambda: serves(daemon))
        daemon.add_user("alice")
        daemon.log_in(address=("127.0.0.1", port)).put("f", b"served")
        given = {f"127.0.0.1:{port}", f"127.0.0.1:{ftp_port} (ftp)"}
        assert set(daemon.status()["inherited"]) == given
        assert f"127.0.0.1:{ftp_port} (systemd)" in daemon.ctl("status").stdout
        assert daemon.stop() == 0
    finally:
        daemon.destroy()


def greeted(port: int) -> socket.socket | None:
    try:
        return socket.create_connection(("127.0.0.1", port), 30)
    except ConnectionRefusedError:
        return None


def serves(daemon: Daemon) -> bool:
    with contextlib.suppress(Exception):
        return bool(daemon.status()["state"] == "serving")
    return False


class Manager:
    """A service manager's notification socket."""

    def __init__(self, sock: socket.socket, address: str) -> None:
        self._socket = sock
        self.address = address
        self.stored: dict[str, socket.socket] = {}

    def next(self) -> dict[str, str]:
        """The next message that is not about the status or the watchdog alone."""
        while True:
            text, fds, _, _ = socket.recv_fds(self._socket, 4096, 4)
            told = dict(line.split("=", 1) for line in text.decode().split("\n"))
            for fd in fds:
                self.stored[told["FDNAME"]] = socket.socket(fileno=fd)
            if told.keys() - {"STATUS", "WATCHDOG"}:
                return told

    def keys(self) -> list[str]:
        return list(self.next())


@pytest.fixture
def manager(folder: Path) -> Iterator[Manager]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(folder / "notify"))
        sock.settimeout(30)
        manager = Manager(sock, str(folder / "notify"))
        yield manager
        for stored in manager.stored.values():
            stored.close()


STORE = ["FDSTORE", "FDNAME"]
READY = ["READY", "MAINPID", "STATUS"]
RELOADING = ["RELOADING", "MONOTONIC_USEC"]


def test_everything_a_manager_is_told(folder: Path, manager: Manager) -> None:
    daemon = Daemon(folder)
    try:
        daemon.start(env={**os.environ, "NOTIFY_SOCKET": manager.address})
        assert [manager.keys() for _ in range(2)] == [STORE, STORE]
        ready = manager.next()
        assert list(ready) == READY
        assert ready["MAINPID"] == str(daemon.pid)
        assert ready["STATUS"] == "serving, generation 1: 2 workers, 0 sessions, 0 transfers"
        assert daemon.ctl("reload").returncode == 0
        assert [manager.keys() for _ in range(2)] == [RELOADING, READY]
        daemon.configure("limits", typo="1")
        assert daemon.ctl("reload").returncode == 1
        assert manager.keys() == RELOADING
        assert manager.next()["STATUS"].startswith("serving, generation 2")
        daemon.signal(signal.SIGTERM)
        stopping = manager.next()
        assert list(stopping) == ["STOPPING", "STATUS", "EXTEND_TIMEOUT_USEC"]
        assert stopping["STATUS"] == "stopping within 30 s"
        assert daemon.process is not None
        assert daemon.process.wait(30) == 0
    finally:
        daemon.destroy()


def test_the_watchdog_is_fed(folder: Path, manager: Manager) -> None:
    daemon = Daemon(folder)
    try:
        told = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "300000"}
        daemon.start(env={**os.environ, **told})
        while "READY" not in manager.next():
            pass
        sock = manager._socket
        wait_for(lambda: b"WATCHDOG=1" in sock.recv(4096))
        daemon.signal(signal.SIGSTOP)
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                sock.recv(4096)
        sock.settimeout(1.0)
        with pytest.raises(TimeoutError):
            sock.recv(4096)
        daemon.signal(signal.SIGCONT)
    finally:
        daemon.destroy()


RESTART = """
import os, sys
fds = [os.dup(int(fd)) for fd in sys.argv[2].split(",")]
fds = [os.dup2(fd, 100 + i) for i, fd in enumerate(fds)]
for i, fd in enumerate(fds):
    os.dup2(fd, 3 + i)
os.environ |= {
    "LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": sys.argv[1], "LISTEN_PID": str(os.getpid())
}
os.execv(sys.argv[3], sys.argv[3:])
"""


def test_a_client_that_comes_during_a_restart_waits(folder: Path, manager: Manager) -> None:
    """The test is the manager: it keeps what is stored, and passes it to the next start."""
    daemon = Daemon(folder)
    environ = {**os.environ, "NOTIFY_SOCKET": manager.address}
    try:
        daemon.start(env=environ)
        daemon.add_user("alice")
        while "READY" not in manager.next():
            pass
        assert daemon.stop() == 0
        with (
            socket.create_connection(("127.0.0.1", daemon.port), 30),
            socket.socket(socket.AF_UNIX) as waiting,
        ):
            waiting.connect(daemon.unix_path)  # nobody serves, nobody is refused
            fds = [sock.fileno() for sock in manager.stored.values()]
            wrapper = (sys.executable, "-c", RESTART, ":".join(manager.stored))
            numbers = ",".join(map(str, fds))
            daemon.start(*wrapper, numbers, env=environ, pass_fds=fds)
            listeners = {f"127.0.0.1:{daemon.port}", f"unix:{daemon.unix_path}"}
            assert set(daemon.status()["listeners"]) == listeners
            assert daemon.status()["inherited"] == []
            daemon.log_in().put("f", b"served")
            daemon.log_in(address=("127.0.0.1", daemon.port)).put("f", b"served")
        assert daemon.ctl("stop").returncode == 0
        removed = []
        while len(removed) < 2:
            told = manager.next()
            if "FDSTOREREMOVE" in told:
                removed.append(told["FDNAME"])
        assert set(removed) == set(manager.stored)
        assert not os.path.exists(daemon.unix_path)
    finally:
        daemon.destroy()
