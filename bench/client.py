"""A lean client of the native protocol, for measuring the server rather than a client.

Requests are built before the clock starts.  Large contents are moved by the kernel on plain
connections, and through one buffer on TLS, where the client must encrypt.  Small files are one
exchange: all requests out, all answers in, and nothing is looked at before the clock has stopped.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import select
import socket
import ssl
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.files import digest
from bench.kernel import Drain, send_file
from bench.processes import BenchError
from forkd.digest import BlockDigest
from forkd.protocol import (
    HEADER,
    LAST,
    Engine,
    Message,
    Role,
    Type,
    decode_meta,
    frame,
    head,
)

_BUFFER = 1 << 20
_TLS_PIECE = 1 << 20
_SAMPLE = 4 << 20
_TURN = 256 * 1024
_TIMEOUT = 120


@dataclass(frozen=True)
class Place:
    """Where a server is and who one is there."""

    port: int
    user: str
    password: str
    tls: bool = False


class Session:
    """A connection; requests go out one at a time here, and answers are read frame by frame."""

    def __init__(self, place: Place) -> None:
        self.sock = socket.create_connection(("127.0.0.1", place.port))
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):  # it must stay a blocking socket
            self.sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", _TIMEOUT, 0))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if place.tls:
            self.sock = _tls_context().wrap_socket(self.sock)
        self.ask({"op": "hello", "versions": [1]})

    def log_in(self, place: Place) -> None:
        self.ask({"op": "auth", "user": place.user, "password": place.password})

    def leave(self) -> None:
        """Say goodbye, and see the server close."""
        self.ask({"op": "bye"})
        if self.sock.recv(1):
            raise BenchError("something came after the goodbye")
        self.sock.close()

    def ask(self, meta: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        """Meta and content of the answer to a request.  Raises BenchError when it is refused."""
        self.sock.sendall(frame(Type.REQUEST, 1, meta))
        content = b""
        while True:
            kind, told, length = self.read_head()
            content += self.read(length)
            if kind == Type.REPLY:
                return told, content

    def read_head(self) -> tuple[int, dict[str, Any], int]:
        """(type, meta, payload bytes that follow) of the next frame.  Raises BenchError."""
        kind, _, meta_length, _, length = HEADER.unpack(self.read(HEADER.size))
        meta = decode_meta(self.read(meta_length))
        if kind == Type.ERROR:
            raise BenchError(f"refused: {meta}")
        return kind, meta, length

    def read(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            piece = self.sock.recv(count - len(data))
            if not piece:
                raise BenchError("the server broke off")
            data += piece
        return bytes(data)


def _tls_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # a certificate of its own, on loopback
    return context


class GetLarge:
    """See crew.Task.  Throws the content away; a piece of it is got again to be verified."""

    def __init__(self, place: Place, source: Path, *, check: bool = False) -> None:
        self._place = place
        self._source = source
        self._check = check

    def prepare(self) -> None:
        self._session = Session(self._place)
        self._session.log_in(self._place)
        self._request = frame(Type.REQUEST, 2, self._get(check=self._check))
        self._drain = Drain(os.devnull)
        self._buffer = memoryview(bytearray(_BUFFER))

    def _get(self, **more: object) -> dict[str, object]:
        return {"op": "get", "path": self._source.name, **more}

    def run(self) -> None:
        session, self._came = self._session, 0
        session.sock.sendall(self._request)
        while True:
            kind, _, length = session.read_head()
            self._skip(length)
            self._came += length
            if kind == Type.REPLY:
                return

    def _skip(self, count: int) -> None:
        if not isinstance(self._session.sock, ssl.SSLSocket):
            self._drain.take(self._session.sock, count)
            return
        while count:
            came = self._session.sock.recv_into(self._buffer, min(count, _BUFFER))
            if not came:
                raise BenchError("the server broke off")
            count -= came

    def verify(self) -> None:
        size = self._source.stat().st_size
        if self._came != size:
            raise BenchError(f"{self._came} of {size} bytes came")
        offset = (size - _SAMPLE) // 2
        _, content = self._session.ask(self._get(offset=offset, length=_SAMPLE))
        if hashlib.sha256(content).hexdigest() != digest(self._source, offset, _SAMPLE):
            raise BenchError("what came is not what the file holds")


class PutLarge:
    """See crew.Task.  What arrived is compared by whoever sees the server's disk."""

    def __init__(self, place: Place, source: Path, path: str, *, check: bool = False) -> None:
        self._place = place
        self._source = source
        self._check = check
        self._path = path

    def prepare(self) -> None:
        self._session = Session(self._place)
        self._session.log_in(self._place)
        size = self._source.stat().st_size
        put: dict[str, object] = {"op": "put", "path": self._path, "size": size}
        with self._source.open("rb") as file:
            self._content = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
        if self._check:
            known = BlockDigest()
            known.update(self._content)
            put |= {"check": True, "digest": known.hexdigest()}
        self._request = frame(Type.REQUEST, 2, put)
        self._head = head(Type.DATA, 2, None, size, flags=LAST)

    def run(self) -> None:
        session = self._session
        session.sock.sendall(self._request)
        session.read(session.read_head()[2])  # INTERIM: the server is ready
        session.sock.sendall(self._head)
        if isinstance(session.sock, ssl.SSLSocket):
            for offset in range(0, len(self._content), _TLS_PIECE):
                session.sock.sendall(self._content[offset : offset + _TLS_PIECE])
        else:
            send_file(session.sock, str(self._source))
        self._kind, _, _ = session.read_head()

    def verify(self) -> None:
        if self._kind != Type.REPLY:
            raise BenchError(f"a frame of type {self._kind:#x} in the place of the reply")


class Exchange:
    """See crew.Task.  Many small files in one session: all requests out, all answers in."""

    def __init__(self, place: Place, source: Path, names: Sequence[str], target: str = "") -> None:
        """`target`: the folder on the server into which the files are put; '' gets them."""
        self._place = place
        self._source = source
        self._names = names
        self._target = target

    def prepare(self) -> None:
        self._session = Session(self._place)
        self._session.log_in(self._place)
        if self._target:
            self._session.ask({"op": "mkdir", "path": self._target})
        requests = [self._request(number, name) for number, name in enumerate(self._names, 1)]
        bye = frame(Type.REQUEST, len(self._names) + 1, {"op": "bye"})
        self._out = memoryview(b"".join([*requests, bye]))
        self._answers = memoryview(bytearray(len(self._names) * 8192 + _BUFFER))
        self._session.sock.setblocking(False)

    def _request(self, number: int, name: str) -> bytes:
        if not self._target:
            path = f"{self._source.name}/{name}"
            return frame(Type.REQUEST, number, {"op": "get", "path": path})
        content = (self._source / name).read_bytes()
        put = {"op": "put", "path": f"{self._target}/{name}", "size": len(content)}
        return frame(Type.REQUEST, number, put, content)

    def run(self) -> None:
        sock, out, have = self._session.sock, self._out, 0
        poll = select.poll()
        poll.register(sock, select.POLLIN | select.POLLOUT)
        while True:
            poll.poll(_TIMEOUT * 1000)
            if out:
                try:
                    out = out[sock.send(out[:_TURN]) :]
                except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                    pass
                if not out:
                    poll.modify(sock, select.POLLIN)
            try:
                while count := sock.recv_into(self._answers[have:]):
                    have += count
                break
            except (BlockingIOError, ssl.SSLWantReadError):
                pass
        self._have = have

    def verify(self) -> None:
        engine = Engine(Role.CLIENT)
        engine.receive(self._answers[: self._have])
        for number, name in enumerate(self._names, 1):
            answer = engine.next_event()
            if not isinstance(answer, Message) or answer.type is not Type.REPLY:
                raise BenchError(f"no reply about {name}: {answer}")
            if answer.id != number:
                raise BenchError("an answer is out of order")
            if not self._target and answer.payload != (self._source / name).read_bytes():
                raise BenchError(f"{name} came with wrong content")


class Visits:
    """See crew.Task.  Connections one after the other, each with its hello and its goodbye."""

    def __init__(self, place: Place, count: int, *, log_in: bool) -> None:
        self._place = place
        self._count = count
        self._log_in = log_in

    def prepare(self) -> None:
        pass

    def run(self) -> None:
        for _ in range(self._count):
            session = Session(self._place)
            if self._log_in:
                session.log_in(self._place)
            session.leave()

    def verify(self) -> None:
        pass
