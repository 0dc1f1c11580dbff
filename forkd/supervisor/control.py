"""The control socket: who may speak, one request a line, answers a line each.

Rules
  1. Who may ask for what is decided by the kernel's word on who connected (rights.py); others are
     told `denied`.
  2. Nothing here blocks, and everything has a bound: clients, a request's bytes, the bytes of
     answers that nobody reads.
  3. A client has one request under way at a time; what it sends meanwhile waits.
  4. What requests mean is not known here: each goes to `handle` with its `Asker`.
"""

from __future__ import annotations

import selectors
import socket
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from forkd.controlmessages import ControlRequest
from forkd.peercred import Caller, caller_of
from forkd.supervisor.controlsession import ControlSession
from forkd.supervisor.controlsocket import ControlSocket
from forkd.supervisor.estate import HeldClient
from forkd.supervisor.rights import DENIED, Operators, refusal

CLIENTS_MAX = 32


class Asker(Protocol):
    """Where the answers to a request go.  After `done` or `failed` the rest is swallowed."""

    def progress(self, line: str) -> None: ...

    def done(self, body: Any) -> None:
        """`body` is one of reports.py, or a dict."""

    def failed(self, code: str, message: str) -> None: ...


class Nobody:
    """The asker behind a signal: nobody listens, the log tells how it went."""

    def progress(self, line: str) -> None: ...

    def done(self, body: Any) -> None: ...

    def failed(self, code: str, message: str) -> None: ...


Handler = Callable[[ControlRequest, Asker], None]
Note = Callable[[Caller, ControlRequest, str], None]
"""Hears of every request: "" where it is carried out, else why it is refused."""


def forget(caller: Caller, request: ControlRequest, denied: str) -> None:
    """Where nobody wants to know."""


class ControlServer:
    """The listening socket and its clients, on the master's selector.

    The selector's data of each socket is a callable taking the event mask.
    """

    def __init__(
        self,
        path: str,
        selector: selectors.BaseSelector,
        handle: Handler,
        note: Note = forget,
        fd: int = -1,
    ) -> None:
        """`fd`: the socket listens at `path` already.  Raises StartError."""
        self._selector = selector
        self._handle = handle
        self._note = note
        self._operators: Operators | None = None
        self._clients: set[ControlSession] = set()
        self._listener = ControlSocket(path, CLIENTS_MAX, fd)
        self.path = path
        selector.register(self._listener.socket, selectors.EVENT_READ, self._accept)

    def admit(self, group: Operators | None) -> None:
        """From now on this group may look.  Raises OSError."""
        self._operators = group
        self._listener.admit(group)

    def close(self) -> None:
        """Give unread answers a last chance, close all, remove the file if it is still ours."""
        for client in list(self._clients):
            client.linger()
        self._selector.unregister(self._listener.socket)
        self._listener.close()

    def fileno(self) -> int:
        return self._listener.socket.fileno()

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
            try:
                client = self._session(sock, caller_of(sock), held)
            except OSError:
                sock.close()
                continue
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
        self._listener.socket.close()
        for client in self._clients:
            client.socket.close()

    def _accept(self, _mask: int) -> None:
        try:
            sock, _ = self._listener.socket.accept()
        except OSError:
            return  # it went away again, or no descriptor is left: it will be tried anew
        sock.setblocking(False)
        try:
            caller = caller_of(sock)
        except OSError:
            sock.close()
            return
        client = self._session(sock, caller)
        if denied := refusal(caller, None, self._operators):
            client.refuse(DENIED, denied)
        elif len(self._clients) >= CLIENTS_MAX:
            client.refuse("busy", f"{CLIENTS_MAX} control clients are connected already")
        else:
            self._clients.add(client)
            client.begin()

    def _session(
        self, sock: socket.socket, caller: Caller, held: HeldClient | None = None
    ) -> ControlSession:
        def serve(request: ControlRequest, asker: ControlSession) -> None:
            self._serve(caller, request, asker)

        return ControlSession(sock, self._selector, serve, self._clients.discard, held)

    def _serve(self, caller: Caller, request: ControlRequest, asker: Asker) -> None:
        denied = refusal(caller, request, self._operators)
        try:
            self._note(caller, request, denied)
            if denied:
                asker.failed(DENIED, denied)
                return
            self._handle(request, asker)
        except Exception:
            asker.failed("internal", "forkd could not carry that out; its log tells why")
            raise
