"""One connection to the control socket: requests in, answers out, one at a time.

The selector's data of its socket is a callable taking the event mask.
"""

from __future__ import annotations

import select
import selectors
import socket
from collections.abc import Callable
from typing import Any

import msgspec

from forkd.controlmessages import (
    ControlAnswer,
    ControlRequest,
    Done,
    Failed,
    Progress,
    decode_control,
)
from forkd.messages import encode
from forkd.supervisor.estate import HeldClient

REQUEST_MAX = 65536
"""Bytes of one request."""
UNREAD_MAX = 64 * 1024**2
"""Bytes of answers a client may leave unread; a list of all sessions fits."""
LINGER = 0.2
"""Seconds a last answer may take to be written when the connection is closed."""


class ControlSession:
    """One connection, and the `Asker` of its request."""

    def __init__(
        self,
        sock: socket.socket,
        selector: selectors.BaseSelector,
        handle: Callable[[ControlRequest, ControlSession], None],
        forget: Callable[[ControlSession], None],
        held: HeldClient | None = None,
    ) -> None:
        self.socket = sock
        self._selector = selector
        self._handle = handle
        self._forget = forget
        self._unread = bytearray(held.unread if held else b"")
        self._unsent = bytearray()
        self._asking = held is not None and held.asking
        self._taking = False
        self._hung_up = False
        self._mask = 0
        self._closed = False

    # -- Asker

    def progress(self, line: str) -> None:
        self._answer(Progress(line))

    def done(self, body: Any) -> None:
        self._finish(Done(body))

    def failed(self, code: str, message: str) -> None:
        self._finish(Failed(code, message))

    # -- life

    def begin(self) -> None:
        """Take requests, the first one of what was read already."""
        if self._asking:
            self._watch()
        else:
            self._next()

    @property
    def is_flushed(self) -> bool:
        """Whether nothing waits to be written, so that another program could go on with it."""
        return not self._closed and not self._unsent

    def held(self, asking: bool) -> HeldClient:
        """For the program that goes on with it."""
        return HeldClient(self.socket.fileno(), bytes(self._unread), asking)

    def refuse_request(self, code: str, message: str) -> None:
        """Answer the request that is under way, if any, and begin no other one."""
        if self._asking:
            self._taking = True
            self.failed(code, message)
            self._taking = False

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
        if self._hung_up and self._asking and b"\n" not in self._unread and self._is_alone():
            self._close()  # else it would be held until it is answered: a drain may take days
            return
        self._next()

    def _is_alone(self) -> bool:
        """The client has not only ended its side: nobody is there to hear an answer."""
        poll = select.poll()
        poll.register(self.socket, 0)  # POLLHUP always
        return bool(poll.poll(0))

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
