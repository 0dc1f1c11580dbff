"""A real master with rooms so simple that a test can tell them what to do.

Run as a program it is `forkd` with these rooms in place of the real ones.  The worker speaks lines:
it greets with "pid generation slot", and obeys "die", "hang" and "bye".
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from forkd.controlmessages import (
    ControlAnswer,
    ControlRequest,
    Done,
    Failed,
    Progress,
    Status,
    decode_answer,
)
from forkd.ledger import file as ledgerfile
from forkd.ledger.file import LedgerFile
from forkd.link import Link
from forkd.messages import (
    AccountChanged,
    Answer,
    Drain,
    Kick,
    ListSessions,
    Ready,
    Reap,
    SessionInfo,
    SessionPage,
    Unable,
    Verify,
    encode,
)
from forkd.scoreboard import State
from forkd.seat import ChildSeat
from forkd.supervisor import processes

PATIENCE = 30.0


# -- in the daemon


def tell(seat: ChildSeat, name: str, text: str) -> None:
    path = os.path.join(seat.config.server.state_dir, name)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(fd, f"{text}\n".encode())
    os.close(fd)


def told(seat: ChildSeat, name: str) -> str:
    """What the test wrote into a file of this name, or ""."""
    try:
        return Path(seat.config.server.state_dir, name).read_text()
    except FileNotFoundError:
        return ""


class Worker:
    def __init__(self, seat: ChildSeat) -> None:
        self.seat = seat
        self.link = Link(seat.link)
        self.selector = selectors.DefaultSelector()
        self.row = seat.board.rows[seat.slot]
        self.clients: set[socket.socket] = set()
        self.draining = False
        self.end = float("inf")
        self.ledger = LedgerFile(os.path.join(seat.config.server.state_dir, "ledger"))
        assert self.ledger.hold_slot(seat.slot)

    def run(self) -> int:
        self.selector.register(self.link, selectors.EVENT_READ, self.on_link)
        for listener in self.seat.listeners:
            self.selector.register(listener.socket, selectors.EVENT_READ, self.accept)
        self.row.set("state", State.SERVING)
        self.row.set("beat_ns", time.monotonic_ns())
        self.link.send(Ready())
        while not (self.draining and (not self.clients or time.monotonic() > self.end)):
            self.row.set("beat_ns", time.monotonic_ns())
            self.row.set("sessions", len(self.clients))
            for key, _ in self.selector.select(0.05):
                key.data(key.fileobj)
        return 0

    def on_link(self, _: Any) -> None:
        for message in self.link.receive():
            match message:
                case Drain(timeout=timeout):
                    self.drain(timeout)
                case ListSessions(tag=tag):
                    slot = self.seat.slot
                    found = [
                        SessionInfo(f"{slot}-{s.fileno()}", slot, "u", "p", "", "native", "idle", 1)
                        for s in self.clients
                    ]
                    self.link.send(SessionPage(tag, found, True))
                    self.link.send(SessionPage(tag, [], False))
                case Kick(tag=tag, session=session):
                    here = session.startswith(f"{self.seat.slot}-")
                    self.link.send(Answer(tag, {"kicked": here}))
                case AccountChanged(name=name):
                    tell(self.seat, "changed", name)
        if self.link.eof:
            self.drain(None)

    def drain(self, timeout: float | None) -> None:
        if not self.draining:
            for listener in self.seat.listeners:
                self.selector.unregister(listener.socket)
                listener.socket.close()
        if self.link.eof and self.link in self.selector.get_map():
            self.selector.unregister(self.link)
        self.draining = True
        self.row.set("state", State.DRAINING)
        if timeout is not None:
            self.end = time.monotonic() + timeout

    def accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except BlockingIOError:
            return
        client.sendall(f"{os.getpid()} {self.seat.generation} {self.seat.slot}\n".encode())
        self.clients.add(client)
        self.selector.register(client, selectors.EVENT_READ, self.obey)

    def obey(self, client: socket.socket) -> None:
        order = client.recv(64).strip()
        if order == b"die":
            os._exit(3)
        if order == b"hang":
            time.sleep(3600)
        if order in (b"", b"bye"):
            self.selector.unregister(client)
            client.close()
            self.clients.discard(client)


def worker_main(seat: ChildSeat) -> int:
    if told(seat, "worker-unable"):
        seat.link.send(encode(Unable(told(seat, "worker-unable"))))
        return 1
    return Worker(seat).run()


def helper_main(seat: ChildSeat) -> int:
    """A keeper or runner: obeys Drain, notes what it is told."""
    seat.link.send(encode(Ready()))
    link = Link(seat.link)
    selector = selectors.DefaultSelector()
    selector.register(link, selectors.EVENT_READ)
    while not link.eof:
        selector.select()
        for message in link.receive():
            match message:
                case Drain():
                    return 0
                case Reap(slot=slot):
                    tell(seat, "reaped", str(slot))
                case Verify(tag=tag, user=user, fix=fix):
                    link.send(Answer(tag, {"accounts": [{"user": user, "fixed": fix}]}))
    return 0


def prepare_main(seat: ChildSeat) -> int:
    why = told(seat, "prepare-unable")
    if why:
        seat.link.send(encode(Unable(why)))
        return 1
    ledgerfile.allocate(os.path.join(seat.config.server.state_dir, "ledger"), 10)
    return 0


ROOMS = {
    "worker": worker_main,
    "keeper": helper_main,
    "runner": helper_main,
    "exporter": helper_main,
    "prepare": prepare_main,
}


def install() -> None:
    for name, main in ROOMS.items():
        module = types.ModuleType(processes.ROOMS[name])
        module.__dict__["main"] = main
        sys.modules[module.__name__] = module


# -- in the test


class Daemon:
    """A daemon under test; leaving the context kills whatever is left of it."""

    def __init__(self, folder: Path, text: str = "", workers: int = 2) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.runtime = folder / "run"
        self.file = folder / "forkd.toml"
        self.log = folder / "log"
        self.workers = workers
        self.process: subprocess.Popen[bytes] | None = None
        self.pids: set[int] = set()
        self.state.mkdir(exist_ok=True)
        self.write(text)

    def write(self, text: str = "", listen: str = '"127.0.0.1:0"', server: str = "") -> None:
        self.file.write_text(f"""
[server]
workers = {self.workers}
state_dir = "{self.state}"
runtime_dir = "{self.runtime}"
pidfile = "{self.runtime}/forkd.pid"
{server}
[listen]
native = [{listen}]
[storage]
path = "{self.folder}/files"
[log]
file = "{self.log}"
{text if "[metrics]" in text else "[metrics]" + chr(10) + 'listen = ""' + chr(10) + text}
""")

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "serve", "-c", str(self.file), *arguments],
            stderr=subprocess.PIPE,
            **options,
        )
        return self.process

    def serve(self, **options: Any) -> Daemon:
        """Start, and wait until it serves."""
        self.close_pipe()
        process = self.start(**options)

        def serving() -> bool:
            assert process.poll() is None, self.errors()
            try:
                return self.status()["state"] == "serving"
            except (FileNotFoundError, ConnectionRefusedError):  # not there, or a dead daemon's
                return False

        wait_for(serving)
        return self

    def errors(self) -> str:
        assert self.process
        assert self.process.stderr
        return self.process.stderr.read().decode()

    def close_pipe(self) -> None:
        if self.process and self.process.stderr:
            self.process.stderr.close()

    def control(self) -> Path:
        return self.runtime / "control.sock"

    def ask(self, request: ControlRequest) -> list[ControlAnswer]:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(str(self.control()))
            sock.sendall(encode(request) + b"\n")
            answers: list[ControlAnswer] = []
            with sock.makefile("rb") as lines:
                for line in lines:
                    answers.append(decode_answer(line))
                    if not isinstance(answers[-1], Progress):
                        break
        return answers

    def body(self, request: ControlRequest) -> dict[str, Any]:
        answer = self.ask(request)[-1]
        assert isinstance(answer, Done), answer
        return answer.body

    def refusal(self, request: ControlRequest) -> Failed:
        answer = self.ask(request)[-1]
        assert isinstance(answer, Failed), answer
        return answer

    def status(self) -> dict[str, Any]:
        body = self.body(Status())
        self.pids |= {p["pid"] for p in body["workers"] + body["helpers"]} | {body["pid"]}
        return body

    def connect(self) -> Session:
        for text in self.status()["listeners"]:
            if text.startswith("127."):
                host, _, port = text.rpartition(":")
                return Session(socket.create_connection((host, int(port)), PATIENCE))
        raise AssertionError("no TCP listener")

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, *_: object) -> None:
        pids = {self.process.pid, *self.pids} if self.process else self.pids
        pids |= {pid for parent in list(pids) for pid in children_of(parent)}
        for pid in pids - {0}:
            with contextlib.suppress(ProcessLookupError):
                if str(self.file) in cmdline(pid) or "forkd:" in cmdline(pid):
                    os.kill(pid, signal.SIGKILL)
        if self.process:
            self.process.wait()
        self.close_pipe()


class Session:
    """A connection to a rig's worker."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        greeting = sock.makefile("rb").readline().split()
        self.pid, self.generation, self.slot = (int(word) for word in greeting)

    def order(self, what: bytes) -> None:
        self.socket.sendall(what + b"\n")

    def ended(self) -> bool:
        """Wait for the end of the connection."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True


def cmdline(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def children_of(pid: int) -> Iterator[int]:
    try:
        yield from map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    except FileNotFoundError:
        return


def wait_for(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Poll until it holds; the time is a limit for failing only."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"did not come true within {seconds} s"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    """No such process, or only its zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


if __name__ == "__main__":
    install()
    from forkd.cli import main

    sys.exit(main())
