"""forkd, as it ships: configured with its folders, ports and durability, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench import processes
from bench.client import Exchange, GetLarge, Place, PutLarge, Session, Visits
from bench.crew import Task, run_together
from bench.files import Source, clear, must_equal
from bench.moves import Kind, Move, Speech
from bench.peers import Way
from bench.processes import BenchError, Meter
from bench.programs import run_programs

_BIN = Path(sys.executable).parent
_USER, _PASSWORD = "alice", "correct horse 42"
_WARM_SESSIONS = 20
_CONFIG = """\
[server]
state_dir = "{folder}/state"
runtime_dir = "{folder}/run"
pidfile = "{folder}/run/forkd.pid"
[listen]
native = ["127.0.0.1:{port}"]
[storage]
path = "{folder}/data"
durability = "{durability}"
[metrics]
listen = ""
"""


class Daemon:
    """A running forkd with one account."""

    def __init__(self, folder: Path, durability: str) -> None:
        self.home = folder / "data" / _USER
        self.port = processes.free_port()
        self._config = folder / "forkd.toml"
        folder.mkdir(parents=True)
        text = _CONFIG.format(folder=folder, port=self.port, durability=durability)
        self._config.write_text(text)
        self._log = folder / "log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [_BIN / "forkd", "serve", "-c", self._config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.pid = self._process.pid
        try:
            processes.wait_until(self._serves, "forkd")
            self._control("user", "add", _USER, "--password-stdin", "--quota", "unlimited")
        except BaseException:
            self.stop()
            raise

    def _serves(self) -> bool:
        try:
            Session(self.place()).leave()
        except ConnectionError:
            if self._process.poll() is not None:
                raise BenchError(f"forkd did not start: {self._log.read_text()}") from None
            return False
        return True

    def _control(self, *command: str) -> None:
        subprocess.run(
            [_BIN / "forkctl", "-c", self._config, *command],
            input=_PASSWORD,
            text=True,
            check=True,
            capture_output=True,
        )

    def place(self, *, tls: bool = False) -> Place:
        return Place(self.port, _USER, _PASSWORD, tls)

    def url(self, path: str, *, tls: bool) -> str:
        scheme = "forkd" if tls else "forkd+plain"
        return f"{scheme}://{_USER}@127.0.0.1:{self.port}/{path}"

    def stop(self) -> None:
        if self._process.poll() is None:
            processes.end(self.pid)


class Forkd:
    """One with `durable` answers for durable uploads, one without for all other moves."""

    speech = Speech.NATIVE

    def __init__(self, *, durable: bool) -> None:
        self._durable = durable
        self._durability = "group" if durable else "none"
        self.name = f"forkd, durability {self._durability}"
        self._daemon: Daemon | None = None

    def missing(self) -> str | None:
        return None

    def start(self, folder: Path, source: Source) -> None:
        self._folder = folder
        self._source = source
        self._got = folder / "got"
        self._daemon = Daemon(folder / "server", self._durability)
        source.serve_from(self._daemon.home)
        self._clean()

    def stop(self) -> None:
        if self._daemon is not None:
            self._daemon.stop()
            self._daemon = None

    def ways(self, move: Move) -> list[Way]:
        if move.durable != self._durable:
            return []
        match move.kind:
            case Kind.MEMORY:
                return [
                    self._way("forkd", lambda _: self._memory(move, tls=False)),
                    self._way("forkd TLS", lambda _: self._memory(move, tls=True)),
                ]
            case Kind.CONNECT | Kind.LOGIN:
                return [self._visits(move, tls=False), self._visits(move, tls=True)]
            case Kind.UP | Kind.DOWN:
                return [*self._lean_ways(move), *self._program_ways(move)]

    def _running(self) -> Daemon:
        assert self._daemon is not None
        return self._daemon

    # the lean client

    def _lean_ways(self, move: Move) -> list[Way]:
        if move.kept or (move.count == 1 and not move.large):
            return []
        ways = [self._lean("forkd", move, tls=False)]
        if move.large and move.streams == 1:
            ways.append(self._lean("forkd digest", move, tls=False, check=True))
        ways.append(self._lean("forkd TLS", move, tls=True))
        return ways

    def _lean(self, label: str, move: Move, *, tls: bool, check: bool = False) -> Way:
        place, source = self._running().place(tls=tls), self._source.of(move)

        def task(number: int) -> Task:
            path = f"up/{number}"
            if move.files > 1:
                return Exchange(
                    place, source, self._source.names, path if move.kind is Kind.UP else ""
                )
            if move.kind is Kind.UP:
                return PutLarge(place, source, path, check=check)
            return GetLarge(place, source, check=check)

        tasks = [task(number) for number in range(move.streams)]
        arrived = [self._running().home / "up" / str(number) for number in range(move.streams)]
        return self._transfer(label, move, partial(run_together, tasks), arrived)

    def _transfer(
        self, label: str, move: Move, measure: Callable[[Meter], float], arrived: list[Path]
    ) -> Way:
        """`arrived` are the files or folders that an upload or a kept download ends in."""
        source = self._source.of(move)

        def check() -> None:
            for path in arrived:
                must_equal(path, source)

        if move.kind is Kind.DOWN and not move.kept:
            return self._way(label, measure)
        return Way(label, measure, check, self._clean, self._running().pid)

    def _clean(self) -> None:
        for folder in (self._running().home / "up", self._got):
            clear(folder, self._folder / "attic")

    def _way(self, label: str, measure: Callable[[Meter], float]) -> Way:
        return Way(label, measure, server=self._running().pid)

    def _visits(self, move: Move, *, tls: bool) -> Way:
        log_in = move.kind is Kind.LOGIN
        place = self._running().place(tls=tls)
        tasks = [Visits(place, move.files, log_in=log_in) for _ in range(move.streams)]
        return self._way("forkd TLS" if tls else "forkd", partial(run_together, tasks))

    # the real program

    def _program_ways(self, move: Move) -> list[Way]:
        if move.streams > 1 or (move.kind is Kind.DOWN and not move.kept):
            return []
        ways = [self._program("forkc", move, tls=False)]
        if move.large and not move.durable:
            ways.append(self._program("forkc --no-check", move, "--no-check", tls=False))
        ways.append(self._program("forkc TLS", move, tls=True))
        return ways

    def _program(self, label: str, move: Move, *options: str, tls: bool) -> Way:
        daemon, source = self._running(), self._source.of(move)
        tree = ["-r"] if source.is_dir() else []
        if move.kind is Kind.UP:
            words = ["put", "-q", *tree, *options, str(source), daemon.url("up/", tls=tls)]
            target = daemon.home / "up"
        else:
            url = daemon.url(source.name, tls=tls)
            words = ["get", "-q", *tree, *options, url, f"{self._got}/"]
            target = self._got
        environment = {"FORKC_PASSWORD": _PASSWORD, "XDG_CONFIG_HOME": str(self._folder)}
        command = [str(_BIN / "forkc"), *words]
        measure = partial(run_programs, [command], environment=environment)
        return self._transfer(label, move, measure, [target / source.name])

    # memory

    def _memory(self, move: Move, *, tls: bool) -> float:
        """In a daemon of its own, whose heap holds no room that others have left."""
        folder = self._folder / f"memory-{'tls' if tls else 'plain'}"
        daemon = Daemon(folder, self._durability)
        place = daemon.place(tls=tls)
        sessions = []

        def log_in(count: int) -> None:
            for _ in range(count):
                session = Session(place)
                session.log_in(place)
                sessions.append(session)

        try:
            log_in(_WARM_SESSIONS)
            before = processes.memory(daemon.pid)
            log_in(move.files)
            return (processes.memory(daemon.pid) - before) / move.files
        finally:
            for session in sessions:
                session.sock.close()
            daemon.stop()
