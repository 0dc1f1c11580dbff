"""The wire of one session: engine, transport, and what waits to be sent."""

from __future__ import annotations

from forkd import protocol
from forkd.errors import Refusal
from forkd.protocol import Engine, Role, Type
from forkd.serving.transport import Transport
from forkd.verbs import ErrorMeta

OUT_MAX = 256 * 1024
"""Bytes of answers that may wait before the session takes no further request."""


class Wire:
    """Frames out, events in.  Nothing waits here: a None or False says when to park."""

    def __init__(self, transport: Transport, buffer: memoryview) -> None:
        self.transport = transport
        self.engine = Engine(Role.SERVER)
        self._buffer = buffer
        self._out: list[bytes] = []
        self._rest = memoryview(b"")
        self.waiting = 0
        """Bytes queued and not sent."""

    def queue(self, frame: bytes) -> None:
        self._out.append(frame)
        self.waiting += len(frame)

    def reply(self, ident: int, meta: object = None, payload: bytes = b"") -> None:
        self.queue(protocol.frame(Type.REPLY, ident, meta, payload))

    def interim(self, ident: int, meta: object, payload: bytes = b"") -> None:
        self.queue(protocol.frame(Type.INTERIM, ident, meta, payload))

    def data(self, ident: int, meta: object, payload: bytes) -> None:
        self.queue(protocol.frame(Type.DATA, ident, meta, payload))

    def data_head(self, ident: int, length: int, meta: object = None) -> None:
        self.queue(protocol.head(Type.DATA, ident, meta, length))

    def error(self, ident: int, refusal: Refusal) -> None:
        self.queue(error_frame(ident, refusal))

    def notice(self, what: str) -> None:
        self.queue(protocol.frame(Type.NOTICE, 0, {"notice": what}))

    def flush(self) -> bool:
        """Send what waits; False when the peer takes no more.  Raises ConnectionError."""
        while self.waiting:
            if not self._rest:
                self._rest = memoryview(b"".join(self._out))
                self._out.clear()
            count = self.transport.send(self._rest)
            if count is None:
                return False
            self._rest = self._rest[count:]
            self.waiting -= count
        self._rest = memoryview(b"")
        return True

    def fill(self) -> int | None:
        """Read once into the engine: bytes, 0 at the peer's end, None when nothing is there."""
        count = self.transport.receive_into(self._buffer)
        if count:
            self.engine.receive(self._buffer[:count])
        return count


def error_frame(ident: int, refusal: Refusal) -> bytes:
    meta = ErrorMeta(refusal.code, refusal.message, refusal.retry, refusal.fault.value)
    return protocol.frame(Type.ERROR, ident, meta)
