"""The reference: a server of a few lines that does what no server can do with less.

Large files go by sendfile and come by splice.  Small files are opened and read, or made and
written, by one process; between the files there is nothing on the wire but the next file.  A
durable upload is flushed as cheaply as it can be: all files are written, then each is flushed,
then the folder.  The first line of a connection is JSON and says what to do.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

from bench import processes
from bench.crew import run_together
from bench.files import Source, clear, must_equal
from bench.kernel import Drain, send_file
from bench.moves import SMALL_SIZE, Kind, Move, Speech
from bench.peers import Way

_TOGETHER = 64
"""Small files in one send or receive."""


@dataclass(frozen=True)
class _Order:
    """What a connection is for; `names` are small files in the folder `path`."""

    up: bool
    path: str
    size: int
    names: list[str]
    durable: bool


class Raw:
    """See the module."""

    name = "raw"
    speech = Speech.NATIVE

    def __init__(self) -> None:
        self._pid = 0

    def missing(self) -> str | None:
        return None

    def start(self, folder: Path, source: Source) -> None:
        self._source = source
        self._target = folder / "up"
        self._attic = folder / "attic"
        self._clean()
        listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._port = listener.getsockname()[1]
        self._pid = os.fork()
        if self._pid == 0:
            os.setsid()
            _serve(listener)
        listener.close()

    def stop(self) -> None:
        if self._pid:
            processes.end(self._pid)
            self._pid = 0

    def ways(self, move: Move) -> list[Way]:
        if move.kind not in (Kind.DOWN, Kind.UP) or move.kept or not (move.large or move.files > 1):
            return []
        tasks = [_Client(self._port, self._order(move, number)) for number in range(move.streams)]
        if move.kind is Kind.DOWN:
            return [Way("raw", partial(run_together, tasks), server=self._pid)]

        def check() -> None:
            for task in tasks:
                must_equal(Path(task.order.path), self._source.of(move))

        for task in tasks:
            task.source = self._source.of(move)
        return [Way("raw", partial(run_together, tasks), check, self._clean, self._pid)]

    def _clean(self) -> None:
        clear(self._target, self._attic)

    def _order(self, move: Move, number: int) -> _Order:
        up = move.kind is Kind.UP
        path = self._target / str(number) if up else self._source.of(move)
        names = self._source.names if move.files > 1 else []
        return _Order(up, str(path), move.size, names, move.durable)


class _Client:
    """See crew.Task."""

    def __init__(self, port: int, order: _Order) -> None:
        self.order = order
        self.source = Path()
        self._port = port

    def prepare(self) -> None:
        self._sock = socket.create_connection(("127.0.0.1", self._port))
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._line = json.dumps(asdict(self.order)).encode() + b"\n"
        self._content = b""
        if self.order.up and self.order.names:
            self._content = b"".join((self.source / n).read_bytes() for n in self.order.names)
        self._drain = Drain(os.devnull)

    def run(self) -> None:
        order, sock = self.order, self._sock
        sock.sendall(self._line)
        if not order.up:
            self._drain.take(sock, order.size * max(1, len(order.names)))
        elif order.names:
            sock.recv(1)
            sock.sendall(self._content)
        else:
            sock.recv(1)
            send_file(sock, str(self.source))
        self._end = sock.recv(1)

    def verify(self) -> None:
        if self._end != b"k":
            raise processes.BenchError("the raw server broke off")


def _serve(listener: socket.socket) -> NoReturn:
    """A process a connection, for ever."""

    def reap(*_: object) -> None:
        while any(os.waitpid(-1, os.WNOHANG)):
            pass

    def reap_quietly(*_: object) -> None:
        try:
            reap()
        except ChildProcessError:
            pass

    signal.signal(signal.SIGCHLD, reap_quietly)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    while True:
        sock, _ = listener.accept()
        if os.fork() == 0:
            try:
                _obey(sock)
            finally:
                os._exit(0)
        sock.close()


def _obey(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    line = bytearray()
    while not line.endswith(b"\n"):
        line += sock.recv(1 << 16)
    order = _Order(**json.loads(line))
    if order.up:
        sock.sendall(b"g")
    if order.names:
        (_take_small if order.up else _give_small)(sock, order)
    elif order.up:
        drain = Drain(order.path)
        drain.take(sock, order.size)
        if order.durable:
            os.fdatasync(drain.fd)
            _flush_folder(os.path.dirname(order.path))
    else:
        send_file(sock, order.path)
    sock.sendall(b"k")


def _give_small(sock: socket.socket, order: _Order) -> None:
    folder = os.open(order.path, os.O_RDONLY | os.O_DIRECTORY)
    for first in range(0, len(order.names), _TOGETHER):
        contents = []
        for name in order.names[first : first + _TOGETHER]:
            fd = os.open(name, os.O_RDONLY, dir_fd=folder)
            contents.append(os.read(fd, order.size))
            os.close(fd)
        sock.sendall(b"".join(contents))


def _take_small(sock: socket.socket, order: _Order) -> None:
    os.mkdir(order.path)
    folder = os.open(order.path, os.O_RDONLY | os.O_DIRECTORY)
    buffer = memoryview(bytearray(_TOGETHER * SMALL_SIZE))
    waiting = []
    for first in range(0, len(order.names), _TOGETHER):
        names = order.names[first : first + _TOGETHER]
        _receive(sock, buffer[: len(names) * order.size])
        for number, name in enumerate(names):
            fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=folder)
            os.write(fd, buffer[number * order.size : (number + 1) * order.size])
            if order.durable:
                waiting.append(fd)
            else:
                os.close(fd)
    for fd in waiting:
        os.fdatasync(fd)
        os.close(fd)
    if order.durable:
        os.fsync(folder)


def _receive(sock: socket.socket, view: memoryview) -> None:
    while view:
        view = view[sock.recv_into(view) :]


def _flush_folder(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(fd)
    os.close(fd)
