"""FTP servers: what they have in common is how they are measured.

All of them serve the same files from the same filesystem, to the same user, with the same
certificate, and are driven by the same client.  A server of its own is a class with the methods of
`Server`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from bench import processes
from bench.crew import Task, run_together
from bench.files import Source, clear, must_equal
from bench.ftpclient import Control, Place
from bench.ftptasks import GetLarge, PutLarge, SmallFiles, Visits
from bench.moves import Kind, Move, Speech
from bench.peers import Way
from bench.processes import BenchError

USER, PASSWORD = "alice", "correct-horse-42"
UID = 12021
"""Of servers that serve as another user than theirs."""
_WARM_SESSIONS = 20


@dataclass(frozen=True, slots=True)
class Site:
    """What one server is to be started with.  Its user's files are in `home`."""

    folder: Path
    home: Path
    port: int
    cert: Path
    key: Path
    passive_ports: tuple[int, int] = (20000, 29999)
    """Below those that the kernel gives to clients, or one of them might be taken."""


class Server(Protocol):
    """How an FTP server is set up."""

    @property
    def name(self) -> str:
        """In the tables."""

    @property
    def durable(self) -> bool:
        """226 means on the disk."""

    def missing(self) -> str | None:
        """Why it cannot be measured here; None when it can."""

    def command(self, site: Site) -> list[str]:
        """What starts it in the foreground; its configuration is in `site.folder` by then."""

    def admit(self, site: Site) -> None:
        """Let USER in, once it listens."""


class Daemon:
    """A running server."""

    def __init__(self, server: Server, site: Site) -> None:
        """Raises BenchError."""
        self.site = site
        self._name = server.name
        site.home.mkdir(parents=True)
        self._log = site.folder / "log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                server.command(site),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.pid = self._process.pid
        try:
            processes.wait_until(self._serves, server.name)
            server.admit(site)
        except BaseException:
            self.stop()
            raise

    def _serves(self) -> bool:
        if self._process.poll() is not None:
            raise BenchError(f"{self._name} did not start: {self._log.read_text()}")
        try:
            Control(self.place()).leave()
        except ConnectionError:
            return False
        return True

    def place(self, *, tls: bool = False) -> Place:
        return Place(self.site.port, USER, PASSWORD, tls)

    def stop(self) -> None:
        if self._process.poll() is None:
            processes.end(self.pid)


class FtpPeer:
    """See peers.Peer."""

    speech = Speech.FTP

    def __init__(self, server: Server) -> None:
        self._server = server
        self.name = server.name
        self._daemon: Daemon | None = None

    def missing(self) -> str | None:
        return self._server.missing()

    def start(self, folder: Path, source: Source) -> None:
        self._folder = folder
        self._source = source
        self._cert, self._key = _certificate(folder)
        self._daemon = self._launch("server")
        source.serve_from(self._daemon.site.home)
        self._clean()

    def _launch(self, name: str) -> Daemon:
        folder = self._folder / name
        folder.mkdir()
        home = folder / "data" / USER
        site = Site(folder, home, processes.free_port(), self._cert, self._key)
        return Daemon(self._server, site)

    def stop(self) -> None:
        if self._daemon is not None:
            self._daemon.stop()
            self._daemon = None

    def ways(self, move: Move) -> list[Way]:
        if self._server.durable and move.kind is not Kind.UP:
            return []  # that is what the same server without durability is measured by
        match move.kind:
            case Kind.MEMORY:
                return [Way(self.name, lambda _: self._memory(move))]
            case Kind.LOGIN:
                place = self._running.place(tls=move.tls)
                return [self._way([Visits(place, move.files) for _ in range(move.streams)])]
            case Kind.UP | Kind.DOWN:
                return [self._transfer(move)]
            case Kind.CONNECT:
                return []

    @property
    def _running(self) -> Daemon:
        assert self._daemon is not None
        return self._daemon

    def _way(self, tasks: list[Task]) -> Way:
        return Way(self.name, partial(run_together, tasks), server=self._running.pid)

    def _transfer(self, move: Move) -> Way:
        """Streams share the small files, and have a large one each."""
        place, source = self._running.place(tls=move.tls), self._source.of(move)
        shares = [self._source.names[n :: move.streams] for n in range(move.streams)]
        up = move.kind is Kind.UP

        def task(number: int) -> Task:
            target = f"up/{number}"
            if move.files > 1:
                return SmallFiles(place, source, shares[number], target if up else "")
            return PutLarge(place, source, target) if up else GetLarge(place, source)

        def check() -> None:
            for number, names in enumerate(shares):
                must_equal(self._running.site.home / "up" / str(number), source, names)

        measure = partial(run_together, [task(number) for number in range(move.streams)])
        if not up:
            return Way(self.name, measure, server=self._running.pid)
        return Way(self.name, measure, check, self._clean, self._running.pid)

    def _clean(self) -> None:
        folder = self._running.site.home / "up"
        clear(folder, self._folder / "attic")
        if os.geteuid() == 0:
            os.chown(folder, UID, UID)

    def _memory(self, move: Move) -> float:
        """In a server of its own, whose heap holds no room that others have left."""
        daemon = self._launch(move.name)
        sessions: list[Control] = []

        def log_in(count: int) -> None:
            for _ in range(count):
                sessions.append(session := Control(daemon.place(tls=move.tls)))
                session.log_in()

        try:
            log_in(_WARM_SESSIONS)
            before = processes.memory(daemon.pid)
            log_in(move.files)
            return (processes.memory(daemon.pid) - before) / move.files
        finally:
            for session in sessions:
                session.sock.close()
            daemon.stop()


def _certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate on P-256, which is what forkd makes for itself."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    name = ["-subj", "/CN=localhost", "-days", "30"]
    made = ["openssl", "req", "-x509", *curve, *name, "-keyout", str(key), "-out", str(cert)]
    subprocess.run(made, check=True, capture_output=True)
    return cert, key


def program(name: str) -> str | None:
    """A server's program: on the PATH, or below the folder that FORKD_BENCH_SERVERS names."""
    root = os.environ.get("FORKD_BENCH_SERVERS", "/")
    places = [f"{root}/usr/sbin", f"{root}/usr/bin", os.environ.get("PATH", os.defpath)]
    return shutil.which(name, path=os.pathsep.join(places))


def missing_programs(*names: str) -> str | None:
    """Why a server that consists of these, and becomes another user, cannot be measured."""
    for name in names:
        if program(name) is None:
            return f"{name} is not installed"
    return None if os.geteuid() == 0 else "only root can start it"


def crypted() -> str:
    """PASSWORD as crypt(3) with SHA-512 and 5000 rounds has it."""
    made = subprocess.run(
        ["openssl", "passwd", "-6", PASSWORD], check=True, capture_output=True, text=True
    )
    return made.stdout.strip()
