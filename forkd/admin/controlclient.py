"""The client side of the control socket: one request a line, answers a line each (messages.py)."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgspec

from forkd import controlmessages, messages
from forkd.admin.exits import CtlError, Exit
from forkd.controlmessages import (
    ControlAnswer,
    ControlRequest,
    Done,
    Failed,
    Progress,
    Status,
    Stop,
)

T = TypeVar("T")
QUICK = 10.0
"""Seconds a daemon may take for an answer it has at hand."""

_LINE_MAX = 64 * 1024 * 1024


class NotRunningError(CtlError):
    """Nobody serves the control socket."""

    def __init__(self, path: str) -> None:
        super().__init__(Exit.NOT_RUNNING, f"forkd is not running (no answer on {path})")


class BrokenOffError(CtlError):
    """The daemon went away, or was silent, in the middle of an answer."""

    def __init__(self, why: str) -> None:
        super().__init__(Exit.CANNOT_TELL, why)


class RefusedError(CtlError):
    """The daemon answered `Failed`; `reason` is its code."""

    def __init__(self, answer: Failed) -> None:
        code = Exit.CANNOT_TELL if answer.code == "denied" else Exit.FAILED
        super().__init__(code, *(answer.message.splitlines() or [answer.code]))
        self.reason = answer.code


def ignore(_: str) -> None:
    """Where progress is of no interest."""


class ControlClient:
    """Speaks with the daemon whose control socket is at `path`; a connection for each request.

    Where nobody serves that path, `search` is asked for another one; it raises CtlError for none.
    """

    def __init__(self, path: str, search: Callable[[str], str] | None = None) -> None:
        self.path = path
        self._search = search

    def ask(
        self, request: ControlRequest, timeout: float | None = QUICK
    ) -> Iterator[ControlAnswer]:
        """The answers to a request, to the last; `timeout` seconds for each, None: any time.

        Raises NotRunningError, BrokenOffError, CtlError (no permission).
        """
        with self._connect() as connection:
            connection.settimeout(timeout)
            try:
                _send(connection, messages.encode(request) + b"\n")
                with connection.makefile("rb") as lines:
                    while line := lines.readline(_LINE_MAX):
                        answer = controlmessages.decode_answer(line)
                        yield answer
                        if not isinstance(answer, Progress):
                            return
            except TimeoutError:
                raise BrokenOffError(
                    f"forkd does not answer on {self.path} (waited {timeout:g} s); see its log"
                ) from None
            except (msgspec.MsgspecError, UnicodeDecodeError):
                raise BrokenOffError(
                    f"what answers on {self.path} is not understood; is forkd of another version?"
                ) from None
            except OSError as error:
                raise BrokenOffError(
                    f"the connection to {self.path} broke: {error.strerror}"
                ) from None
        raise BrokenOffError("forkd went away before it had answered; see its log")

    def call(
        self,
        request: ControlRequest,
        progress: Callable[[str], None] = ignore,
        timeout: float | None = QUICK,
    ) -> dict[str, Any]:
        """The body of the last answer; lines on the way go to `progress`.

        Raises what `ask` raises, and RefusedError.
        """
        for answer in self.ask(request, timeout):
            match answer:
                case Progress():
                    progress(answer.line)
                case Failed():
                    raise RefusedError(answer)
                case Done():
                    body: dict[str, Any] = answer.body
                    return body
        raise AssertionError("ask ends with Done or Failed")

    def get(
        self,
        request: ControlRequest,
        kind: type[T],
        progress: Callable[[str], None] = ignore,
        timeout: float | None = QUICK,
    ) -> T:
        """The last answer as what it is meant to be.  Raises what `call` raises."""
        body = self.call(request, progress, timeout)
        try:
            return msgspec.convert(body, kind)
        except msgspec.ValidationError as error:
            raise BrokenOffError(
                f"the answer on {self.path} is not understood ({error}); "
                "is forkd of another version?"
            ) from None

    def stop(self, now: bool, progress: Callable[[str], None] = ignore) -> None:
        """Stop the daemon and wait until its process is gone."""
        master = _pidfd(self.call(Status()).get("pid"))
        try:
            self.call(Stop(now), progress, timeout=None)
        except BrokenOffError:
            if master is None:
                raise
        if master is not None:
            try:
                select.select([master], [], [])
            finally:
                os.close(master)

    def _connect(self) -> socket.socket:
        try:
            return self._connect_here()
        except NotRunningError:
            if self._search is None:
                raise
            self.path, self._search = self._search(self.path), None
            return self._connect_here()

    def _connect_here(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(QUICK)
        try:
            connection.connect(self.path)
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            connection.close()
            raise NotRunningError(self.path) from None
        except PermissionError:
            connection.close()
            raise CtlError(
                Exit.CANNOT_TELL,
                f"no permission for {self.path}; run forkctl as root (server.operators may look)",
            ) from None
        except (OSError, ValueError) as error:
            connection.close()
            why = "too long a path" if "too long" in str(error) else str(error)
            raise CtlError(Exit.CANNOT_TELL, f"{self.path} cannot be reached: {why}") from None
        return connection


def _send(connection: socket.socket, line: bytes) -> None:
    try:
        connection.sendall(line)
    except (BrokenPipeError, ConnectionResetError):
        pass  # closed already by a daemon that does not serve us: its reason can still be read


def _pidfd(pid: object) -> int | None:
    """A descriptor that becomes readable when the process is gone; None where it is not seen."""
    try:
        return os.pidfd_open(pid) if isinstance(pid, int) and pid > 0 else None
    except OSError:
        return None
