"""The worker's side of a configured command, and what worker and runner say to each other.

A run is one connection to the runner (AF_UNIX, SOCK_SEQPACKET):

    worker -> runner   RunRequest, with the write ends of two pipes (SCM_RIGHTS)
    runner -> worker   RunStatus or RunRefused, then the end

Closing the connection early ends the command.  The runner trusts a worker about who the user is,
and itself decides what is run and whether that user may.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from forkd.config import Command
from forkd.errors import CODES, Refusal

EVERYBODY = "*"
PACKET_MAX = 4096
_Name = Annotated[str, Meta(min_length=1, max_length=64)]


class RunRequest(Struct, frozen=True):
    """Run the command of this name for this user."""

    command: _Name
    user: _Name
    session: str = ""


class RunStatus(Struct, frozen=True, tag_field="r", tag="ended"):
    """How a command ended: its exit status, or the signal that killed it.

    With the reason "timeout" it is what the command made of being told to stop.
    """

    status: int | None
    signal: int | None
    reason: Literal["exit", "signal", "timeout"]


class RunRefused(Struct, frozen=True, tag_field="r", tag="refused"):
    """The command was not started; `code` is one of errors.CODES."""

    code: str
    message: str


encode = msgspec.json.Encoder().encode
decode_request = msgspec.json.Decoder(RunRequest).decode
_decode_answer = msgspec.json.Decoder(RunStatus | RunRefused).decode


def socket_path(runtime_dir: str, generation: int) -> str:
    """Where the runner of a generation listens."""
    return os.path.join(runtime_dir, f"runner.{generation}.sock")


def find_command(commands: Mapping[str, Command], name: str, user: str) -> Command:
    """The command, if this user may run it.  Raises Refusal (unknown-command)."""
    command = commands.get(name)
    if command is None or not {user, EVERYBODY}.intersection(command.users):
        raise Refusal("unknown-command", f"there is no command {name[:64]!r} for you here")
    return command


def commands_for(commands: Mapping[str, Command], user: str) -> list[str]:
    """The names of the commands that this user may run."""
    allowed = {user, EVERYBODY}
    return sorted(name for name, command in commands.items() if allowed & set(command.users))


class RunHandle:
    """A command under way.  All three descriptors are non-blocking, for the worker's loop.

    Once there is a status, the output is whole when neither pipe has more (its end, or nothing for
    now: a process that left the command's group may keep a pipe open).  Who wants no more of it
    calls `close`.
    """

    def __init__(self, stdout_fd: int, stderr_fd: int, status_socket: socket.socket) -> None:
        self.stdout_fd = stdout_fd
        self.stderr_fd = stderr_fd
        self.status_socket = status_socket
        self._status: RunStatus | None = None
        self._closed = False

    def read_status(self) -> RunStatus | None:
        """How it ended; None while it runs.  Raises Refusal: it did not start, or was lost."""
        if self._status is not None:
            return self._status
        try:
            packet = self.status_socket.recv(PACKET_MAX)
        except BlockingIOError:
            return None
        except OSError:
            packet = b""
        if not packet:
            raise Refusal("command-failed", "the command was cut off: the server lost it")
        answer = _decode_answer(packet)
        if isinstance(answer, RunStatus):
            self._status = answer
            return answer
        raise Refusal(answer.code if answer.code in CODES else "internal", answer.message)

    def close(self) -> None:
        """Give everything back; a command that still runs is ended.  Harmless when repeated."""
        if self._closed:
            return
        self._closed = True
        self.status_socket.close()
        os.close(self.stdout_fd)
        os.close(self.stderr_fd)


def start(
    runtime_dir: str, generation: int, command: str, user: str, session: str = ""
) -> RunHandle:
    """Ask the runner for a command; never waits.  `session` is for its log.

    Raises Refusal (busy: the runner takes nothing at the moment; bad-request).  That the runner
    refuses (unknown-command, command-failed, busy) shows in `RunHandle.read_status`.
    """
    with ExitStack() as undo, ExitStack() as write_ends:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        undo.callback(connection.close)
        connection.setblocking(False)
        try:
            pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(2)]
        except OSError:
            raise Refusal("busy", "the server has no file descriptor left; try again") from None
        for reader, writer in pipes:
            undo.callback(os.close, reader)
            write_ends.callback(os.close, writer)
            os.set_blocking(reader, False)
        packet = encode(RunRequest(command, user, session))
        if len(packet) > PACKET_MAX:
            raise Refusal("bad-request", "the name of the command is too long")
        try:
            connection.connect(socket_path(runtime_dir, generation))
            socket.send_fds(connection, [packet], [writer for _, writer in pipes])
        except OSError:
            raise Refusal("busy", "no command can be run at the moment; try again") from None
        undo.pop_all()
    return RunHandle(pipes[0][0], pipes[1][0], connection)
