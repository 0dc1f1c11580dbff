"""The control socket: who may speak, one request a line, answers a line each.

Rules
  1. Only root and the daemon's own user are heard (SO_PEERCRED, unix(7)); others are told `denied`.
  2. Nothing here blocks, and everything has a bound: clients, a request's bytes, the bytes of
     answers that nobody reads.
  3. A client has one request under way at a time; what it sends meanwhile waits.
  4. What requests mean is not known here: each goes to `handle` with its `Asker`.
"""

from __future__ import annotations

import os
import selectors
import socket
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from forkd.errors import StartError
from forkd.messages import ControlRequest
from forkd.peercred import is_trusted
from forkd.supervisor.controlsession import ControlSession
from forkd.supervisor.estate import HeldClient

CLIENTS_MAX = 32


class Asker(Protocol):
    """Where the answers to a request go.  After `done` or `failed` the rest is swallowed."""

    def progress(self, line: str) -> None: ...

    def done(self, body: dict[str, Any]) -> None: ...

    def failed(self, code: str, message: str) -> None: ...


class Nobody:
    """The asker behind a signal: nobody listens, the log tells how it went."""

    def progress(self, line: str) -> None: ...

    def done(self, body: dict[str, Any]) -> None: ...

    def failed(self, code: str, message: str) -> None: ...


Handler = Callable[[ControlRequest, Asker], None]


class ControlServer:
    """The listening socket and its clients, on the master's selector.

    The selector's data of each socket is a callable taking the event mask.
    """

    def __init__(
        self, path: str, selector: selectors.BaseSelector, handle: Handler, fd: int = -1
    ) -> None:
        """`fd`: the socket listens at `path` already.  Raises StartError."""
        self.path = path
        self._selector = selector
        self._handle = handle
        self._clients: set[ControlSession] = set()
        self._socket = _listen(path) if fd < 0 else socket.socket(fileno=fd)
        self._file = _identity(path)
        selector.register(self._socket, selectors.EVENT_READ, self._accept)

    def close(self) -> None:
        """Give unread answers a last chance, close all, remove the file if it is still ours."""
        for client in list(self._clients):
            client.linger()
        self._selector.unregister(self._socket)
        self._socket.close()
        try:
            if self._file and _identity(self.path) == self._file:
                os.unlink(self.path)
        except OSError:
            pass

    def fileno(self) -> int:
        return self._socket.fileno()

    def hand_over(self, kept: Asker, code: str, message: str) -> tuple[HeldClient, ...]:
        """The connections, of which only `kept` waits for an answer; the others are refused."""
        for client in list(self._clients):
            if client is not kept:
                client.refuse_request(code, message)
        return tuple(c.held(c is kept) for c in self._clients if c.is_flushed)

    def take_over(self, clients: Iterable[HeldClient]) -> Asker:
        """Go on with connections; the `Asker` of the one that waits.  `resume` serves the rest."""
        asker: Asker = Nobody()
        for held in clients:
            sock = socket.socket(fileno=held.fd)
            sock.setblocking(False)
            forget = self._clients.discard
            client = ControlSession(sock, self._selector, self._handle, forget, held)
            self._clients.add(client)
            if held.asking:
                asker = client
        return asker

    def resume(self) -> None:
        """Take what the connections that were taken over have sent."""
        for client in list(self._clients):
            client.begin()

    def release(self) -> None:
        """For a child: close the descriptors, touch neither selector nor file."""
        self._socket.close()
        for client in self._clients:
            client.socket.close()

    def _accept(self, _mask: int) -> None:
        try:
            sock, _ = self._socket.accept()
        except OSError:
            return  # it went away again, or no descriptor is left: it will be tried anew
        sock.setblocking(False)
        client = ControlSession(sock, self._selector, self._handle, self._clients.discard)
        if not is_trusted(sock):
            client.refuse("denied", "only root and the daemon's own user may steer forkd")
        elif len(self._clients) >= CLIENTS_MAX:
            client.refuse("busy", f"{CLIENTS_MAX} control clients are connected already")
        else:
            self._clients.add(client)
            client.begin()


def _identity(path: str) -> tuple[int, int] | None:
    """Which file is there; None: it was taken away."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _listen(path: str) -> socket.socket:
    """The daemon's lock says that nobody else serves here, so what is in the way is stale."""
    sock = socket.socket(
        socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    )
    try:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        before = os.umask(0o177)
        try:
            sock.bind(path)
        finally:
            os.umask(before)
        sock.listen(CLIENTS_MAX)
        return sock
    except OSError as error:
        sock.close()
        reason = error.strerror or str(error)
        raise StartError(f"control socket {path}: {reason}") from None
