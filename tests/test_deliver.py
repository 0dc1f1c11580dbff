"""One try to tell a hook: what it is told, and that no target can hold it up."""

from __future__ import annotations

import json
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from forkd.config import Hook
from forkd.events.records import Intent, Origin
from forkd.helpers.deliver import Target, Try, headers, told, variables
from forkd.storage.names import show
from forkd.units import Seconds

ORIGIN = Origin(1, "alice", "home of alice", "3-73bb-1", "native")
EVENT = Intent(
    *("3.12-7", "renamed", ORIGIN, "/new/ä", 1764040956.5, 5),
    *("file", (), 9, 48213, "9f86", "/old"),
)
ODD = (b"caf\xe9", b"a\nb")


@pytest.fixture
def odd() -> Intent:
    return msgspec.structs.replace(EVENT, path=show(ODD), source=None, size=None, digest=None)


def finish(begun: Try) -> str:
    """As the dispatcher does, with less patience."""
    poll = select.poll()
    poll.register(begun.pidfd, select.POLLIN)
    while not poll.poll(20):
        if time.monotonic() >= begun.deadline:
            begun.end("timeout")
            begun.signal_group(signal.SIGKILL)
    return begun.finish()


def test_what_is_told() -> None:
    assert told(EVENT, "/srv") == {
        "id": "3.12-7",
        "event": "renamed",
        "time": "2025-11-25T03:22:36.500Z",
        "user": "alice",
        "path": "/new/ä",
        "from": "/old",
        "type": "file",
        "size": 48213,
        "digest": "9f86",
        "file": "/srv/home of alice/new/ä",
        "session": "3-73bb-1",
        "door": "native",
    }


def test_variables_have_the_bytes_on_disk(odd: Intent) -> None:
    assert variables(odd, "/srv") == {
        "FORKD_EVENT": "renamed",
        "FORKD_EVENT_ID": "3.12-7",
        "FORKD_USER": "alice",
        "FORKD_PATH": b"/caf\xe9/a\nb",
        "FORKD_FROM": b"",
        "FORKD_FILE": b"/srv/home of alice/caf\xe9/a\nb",
        "FORKD_TYPE": "file",
        "FORKD_SIZE": "",
        "FORKD_DIGEST": "",
        "FORKD_SESSION": "3-73bb-1",
        "FORKD_DOOR": "native",
    }


def test_a_signature_only_with_a_secret() -> None:
    assert "X-Forkd-Signature" not in headers(EVENT, b"{}", "")
    # echo -n '{}' | openssl dgst -sha256 -hmac key
    assert headers(EVENT, b"{}", "key")["X-Forkd-Signature"] == (
        "sha256=a777724d943eb48dc69bca8a4a6d57a04db3f9ec7e1de4e581e860265bdf3032"
    )


def test_a_program_gets_one_line_and_its_environment(odd: Intent, tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = f'cat > {out}; printf "\\n%s" "$FORKD_FILE" >> {out}; pwd >> {out}.d; env > {out}.e'
    hook = Hook(exec=("sh", "-c", script))
    assert finish(Target(hook, "/srv").start(odd)) == ""
    body, _, file = out.read_bytes().partition(b"\n\n")
    assert json.loads(body) == told(odd, "/srv")
    assert file == b"/srv/home of alice/caf\xe9/a\nb"
    assert (tmp_path / "out.d").read_text() == "/\n"
    names = {
        line.partition("=")[0]
        for line in (tmp_path / "out.e").read_text(errors="replace").splitlines()
    }
    assert {name for name in names if not name.startswith("FORKD_")} <= {
        *("PATH", "LANG", "PWD", "OLDPWD", "SHLVL", "_", "b"),
    }


@pytest.mark.parametrize(
    ("script", "reason"), [("exit 3", "exit status 3"), ("kill -9 $$", "signal 9")]
)
def test_why_a_program_did_not_take_it(script: str, reason: str) -> None:
    assert finish(Target(Hook(exec=("sh", "-c", script)), "/srv").start(EVENT)) == reason


def test_a_program_that_does_not_read_its_input_takes_it() -> None:
    assert finish(Target(Hook(exec=("true",)), "/srv").start(EVENT)) == ""


def test_a_program_that_hangs_is_ended() -> None:
    hook = Hook(exec=("sh", "-c", "trap '' TERM; sleep 600 & wait"), timeout=Seconds(0.2))
    assert finish(Target(hook, "/srv").start(EVENT)) == "timeout"


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def url_of(server: socket.socket, path: str = "/p?q=1") -> str:
    return f"http://127.0.0.1:{server.getsockname()[1]}{path}"


def answer(server: socket.socket, reply: bytes, seen: list[bytes]) -> threading.Thread:
    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            seen.append(connection.recv(65536))
            while b"}" not in seen[0]:
                seen[0] += connection.recv(65536)
            connection.sendall(reply)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", ""),
        (b"HTTP/1.1 201 Created\r\nContent-Length: 9\r\n\r\n", ""),
        (b"HTTP/1.1 301 Moved\r\nLocation: /x\r\n\r\n", "HTTP 301 Moved"),
        (b"HTTP/1.1 500 Oh\r\n\r\n", "HTTP 500 Oh"),
        (b"SSH-2.0-x\r\n", "SSH-2.0-x"),
        (b"", "Remote end closed connection without response"),
    ],
)
def test_what_a_server_answers(server: socket.socket, reply: bytes, reason: str) -> None:
    seen: list[bytes] = []
    thread = answer(server, reply, seen)
    assert finish(Target(Hook(url=url_of(server)), "/srv").start(EVENT)).strip() == reason
    thread.join(10)
    head, _, body = seen[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /p?q=1 HTTP/1.1\r\n")
    assert json.loads(body) == told(EVENT, "/srv")


def test_a_server_that_is_silent_is_given_up(server: socket.socket) -> None:
    hook = Hook(url=url_of(server), timeout=Seconds(0.2))
    assert finish(Target(hook, "/srv").start(EVENT)) in ("timeout", "timed out")


def test_a_server_that_drips_is_given_up(server: socket.socket) -> None:
    """Each byte in time, the whole never."""

    def drip() -> None:
        connection, _ = server.accept()
        with connection:
            try:
                while True:
                    connection.sendall(b"H")
                    time.sleep(0.05)
            except OSError:
                pass

    threading.Thread(target=drip, daemon=True).start()
    hook = Hook(url=url_of(server), timeout=Seconds(0.5))
    assert finish(Target(hook, "/srv").start(EVENT)) == "timeout"


def test_a_server_that_is_not_there(server: socket.socket) -> None:
    url = url_of(server)
    server.close()
    reason = finish(Target(Hook(url=url), "/srv").start(EVENT))
    assert "refused" in reason.lower()
