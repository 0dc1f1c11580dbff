"""The rsync daemon, set up as somebody would who knows it and wants speed; see _CONFIG, _ALWAYS."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench import processes
from bench.crew import run_together
from bench.files import Source, clear, must_equal
from bench.moves import Kind, Move, Speech
from bench.peers import Way
from bench.processes import BenchError, Meter
from bench.programs import run_programs

_CONFIG = """\
use chroot = no
address = 127.0.0.1
port = {port}
{identity}
reverse lookup = no
forward lookup = no
transfer logging = no
log file = /dev/null
pid file = {folder}/rsyncd.pid
lock file = {folder}/rsyncd.lock
max connections = 0
dont compress = *
[bench]
path = {folder}/data
read only = no
"""
_ALWAYS = ["--whole-file", "--inplace", "--no-motd"]
_NO_CHECKSUM = "--checksum-choice=none"
_GREETING = b"@RSYNCD: 31.0\n"
_WARM_SESSIONS = 20


class Rsyncd:
    """See the module."""

    name = "rsyncd"
    speech = Speech.NATIVE

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def missing(self) -> str | None:
        return None if shutil.which("rsync") else "rsync is not installed"

    def start(self, folder: Path, source: Source) -> None:
        self._source = source
        self._data = folder / "data"
        self._got = folder / "got"
        self._port = processes.free_port()
        source.serve_from(self._data)
        self._attic = folder / "attic"
        self._clean()
        config = folder / "rsyncd.conf"
        identity = "uid = 0\ngid = 0" if os.geteuid() == 0 else ""
        config.write_text(_CONFIG.format(port=self._port, folder=folder, identity=identity))
        self._process = subprocess.Popen(
            ["rsync", "--daemon", "--no-detach", f"--config={config}"],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        processes.wait_until(self._serves, "rsyncd")

    def _serves(self) -> bool:
        try:
            _connect(self._port).close()
        except ConnectionError:
            return False
        return True

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            processes.end(self._process.pid)
        self._process = None

    def ways(self, move: Move) -> list[Way]:
        match move.kind:
            case Kind.MEMORY:
                return [self._way("rsyncd", lambda _: self._memory(move.files))]
            case Kind.CONNECT:
                tasks = [_Listings(self._port, move.files) for _ in range(move.streams)]
                return [self._way("rsyncd", partial(run_together, tasks))]
            case Kind.LOGIN:
                return []
            case Kind.UP | Kind.DOWN:
                return self._transfers(move)

    def _way(self, label: str, measure: Callable[[Meter], float]) -> Way:
        assert self._process is not None
        return Way(label, measure, server=self._process.pid)

    # the real program

    def _transfers(self, move: Move) -> list[Way]:
        discards = move.kind is Kind.DOWN and not move.kept
        if discards and move.files > 1:
            return []
        options = ["--fsync"] if move.durable else []
        ways = [self._transfer("rsync", move, options)]
        if move.large and move.streams == 1 and not move.durable:
            ways.append(self._transfer("rsync no checksum", move, [*options, _NO_CHECKSUM]))
        return ways

    def _transfer(self, label: str, move: Move, options: list[str]) -> Way:
        assert self._process is not None
        source = self._source.of(move)
        url = f"rsync://127.0.0.1:{self._port}/bench"
        tree = ["-r"] if source.is_dir() else []
        base = ["rsync", *_ALWAYS, *tree, *options]
        numbers = [str(number) for number in range(move.streams)]
        if move.kind is Kind.UP:
            to = [f"{url}/up/"] if tree else [f"{url}/up/{number}" for number in numbers]
            arrived = [self._data / "up" / (source.name if tree else n) for n in numbers]
            commands = [[*base, str(source), target] for target in to]
        elif move.kept:
            arrived = [self._got / source.name]
            commands = [[*base, f"{url}/{source.name}", f"{self._got}/"]]
        else:
            arrived = []
            thrown = ["--write-devices", f"{url}/{source.name}", os.devnull]
            commands = [[*base, *thrown] for _ in numbers]

        def check() -> None:
            for path in arrived:
                must_equal(path, source)

        return Way(label, partial(run_programs, commands), check, self._clean, self._process.pid)

    def _clean(self) -> None:
        for folder in (self._data / "up", self._got):
            clear(folder, self._attic)

    def _memory(self, count: int) -> float:
        """Of connections that have chosen the module; rsync has no idle state after that."""
        assert self._process is not None
        sockets = []

        def come(count: int) -> None:
            for _ in range(count):
                sockets.append(sock := _connect(self._port))
                _exchange(sock, _GREETING + b"bench\n", b"@RSYNCD: OK\n")

        try:
            come(_WARM_SESSIONS)
            before = processes.memory(self._process.pid)
            come(count)
            return (processes.memory(self._process.pid) - before) / count
        finally:
            for sock in sockets:
                sock.close()


class _Listings:
    """See crew.Task.  Connections one after the other, each with a listing of the modules."""

    def __init__(self, port: int, count: int) -> None:
        self._port = port
        self._count = count

    def prepare(self) -> None:
        pass

    def run(self) -> None:
        for _ in range(self._count):
            sock = _connect(self._port)
            _exchange(sock, _GREETING + b"#list\n", b"@RSYNCD: EXIT\n")
            sock.close()

    def verify(self) -> None:
        pass


def _connect(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), 30)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _exchange(sock: socket.socket, words: bytes, end: bytes) -> None:
    """Say `words`, read until the answer ends in `end`."""
    sock.sendall(words)
    answer = bytearray()
    while not answer.endswith(end):
        piece = sock.recv(4096)
        if not piece:
            raise BenchError(f"rsyncd left after {bytes(answer)!r}")
        answer += piece
