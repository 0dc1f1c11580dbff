"""The helper process that runs the commands which the administrator configured.

Rules
  1. What runs is an argument list from the configuration, never a shell line; a peer chooses a name
     only.  Whether the user may is decided here again, whatever the worker has checked.
  2. A run ends with its group: at the command's end whatever it left in its group is killed.
  3. A run that is over its time, or that nobody reads any more, is ended (command.py).

States of a connection:

    WAITING --request--> RUNNING --command ends--> status sent, closed
            --anything else--> refused, closed      --timeout, EOF--> ENDING --KILL--> ...
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from functools import partial

import msgspec

from forkd.childlink import ChildLink
from forkd.config import Command
from forkd.errors import Refusal, StartError
from forkd.helpers import runclient
from forkd.helpers.command import Run, spawn
from forkd.helpers.runclient import RunRefused, RunStatus
from forkd.link import Link
from forkd.log import Log, open_log
from forkd.messages import Drain, Ready, SetLogLevel
from forkd.peercred import is_trusted
from forkd.seat import ChildSeat
from forkd.title import set_title

MAX_RUNS = 16
"""Commands at a time."""
MAX_WAITING = 64
"""Connections without a request at a time."""
REQUEST_SECONDS = 5.0


def main(seat: ChildSeat) -> int:
    """Serve until the master says `Drain` or is gone and no command runs.  Raises StartError."""
    log = open_log(seat.config.log, process="runner")
    path = runclient.socket_path(seat.config.server.runtime_dir, seat.generation)
    with _listen(path) as listener:
        runner = Runner(seat.config.commands, listener, ChildLink(seat.link, log), log)
        set_title("runner")
        runner.serve()
    return 0


def _listen(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        if os.path.lexists(path):
            os.unlink(path)
        listener.bind(path)
        os.chmod(path, 0o600)
        listener.listen(MAX_WAITING)
    except OSError as error:
        listener.close()
        raise StartError(f"{path}: cannot be made: {error.strerror or error}") from None
    listener.setblocking(False)
    return listener


class Runner:
    """The loop.  `serve` returns when it is time to leave and nothing runs."""

    def __init__(
        self, commands: Mapping[str, Command], listener: socket.socket, link: Link, log: Log
    ) -> None:
        self._commands = commands
        self._listener = listener
        self._path: str = listener.getsockname()
        self._inode = os.stat(self._path).st_ino
        self._link = link
        self._log = log
        self._waiting: dict[socket.socket, float] = {}
        self._runs: set[Run] = set()
        self._leaving = False
        self._cut_at = float("inf")
        self._selector = selectors.DefaultSelector()

    def serve(self) -> None:
        self._watch(self._listener, self._accept)
        self._watch(self._link, self._hear)
        self._link.send(Ready())
        with self._selector:
            while self._runs or not self._leaving:
                for key, _ in self._selector.select(self._timeout()):
                    self._handle(key)
                self._check_deadlines()

    def _handle(self, key: selectors.SelectorKey) -> None:
        """One event, unless what it is about was given up by an earlier one of the same round."""
        current = self._selector.get_map().get(key.fd)
        if current is not None and current.data is key.data:
            handle: Callable[[], None] = key.data
            handle()

    def _watch(self, what: socket.socket | Link | int, handle: Callable[[], None]) -> None:
        self._selector.register(what, selectors.EVENT_READ, handle)

    def _timeout(self) -> float | None:
        """Seconds until something is due; None: nothing is."""
        due = min([self._cut_at, *self._waiting.values(), *(run.deadline for run in self._runs)])
        return None if due == float("inf") else max(0.0, due - time.monotonic())

    def _check_deadlines(self) -> None:
        now = time.monotonic()
        for connection in [c for c, deadline in self._waiting.items() if now >= deadline]:
            self._forget(connection)
        for run in self._runs:
            if now >= run.deadline:
                run.end("timeout")
        if now >= self._cut_at:
            self._cut_at = float("inf")
            for run in self._runs:
                run.end("stop")

    # the master

    def _hear(self) -> None:
        told = self._link.receive()
        for message in told:
            if isinstance(message, SetLogLevel):
                self._log.set_level(message.level)
            if isinstance(message, Drain):
                self._leave()
                if message.timeout is not None:
                    self._cut_at = time.monotonic() + message.timeout
        if self._link.eof or self._link.fault:
            self._selector.unregister(self._link)
            self._leave()

    def _leave(self) -> None:
        """Take nothing new; what runs may run to its end."""
        if self._leaving:
            return
        self._leaving = True
        self._selector.unregister(self._listener)
        self._listener.close()
        try:
            if os.stat(self._path).st_ino == self._inode:
                os.unlink(self._path)
        except OSError:
            pass
        for connection in list(self._waiting):
            self._refuse(connection, "busy", "the server is leaving; try again")

    # the workers

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        connection.setblocking(False)
        if not is_trusted(connection):
            connection.close()
            return
        self._waiting[connection] = time.monotonic() + REQUEST_SECONDS
        self._watch(connection, partial(self._read_request, connection))
        if len(self._waiting) > MAX_WAITING:
            self._refuse(connection, "busy", "too many commands are asked for; try again")

    def _read_request(self, connection: socket.socket) -> None:
        fds: list[int] = []
        try:
            packet, fds, _, _ = socket.recv_fds(
                connection, runclient.PACKET_MAX, 2, socket.MSG_CMSG_CLOEXEC
            )
            if not packet:
                self._forget(connection)
                return
            self._begin(connection, packet, fds)
        except BlockingIOError:
            return
        except OSError:
            self._forget(connection)
        except Refusal as refusal:
            self._refuse(connection, refusal.code, refusal.message)
        finally:
            for fd in fds:
                os.close(fd)

    def _begin(self, connection: socket.socket, packet: bytes, fds: list[int]) -> None:
        """Start what is asked for.  Raises Refusal."""
        try:
            request = runclient.decode_request(packet)
        except msgspec.MsgspecError as error:
            raise Refusal("bad-request", f"the request is malformed: {error}") from None
        if len(fds) != 2:
            raise Refusal("bad-request", "a run needs two pipes")
        command = runclient.find_command(self._commands, request.command, request.user)
        if len(self._runs) >= MAX_RUNS:
            raise Refusal("busy", f"{MAX_RUNS} commands are running; try again")
        try:
            process, pidfd = spawn(
                command.exec, {"FORKD_USER": request.user}, stdout=fds[0], stderr=fds[1]
            )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            self._log.error(
                "command-not-started",
                **_fields(request),
                program=command.exec[0],
                error=str(error),
            )
            message = f"the command {request.command!r} cannot be started; ask the administrator"
            raise Refusal("command-failed", message) from None
        now = time.monotonic()
        run = Run(
            process=process,
            pidfd=pidfd,
            started=now,
            deadline=now + command.timeout,
            connection=connection,
            request=request,
        )
        del self._waiting[connection]
        self._runs.add(run)
        self._selector.modify(connection, selectors.EVENT_READ, partial(self._hear_worker, run))
        self._watch(run.pidfd, partial(self._ended, run))
        self._log.info("command-started", **_fields(request), pid=process.pid)

    def _hear_worker(self, run: Run) -> None:
        """A worker has nothing to say during a run: what comes is its end."""
        try:
            if run.connection.recv(runclient.PACKET_MAX):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._selector.unregister(run.connection)
        run.end("closed")

    def _ended(self, run: Run) -> None:
        run.signal_group(signal.SIGKILL)  # what it left behind
        status = run.status(run.process.wait())
        self._selector.unregister(run.pidfd)
        os.close(run.pidfd)
        self._runs.remove(run)
        self._answer(run.connection, status)
        self._log.info(
            "command-ended",
            **_fields(run.request),
            status=status.status,
            signal=status.signal,
            reason=run.cut or status.reason,
            seconds=round(time.monotonic() - run.started, 3),
        )

    def _refuse(self, connection: socket.socket, code: str, message: str) -> None:
        self._waiting.pop(connection, None)
        self._answer(connection, RunRefused(code, message))

    def _forget(self, connection: socket.socket) -> None:
        self._waiting.pop(connection, None)
        self._answer(connection, None)

    def _answer(self, connection: socket.socket, answer: RunStatus | RunRefused | None) -> None:
        """The last word on a connection."""
        if connection in self._selector.get_map():
            self._selector.unregister(connection)
        if answer is not None:
            try:
                connection.send(runclient.encode(answer))
            except OSError:
                pass  # nobody waits for it any more
        connection.close()


def _fields(request: runclient.RunRequest) -> dict[str, str]:
    return {"command": request.command, "user": request.user, "session": request.session}
