from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from forkd.supervisor.inherited import NOTHING_INHERITED, inherited_sockets

SERVE = """
import os, sys
from forkd.errors import StartError
from forkd.listen import parse_listen, ListenAddress
from forkd.supervisor.inherited import address_of, inherited_sockets
from forkd.supervisor.listeners import Listeners
os.environ["LISTEN_PID"] = str(os.getpid())
wanted = [(door, parse_listen(text)) for door, _, text in (w.partition("=") for w in sys.argv[1:])]
wanted = [ListenAddress(a.family, a.host, a.port, door) for door, a in wanted]
try:
    found = inherited_sockets(os.environ)
    assert not any(name.startswith("LISTEN_") for name in os.environ)
    assert not any(x.socket.get_inheritable() for x in (*found.given, *found.kept))
    listeners = Listeners(found)
    listeners.adopt(listeners.open(wanted, 16))
    for x in listeners.bound:
        given = "given" if x in listeners.given else "own"
        print(f"{x.socket.fileno()} {x.address.door}={address_of(x.socket)} {given}")
except StartError as error:
    print(error)
"""


def serve(sockets: list[socket.socket], names: str | None, *wanted: str) -> list[str]:
    """What a process that inherits these sockets serves: a line each, descriptor first; or why
    it does not start."""

    def pass_on() -> None:
        high = [os.dup(sock.fileno()) for sock in sockets]
        for fd, above in enumerate(high, 3):
            os.dup2(above, fd, inheritable=True)

    environ = {**os.environ, "LISTEN_FDS": str(len(sockets))}
    if names is not None:
        environ["LISTEN_FDNAMES"] = names
    return subprocess.run(
        [sys.executable, "-c", SERVE, *wanted],
        env=environ,
        stdout=subprocess.PIPE,
        close_fds=False,
        preexec_fn=pass_on,
        check=True,
        text=True,
    ).stdout.splitlines()


@pytest.fixture
def two() -> Iterator[tuple[list[socket.socket], list[str]]]:
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        both = [one, other]
        yield both, [f"127.0.0.1:{sock.getsockname()[1]}" for sock in both]


def test_a_name_is_the_door_configured_or_not(two) -> None:
    sockets, (one, other) = two
    assert serve(sockets, "ftp:native", f"native={other}") == [
        f"4 native={other} given",
        f"3 ftp={one} given",
    ]


def test_sockets_may_share_a_name(two) -> None:
    sockets, (one, other) = two
    assert serve(sockets, "ftps:ftps") == [f"3 ftps={one} given", f"4 ftps={other} given"]


@pytest.mark.parametrize("names", [None, "unknown:unknown"])
def test_without_a_name_the_configured_address_tells_the_door(two, names: str | None) -> None:
    sockets, (one, other) = two
    assert serve(sockets, names, f"ftp={one}") == [
        f"3 ftp={one} given",
        f"4 native={other} given",
    ]


def test_another_door_than_configured_is_refused(two) -> None:
    sockets, (one, _) = two
    (line,) = serve(sockets, "native:native", f"ftp={one}")
    assert line.startswith(f"listen.ftp names {one}, where a socket unit serves native ")


def test_a_name_that_is_no_door_is_refused(two) -> None:
    sockets, (one, _) = two
    (line,) = serve(sockets, "forkd.socket:native")
    assert line == (
        f"the socket unit's {one}: FileDescriptorName=forkd.socket is no door of forkd; "
        "it has native, ftp, ftps"
    )


def test_names_that_do_not_match_the_descriptors_are_refused(two) -> None:
    assert serve(two[0], "native") == ["LISTEN_FDNAMES: 1 names for 2 descriptors"]


def test_a_socket_that_does_not_listen_is_refused() -> None:
    with socket.socket() as deaf:
        assert serve([deaf], "native") == ["LISTEN_FDS: descriptor 3 is no listening stream socket"]


def test_ftp_is_not_served_at_a_unix_socket(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))
        sock.listen()
        (line,) = serve([sock], "ftp")
    assert "FTP needs host:port" in line


def test_a_socket_of_both_families_is_refused() -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as sock:
        (line,) = serve([sock], "native")
        assert "ListenStream= of its own" in line
        assert f"0.0.0.0:{sock.getsockname()[1]}" in line


def test_a_kept_socket_serves_what_is_configured_alone(two) -> None:
    sockets, (one, _) = two
    assert serve(sockets, "kept-one:kept-other", f"ftp={one}") == [f"3 ftp={one} own"]


def test_a_kept_socket_without_its_file_is_bound_anew(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        path.unlink()
        (line,) = serve([sock], "kept-s", f"native=unix:{path}")
    assert line.endswith(f"native=unix:{path} own")
    assert path.is_socket()


def test_sockets_meant_for_another_process_are_not_taken() -> None:
    environ = {"LISTEN_FDS": "1", "LISTEN_PID": "1", "LISTEN_FDNAMES": "x"}
    assert inherited_sockets(environ) == NOTHING_INHERITED
    assert environ == {}
