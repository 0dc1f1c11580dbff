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
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from forkd.errors import StartError
from forkd.messages import (
    ControlAnswer,
    ControlRequest,
    Done,
    Failed,
    Progress,
    decode_control,
    encode,
)
from forkd.peercred import is_trusted

CLIENTS_MAX = 32
REQUEST_MAX = 65536
"""Bytes of one request."""
UNREAD_MAX = 64 * 1024**2
"""Bytes of answers a client may leave unread; a list of all sessions fits."""
LINGER = 0.2
"""Seconds a last answer may take to be written when the connection is closed."""


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

    def __init__(self, path: str, selector: selectors.BaseSelector, handle: Handler) -> None:
        self.path = path
        self._selector = selector
        self._handle = handle
        self._clients: set[Client] = set()
        self._socket, self._file = _listen(path)
        selector.register(self._socket, selectors.EVENT_READ, self._accept)

    def close(self) -> None:
        """Give unread answers a last chance, close all, remove the file if it is still ours."""
        for client in list(self._clients):
            client.linger()
        self._selector.unregister(self._socket)
        self._socket.close()
        try:
            if _identity(self.path) == self._file:
                os.unlink(self.path)
        except OSError:
            pass

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
        client = Client(sock, self._selector, self._handle, self._clients.discard)
        if not is_trusted(sock):
            client.refuse("denied", "only root and the daemon's own user may steer forkd")
        elif len(self._clients) >= CLIENTS_MAX:
            client.refuse("busy", f"{CLIENTS_MAX} control clients are connected already")
        else:
            self._clients.add(client)
            client.begin()


class Client:
    """One connection, and the `Asker` of its request."""

    def __init__(
        self,
        sock: socket.socket,
        selector: selectors.BaseSelector,
        handle: Handler,
        forget: Callable[[Client], None],
    ) -> None:
        self.socket = sock
        self._selector = selector
        self._handle = handle
        self._forget = forget
        self._unread = bytearray()
        self._unsent = bytearray()
        self._asking = False
        self._taking = False
        self._hung_up = False
        self._mask = 0
        self._closed = False

    # -- Asker

    def progress(self, line: str) -> None:
        self._answer(Progress(line))

    def done(self, body: dict[str, Any]) -> None:
        self._finish(Done(body))

    def failed(self, code: str, message: str) -> None:
        self._finish(Failed(code, message))

    # -- life

    def begin(self) -> None:
        self._watch()

    def refuse(self, code: str, message: str) -> None:
        """Tell one who is not served, and close."""
        self._unsent += encode(Failed(code, message)) + b"\n"
        self.linger()

    def linger(self) -> None:
        """Write what is unsent, for a moment at most, and close."""
        self.socket.settimeout(LINGER)
        try:
            self.socket.sendall(self._unsent)
        except OSError:
            pass
        self._close()

    def _on_event(self, mask: int) -> None:
        if mask & selectors.EVENT_READ and not self._closed:
            self._read()
        if mask & selectors.EVENT_WRITE and not self._closed:
            self._flush()

    def _read(self) -> None:
        try:
            data = self.socket.recv(REQUEST_MAX)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._close()
            return
        self._unread += data
        self._hung_up = not data
        self._next()

    def _next(self) -> None:
        """Take the next requests from what was read, until one is not answered at once."""
        self._taking = True
        while not self._asking and not self._closed:
            line, newline, rest = self._unread.partition(b"\n")
            if not newline and len(self._unread) <= REQUEST_MAX:
                break
            self._asking = True
            if not newline:
                self._hung_up = True
                self.failed("bad-request", f"a request has at most {REQUEST_MAX} bytes")
                break
            self._unread = rest
            try:
                request = decode_control(line)
            except msgspec.DecodeError as error:
                self.failed("bad-request", f"this is no request forkd understands: {error}")
                continue
            self._handle(request, self)
        self._taking = False
        self._watch()

    def _finish(self, answer: ControlAnswer) -> None:
        self._answer(answer)
        self._asking = False
        if not self._taking:
            self._next()

    def _answer(self, answer: ControlAnswer) -> None:
        if self._closed or not self._asking:
            return
        self._unsent += encode(answer) + b"\n"
        if len(self._unsent) > UNREAD_MAX:
            self._close()
            return
        self._flush()

    def _flush(self) -> None:
        try:
            while self._unsent:
                del self._unsent[: self.socket.send(self._unsent)]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._close()
            return
        self._watch()

    def _watch(self) -> None:
        """Ask the selector for what can be done now; close when there is nothing left to do."""
        if self._closed:
            return
        mask = selectors.EVENT_WRITE if self._unsent else 0
        if not self._hung_up and len(self._unread) <= REQUEST_MAX:
            mask |= selectors.EVENT_READ
        if not mask and not self._asking:
            self._close()
        elif mask != self._mask:
            if not self._mask:
                self._selector.register(self.socket, mask, self._on_event)
            elif not mask:
                self._selector.unregister(self.socket)
            else:
                self._selector.modify(self.socket, mask, self._on_event)
            self._mask = mask

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._mask:
            self._selector.unregister(self.socket)
        self.socket.close()
        self._forget(self)


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _listen(path: str) -> tuple[socket.socket, tuple[int, int]]:
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
        return sock, _identity(path)
    except OSError as error:
        sock.close()
        reason = error.strerror or str(error)
        raise StartError(f"control socket {path}: {reason}") from None
