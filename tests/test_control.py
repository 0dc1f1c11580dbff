from __future__ import annotations

import contextlib
import os
import selectors
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forkd.controlmessages import (
    ControlRequest,
    Done,
    Failed,
    Progress,
    Reload,
    Status,
    Workers,
    decode_answer,
)
from forkd.messages import encode
from forkd.peercred import Caller
from forkd.supervisor.control import CLIENTS_MAX, Asker, ControlServer
from forkd.supervisor.controlsession import REQUEST_MAX
from forkd.supervisor.estate import HeldClient
from forkd.supervisor.rights import Operators

NOBODY = 65534


class Served:
    """A server whose loop turns as long as the test waits for something."""

    def __init__(self, path: Path, fd: int = -1) -> None:
        self.path = path
        self.selector = selectors.DefaultSelector()
        self.noted: list[tuple[Caller, ControlRequest, str]] = []
        self.fault: Exception | None = None
        self.server = ControlServer(
            *(str(path), self.selector, self.handle, lambda *who: self.noted.append(who), fd)
        )
        self.requests: list[tuple[ControlRequest, Asker]] = []
        self.at_once: dict[str, Any] | None = None
        self.unread: dict[socket.socket, bytearray] = {}

    def handle(self, request: ControlRequest, asker: Asker) -> None:
        if self.fault:
            raise self.fault
        self.requests.append((request, asker))
        if self.at_once is not None:
            asker.done(self.at_once)

    def turn(self, timeout: float = 0) -> None:
        for key, mask in self.selector.select(timeout):
            key.data(mask)

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(self.path))
        sock.setblocking(False)
        return sock

    def line(self, sock: socket.socket) -> bytes:
        """One line from the server, b"" at the end of the connection."""
        unread = self.unread.setdefault(sock, bytearray())
        while b"\n" not in unread:
            try:
                data = sock.recv(1 << 20)
            except BlockingIOError:
                self.turn(0.1)
                continue
            if not data:
                break
            unread += data
        end = unread.find(b"\n") + 1
        line = bytes(unread[:end])
        del unread[:end]
        return line

    def answer(self, sock: socket.socket) -> object:
        return decode_answer(self.line(sock))


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path / "control.sock")
    yield served
    if served.server.path:
        served.server.close()
    served.selector.close()


def ask(sock: socket.socket, *requests: ControlRequest) -> None:
    sock.sendall(b"".join(encode(request) + b"\n" for request in requests))


def wait_for_requests(served: Served, count: int) -> None:
    while len(served.requests) < count:
        served.turn(0.1)


def test_a_request_gets_progress_and_an_answer(served: Served) -> None:
    with served.connect() as sock:
        ask(sock, Reload())
        wait_for_requests(served, 1)
        request, asker = served.requests[0]
        assert request == Reload()
        asker.progress("one")
        asker.done({"generation": 2})
        asker.progress("too late")
        assert served.answer(sock) == Progress("one")
        assert served.answer(sock) == Done({"generation": 2})
        ask(sock, Status())
        wait_for_requests(served, 2)
        served.requests[1][1].failed("busy", "later")
        assert served.answer(sock) == Failed("busy", "later")


def test_requests_come_one_after_the_other(served: Served) -> None:
    with served.connect() as sock:
        ask(sock, Workers(1), Workers(2))
        wait_for_requests(served, 1)
        served.turn(0.05)
        assert len(served.requests) == 1
        served.requests[0][1].done({})
        assert served.requests[1][0] == Workers(2)


def test_very_many_requests_at_once_are_no_recursion(served: Served) -> None:
    served.at_once = {}
    with served.connect() as sock:
        ask(sock, *[Status()] * 3000)
        for _ in range(3000):
            assert served.answer(sock) == Done({})


def test_a_request_may_come_in_pieces(served: Served) -> None:
    with served.connect() as sock:
        for byte in encode(Workers(3)) + b"\n":
            sock.sendall(bytes([byte]))
            served.turn(0.1)
        wait_for_requests(served, 1)
        assert served.requests[0][0] == Workers(3)


@pytest.mark.parametrize("line", [b"hello", b"{}", b'{"op":"no"}', b'{"op":"workers"}', b"\xff"])
def test_what_is_no_request_is_refused_and_the_next_one_heard(served: Served, line: bytes) -> None:
    with served.connect() as sock:
        sock.sendall(line + b"\n" + encode(Status()) + b"\n")
        answer = served.answer(sock)
        assert isinstance(answer, Failed)
        assert answer.code == "bad-request"
        wait_for_requests(served, 1)


def test_a_request_without_end_is_refused(served: Served) -> None:
    with served.connect() as sock:
        sock.setblocking(True)
        sock.sendall(b"x" * (REQUEST_MAX + 1))
        sock.setblocking(False)
        answer = served.answer(sock)
        assert isinstance(answer, Failed)
        assert answer.code == "bad-request"
        try:
            assert served.line(sock) == b""
        except ConnectionResetError:
            pass  # closed with our bytes unread
    assert served.requests == []


def test_a_client_that_leaves_does_not_matter(served: Served) -> None:
    with served.connect() as sock:
        ask(sock, Reload())
        wait_for_requests(served, 1)
    served.turn(0.1)
    served.requests[0][1].progress("into the void")
    served.requests[0][1].done({})
    with served.connect() as sock:
        ask(sock, Status())
        wait_for_requests(served, 2)


def test_who_left_before_the_answer_takes_nobodys_place(served: Served) -> None:
    for number in range(CLIENTS_MAX):
        with served.connect() as sock:
            ask(sock, Reload())
            wait_for_requests(served, number + 1)
        served.turn(0.1)
    served.at_once = {}
    with served.connect() as sock:
        ask(sock, Status())
        assert served.answer(sock) == Done({})


def test_a_client_may_end_its_side_and_still_be_answered(served: Served) -> None:
    with served.connect() as sock:
        ask(sock, Reload())
        sock.shutdown(socket.SHUT_WR)
        wait_for_requests(served, 1)
        served.turn(0.1)
        served.requests[0][1].done({})
        assert served.answer(sock) == Done({})
        assert served.line(sock) == b""


def test_a_client_that_reads_nothing_blocks_nobody(served: Served) -> None:
    served.at_once = {"much": "x" * 1_000_000}
    with served.connect() as slow, served.connect() as quick:
        ask(slow, *[Status()] * 3)
        wait_for_requests(served, 3)
        ask(quick, Status())
        assert served.answer(quick) == Done(served.at_once)
        for _ in range(3):
            assert served.answer(slow) == Done(served.at_once)


def test_there_is_a_bound_on_clients(served: Served) -> None:
    clients = []
    for _ in range(CLIENTS_MAX):
        clients.append(served.connect())
        served.turn(0.1)
    with served.connect() as sock:
        answer = served.answer(sock)
        assert isinstance(answer, Failed)
        assert answer.code == "busy"
    for client in clients:
        client.close()
    served.turn(0.1)
    with served.connect() as sock:
        ask(sock, Status())
        wait_for_requests(served, 1)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_strangers_are_denied() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        served = Served(Path(folder) / "s")
        os.chmod(served.path, 0o666)  # the mode alone would keep them away
        read_end, write_end = os.pipe()
        pid = os.fork()  # a stranger may not reach the interpreter, so nothing is executed
        if pid == 0:
            try:
                os.setresuid(NOBODY, NOBODY, NOBODY)
                sock = socket.socket(socket.AF_UNIX)
                sock.connect(str(served.path))
                os.write(write_end, sock.recv(4096))
            finally:
                os._exit(0)
        os.close(write_end)
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            served.turn(0.1)
        answer = decode_answer(os.read(read_end, 4096))
        os.close(read_end)
        served.server.close()
        served.selector.close()
    assert isinstance(answer, Failed)
    assert answer.code == "denied"
    assert served.requests == []


OPERATORS = Operators("ops", 4242)


def ask_as(served: Served, groups: list[int], *requests: ControlRequest) -> list[object]:
    """What somebody else, of these groups, is answered."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups(groups)
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(served.path))
                with contextlib.suppress(BrokenPipeError):  # refused before it asked
                    ask(sock, *requests)
                with sock.makefile("rb") as lines:
                    for _ in requests:
                        os.write(write_end, lines.readline())
        except OSError as error:
            os.write(write_end, encode(Failed("os", error.strerror)) + b"\n")
        finally:
            os._exit(0)
    os.close(write_end)
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        served.turn(0.1)
    with open(read_end, "rb") as answers:
        return [decode_answer(line) for line in answers if line.strip()]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_operators_may_look_and_no_more() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        served = Served(Path(folder) / "s")
        served.at_once = {"all": "well"}
        served.server.admit(OPERATORS)
        status = served.path.stat()
        assert (stat.S_IMODE(status.st_mode), status.st_gid) == (0o660, OPERATORS.gid)
        looked, refused = ask_as(served, [7, OPERATORS.gid], Status(), Reload())
        assert looked == Done({"all": "well"})
        assert isinstance(refused, Failed)
        assert (refused.code, "may look" in refused.message) == ("denied", True)
        assert [request for request, _ in served.requests] == [Status()]
        assert [(type(one), why == "") for _, one, why in served.noted] == [
            (Status, True),
            (Reload, False),
        ]
        (kept_out,) = ask_as(served, [7], Status())
        assert kept_out == Failed("os", "Permission denied")
        os.chmod(served.path, 0o666)  # where the group could not be given, the mode is this
        (denied,) = ask_as(served, [7], Status())
        assert isinstance(denied, Failed)
        assert (denied.code, "the group ops" in denied.message) == ("denied", True)
        served.server.admit(None)
        assert stat.S_IMODE(served.path.stat().st_mode) == 0o600
        served.server.close()
        served.selector.close()


def test_who_asks_is_noted_and_a_fault_is_answered(served: Served) -> None:
    served.fault = RuntimeError("a bug")
    with served.connect() as sock:
        ask(sock, Workers(2))
        with pytest.raises(RuntimeError):
            wait_for_requests(served, 1)
        answer = served.answer(sock)
    assert isinstance(answer, Failed)
    assert answer.code == "internal"
    ((caller, request, denied),) = served.noted
    assert (caller.uid, caller.pid, denied) == (os.getuid(), os.getpid(), "")
    assert request == Workers(2)


def test_the_socket_is_for_its_owner_and_goes_at_the_end(served: Served) -> None:
    assert stat.S_IMODE(served.path.stat().st_mode) == 0o600
    with served.connect() as sock:
        ask(sock, Status())
        wait_for_requests(served, 1)
        served.requests[0][1].done({"last": "word"})
        served.server.close()
        assert served.answer(sock) == Done({"last": "word"})
        assert not served.path.exists()
    served.server.path = ""


def test_a_dead_daemons_socket_is_in_nobodys_way(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    served = Served(path)
    with served.connect():
        served.turn(0.1)
    served.server.close()
    served.selector.close()


def test_another_program_goes_on_with_the_connections(tmp_path: Path) -> None:
    """Over exec: the one who asked still hears, what others wrote is still answered."""
    before = Served(tmp_path / "c")
    asking, waiting, silent = before.connect(), before.connect(), before.connect()
    asking.sendall(encode(Reload()) + b"\n")
    wait_for_requests(before, 1)
    waiting.sendall(encode(Status()) + b"\n" + encode(Workers(3)) + b"\n" + b'{"op":')
    wait_for_requests(before, 2)
    asker = before.requests[0][1]
    held = before.server.hand_over(asker, "busy", "come again")
    assert before.answer(waiting) == Failed("busy", "come again")
    after = Served(tmp_path / "c", os.dup(before.server.fileno()))
    taken = after.server.take_over(
        [HeldClient(os.dup(each.fd), each.unread, each.asking) for each in held]
    )
    assert after.requests == []
    after.server.resume()
    before.server.release()
    taken.progress("half")
    taken.done({"all": "well"})
    assert after.answer(asking) == Progress("half")
    assert after.answer(asking) == Done({"all": "well"})
    wait_for_requests(after, 1)
    assert after.requests[0][0] == Workers(3)
    after.at_once = {"here": 1}
    after.requests[0][1].done({"count": 3})
    assert after.answer(waiting) == Done({"count": 3})
    waiting.sendall(b'"status"}\n')
    assert after.answer(waiting) == Done({"here": 1})
    for sock in (silent, after.connect()):
        sock.sendall(encode(Status()) + b"\n")
        assert after.answer(sock) == Done({"here": 1})
    after.server.close()
    assert not (tmp_path / "c").exists()
