"""run: a configured command's output, streamed as it comes."""

from __future__ import annotations

import os

from forkd.doors.native.context import Context
from forkd.errors import Refusal
from forkd.helpers import runclient
from forkd.serving.session import AGAIN, Closed, Outcome, Park
from forkd.serving.transport import LEAVING, has_left

_READ = 64 * 1024
_ENGINE_MAX = 64 * 1024
"""Bytes of further requests that are read while a command runs."""


class Running:
    """The answer to a run.  The command is ended when the client leaves."""

    def __init__(self, context: Context, ident: int, command: str, user: str) -> None:
        self.ident = ident
        self._context = context
        config = context.core.config
        self._left: int = runclient.find_command(config.commands, command, user).max_output
        self._patience = config.commands[command].timeout + 30
        self._handle = runclient.start(
            *(config.server.runtime_dir, context.core.generation),
            *(command, user, context.peer.session),
        )
        self._open = {self._handle.stdout_fd: "stdout", self._handle.stderr_fd: "stderr"}
        self._status: runclient.RunStatus | None = None
        self._told = False
        context.activity.state, context.activity.path = "running", command

    def step(self) -> Outcome | None:
        context, wire = self._context, self._context.wire
        if not wire.flush():
            return Park(wire.transport.wants, context.core.config.limits.stall_timeout)
        if self._status is None:
            self._status = self._handle.read_status()
        if not self._told:
            self._told = True
            wire.interim(self.ident, {})
        moved = self._move_output()
        if self._left < 0:
            self._end("output-limit", None, None)
            return None
        if moved:
            return AGAIN
        if self._status is not None:
            self._end(self._status.reason, self._status.status, self._status.signal)
            return None
        return self._wait()

    def _move_output(self) -> bool:
        """Read from each pipe once; True when something came."""
        moved = False
        for fd, stream in list(self._open.items()):
            try:
                output = os.read(fd, min(_READ, self._left + 1))
            except BlockingIOError:
                continue
            if not output:
                del self._open[fd]
                self._context.core.unwatch(fd)
                continue
            allowed = output[: self._left]
            self._left -= len(output)
            self._context.wire.data(self.ident, {"stream": stream}, allowed)
            moved = True
            if self._left < 0:
                break
        return moved

    def _wait(self) -> Outcome:
        """Until output, the end, or the client's leaving."""
        wire, core = self._context.wire, self._context.core
        for fd in (*self._open, self._handle.status_socket.fileno()):
            core.watch(fd, self._context.peer.wake)
        if not wire.flush():
            return Park(wire.transport.wants, core.config.limits.stall_timeout)
        if wire.engine.buffered >= _ENGINE_MAX:
            left, wants = has_left(wire.transport), LEAVING
        else:
            count = wire.fill()
            if count:
                return AGAIN
            left, wants = count == 0, wire.transport.wants
        if left:
            return Closed("the client left while a command ran")
        return Park(wants, self._patience)

    def _end(self, reason: str, status: int | None, signal: int | None) -> None:
        self._close()
        self._context.core.row.add("commands_total")
        self._context.core.log.info(
            "command",
            name=self._context.activity.path,
            user=self._context.activity.user,
            session=self._context.peer.session,
            reason=reason,
            status=status,
            signal=signal,
        )
        meta = {"status": status, "signal": signal, "reason": reason}
        self._context.wire.reply(self.ident, meta)
        self._idle()

    def failed(self, refusal: Refusal) -> None:
        self._close()
        self._context.refuse(self.ident, refusal)
        self._idle()

    def abandon(self) -> None:
        self._close()

    def _idle(self) -> None:
        self._context.activity.state, self._context.activity.path = "idle", ""

    def _close(self) -> None:
        for fd in (*self._open, self._handle.status_socket.fileno()):
            if fd >= 0:
                self._context.core.unwatch(fd)
        self._handle.close()
