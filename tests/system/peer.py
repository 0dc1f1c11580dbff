"""A small client for tests: one blocking connection, frames as they are."""

from __future__ import annotations

import json
import os
import socket
import ssl
import struct
from typing import Any

HEADER = struct.Struct("!BBHIQ")
REQUEST, DATA, INTERIM, REPLY, ERROR, NOTICE = range(0xF1, 0xF7)


class RefusedError(Exception):
    """An ERROR frame."""

    def __init__(self, meta: dict[str, Any]) -> None:
        super().__init__(meta["message"])
        self.code = meta["code"]


class Peer:
    """Over AF_UNIX, TCP, or TLS; `login` on a loopback or unix connection needs no TLS."""

    def __init__(
        self,
        address: str | tuple[str, int],
        timeout: float = 60,
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        if isinstance(address, str):
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(timeout)
            self.sock.connect(address)
        else:
            self.sock = socket.create_connection(address, timeout)
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock)
        self._greet()

    @classmethod
    def over(cls, sock: socket.socket) -> Peer:
        """Over a connection that is there already; it is closed when the server refuses it."""
        peer = cls.__new__(cls)
        peer.sock = sock
        peer._greet()
        return peer

    def _greet(self) -> None:
        self._next = 0
        try:
            self.hello = self.ask({"op": "hello", "versions": [1]})[0]
        except BaseException:
            self.sock.close()
            raise

    def login(self, user: str, password: str) -> dict[str, Any]:
        return self.ask({"op": "auth", "user": user, "password": password})[0]

    def close(self) -> None:
        self.sock.close()

    def send(self, kind: int, ident: int, meta: Any = None, payload: bytes = b"", flags: int = 0):
        body = b"" if meta is None else json.dumps(meta).encode()
        self.sock.sendall(HEADER.pack(kind, flags, len(body), ident, len(payload)) + body + payload)

    def request(self, meta: dict[str, Any], payload: bytes = b"") -> int:
        self._next += 1
        self.send(REQUEST, self._next, meta, payload)
        return self._next

    def read(self) -> tuple[int, int, dict[str, Any], bytes]:
        """(type, id, meta, payload) of the next frame; EOFError at the end."""
        kind, _, meta_len, ident, length = HEADER.unpack(self._exactly(HEADER.size))
        meta = self._exactly(meta_len)
        return kind, ident, json.loads(meta) if meta else {}, self._exactly(length)

    def _exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            piece = self.sock.recv(min(count - len(data), 1 << 20))
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)

    def answer(self, ident: int) -> tuple[dict[str, Any], bytes]:
        """(meta of INTERIM and REPLY merged, content) of a request; raises RefusedError."""
        content = bytearray()
        told: dict[str, Any] = {}
        while True:
            kind, about, meta, payload = self.read()
            if kind == NOTICE:
                continue
            assert about in (ident, 0), (about, ident)
            if kind == ERROR:
                raise RefusedError(meta)
            content += payload
            told |= meta
            if kind == REPLY:
                return told, bytes(content)

    def ask(self, meta: dict[str, Any], payload: bytes = b"") -> tuple[dict[str, Any], bytes]:
        return self.answer(self.request(meta, payload))

    def put(self, path: str, content: bytes, **more: Any) -> dict[str, Any]:
        return self.ask({"op": "put", "path": path, "size": len(content), **more}, content)[0]

    def get(self, path: str, **more: Any) -> bytes:
        return self.ask({"op": "get", "path": path, **more})[1]

    def begin(self, path: str, size: int, **more: Any) -> tuple[int, dict[str, Any]]:
        """Start a streamed put: (id, meta of INTERIM); raises RefusedError."""
        ident = self.request({"op": "put", "path": path, "size": size, **more})
        kind, about, meta, _ = self.read()
        assert about == ident
        if kind == ERROR:
            raise RefusedError(meta)
        assert kind == INTERIM
        return ident, meta

    def data(self, ident: int, payload: bytes = b"", *, last: bool = False, meta: Any = None):
        self.send(DATA, ident, meta, payload, 1 if last else 0)


def noise(count: int) -> bytes:
    return os.urandom(count)
