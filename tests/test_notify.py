from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forkd.supervisor.notify import Notifier

Read = Callable[[], dict[str, str]]


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[tuple[Notifier, Read]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "n"))
        sock.settimeout(10)
        yield (
            Notifier(str(tmp_path / "n")),
            lambda: dict(line.split("=", 1) for line in sock.recv(4096).decode().split("\n")),
        )


def test_every_message(manager: tuple[Notifier, Read]) -> None:
    notifier, read = manager
    notifier.ready("serving")
    assert read() == {"READY": "1", "MAINPID": str(os.getpid()), "STATUS": "serving"}
    notifier.reloading()
    reloading = read()
    assert reloading.pop("RELOADING") == "1"
    assert int(reloading.pop("MONOTONIC_USEC")) > 0
    assert reloading == {}
    notifier.status("busy")
    assert read() == {"STATUS": "busy"}
    notifier.alive()
    assert read() == {"WATCHDOG": "1"}
    notifier.stopping("soon", 1.5)
    assert read() == {"STOPPING": "1", "STATUS": "soon", "EXTEND_TIMEOUT_USEC": "1500000"}
    notifier.forget("one")
    assert read() == {"FDSTOREREMOVE": "1", "FDNAME": "one"}


def test_an_abstract_address() -> None:
    name = f"forkd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0{name}")
        sock.settimeout(10)
        Notifier(f"@{name}").alive()
        assert sock.recv(100) == b"WATCHDOG=1"


def test_a_stored_socket_is_passed_with_its_name(tmp_path: Path) -> None:
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        sock.bind(str(tmp_path / "n"))
        sock.settimeout(10)
        Notifier(str(tmp_path / "n")).store("kept-it", listener)
        text, fds, _, _ = socket.recv_fds(sock, 100, 4)
        assert text == b"FDSTORE=1\nFDNAME=kept-it"
        (fd,) = fds
        with socket.socket(fileno=fd) as passed:
            assert passed.getsockname() == listener.getsockname()


def test_nobody_is_told_where_nobody_listens(tmp_path: Path) -> None:
    Notifier().ready("serving")
    Notifier(str(tmp_path / "nobody")).ready("serving")
    assert (Notifier().heard, Notifier("x").heard) == (False, True)


@pytest.mark.parametrize(
    ("pid", "seconds"),
    [({}, 2.5), ({"WATCHDOG_PID": str(os.getpid())}, 2.5), ({"WATCHDOG_PID": "1"}, 0)],
)
def test_the_environment_is_taken(pid: dict[str, str], seconds: float) -> None:
    environ = {"NOTIFY_SOCKET": "x", "WATCHDOG_USEC": "2500000", "LANG": "C", **pid}
    notifier = Notifier.from_environment(environ)
    assert (notifier.heard, notifier.watchdog) == (True, seconds)
    assert environ == {"LANG": "C"}


def test_what_counts_is_told_to_a_manager_that_is_busy_for_a_moment(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "n"))
        notifier = Notifier(str(tmp_path / "n"))
        queued = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text()) + 2
        for _ in range(queued):
            notifier.alive()  # and none waits
        reader = threading.Timer(0.1, lambda: [sock.recv(100) for _ in range(queued // 2)])
        reader.start()
        notifier.ready("serving")
        reader.join()
        sock.setblocking(False)
        told = []
        with contextlib.suppress(BlockingIOError):
            while True:
                told.append(sock.recv(100))
        assert told[-1].startswith(b"READY=1")
