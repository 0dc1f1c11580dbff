"""What FTP clients do in a benchmark; see crew.Task."""

from __future__ import annotations

import hashlib
import mmap
import os
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path

from bench.files import digest
from bench.ftpclient import BUFFER, Control, Place, Reader, logged_in
from bench.kernel import Drain, send_file
from bench.processes import BenchError

_SAMPLE = 4 << 20


class GetLarge:
    """See crew.Task.  Throws the content away; a piece of it is got again to be verified."""

    def __init__(self, place: Place, source: Path) -> None:
        self._place = place
        self._source = source
        self._size = source.stat().st_size

    def prepare(self) -> None:
        self._control = logged_in(self._place)
        self._drain = Drain(os.devnull)
        self._buffer = memoryview(bytearray(BUFFER))

    def run(self) -> None:
        control = self._control
        sock, left = control.open_data(), self._size
        control.begin(f"RETR {self._source.name}")
        data: socket.socket | Reader = sock
        if self._place.tls:
            data = Reader(control, sock)
        else:
            self._drain.take(sock, left)
            left = 0
        while came := data.recv_into(self._buffer):
            left -= came
        data.close()
        control.end()
        self._left = left

    def verify(self) -> None:
        if self._left:
            raise BenchError(f"{self._size - self._left} of {self._size} bytes came")
        offset = self._size - _SAMPLE
        control = self._control
        data = control.open_data()
        control.ask(f"REST {offset}", b"350")
        control.begin(f"RETR {self._source.name}")
        data = control.protect(data)
        content = hashlib.sha256()
        while piece := data.recv(BUFFER):
            content.update(piece)
        data.close()
        control.end()
        if content.hexdigest() != digest(self._source, offset, _SAMPLE):
            raise BenchError("what came is not what the file holds")


class PutLarge:
    """See crew.Task.  What arrived is compared by whoever sees the server's disk."""

    def __init__(self, place: Place, source: Path, path: str) -> None:
        self._place = place
        self._source = source
        self._path = path

    def prepare(self) -> None:
        self._control = logged_in(self._place)
        with self._source.open("rb") as file:
            self._content = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))

    def run(self) -> None:
        control = self._control
        data = control.open_data()
        control.begin(f"STOR {self._path}")
        data = control.protect(data)
        if isinstance(data, ssl.SSLSocket):
            for offset in range(0, len(self._content), BUFFER):
                data.sendall(self._content[offset : offset + BUFFER])
            _say_goodbye(data)
        else:
            send_file(data, str(self._source))
        data.close()
        control.end()

    def verify(self) -> None:
        self._control.leave()


def _say_goodbye(data: ssl.SSLSocket) -> None:
    """close_notify; servers differ in whether they answer it."""
    try:
        data.unwrap()
    except OSError:
        pass


class SmallFiles:
    """See crew.Task.  Many small files in one session, one after the other."""

    def __init__(self, place: Place, source: Path, names: Sequence[str], target: str = "") -> None:
        """`target`: the folder on the server into which the files are put; '' gets them."""
        self._place = place
        self._source = source
        self._names = names
        self._target = target

    def prepare(self) -> None:
        self._control = logged_in(self._place)
        self._contents = [(self._source / name).read_bytes() for name in self._names]
        self._came: list[bytes] = []
        if self._target:
            self._control.ask(f"MKD {self._target}", b"257")

    def run(self) -> None:
        if self._target:
            for name, content in zip(self._names, self._contents, strict=True):
                self._put(f"{self._target}/{name}", content)
        else:
            for name in self._names:
                self._came.append(self._get(f"{self._source.name}/{name}"))

    def _put(self, path: str, content: bytes) -> None:
        control = self._control
        data = control.open_data()
        control.begin(f"STOR {path}")
        data.sendall(content)
        data.close()
        control.end()

    def _get(self, path: str) -> bytes:
        control = self._control
        data = control.open_data()
        control.begin(f"RETR {path}")
        content = b""
        while piece := data.recv(8192):
            content += piece
        data.close()
        control.end()
        return content

    def verify(self) -> None:
        if not self._target and self._came != self._contents:
            raise BenchError("a small file came with wrong content")
        self._control.leave()


class Visits:
    """See crew.Task.  Connections one after the other: greeting, USER, PASS, QUIT."""

    def __init__(self, place: Place, count: int) -> None:
        self._place = place
        self._count = count

    def prepare(self) -> None:
        pass

    def run(self) -> None:
        for _ in range(self._count):
            control = Control(self._place)
            control.log_in()
            control.leave()

    def verify(self) -> None:
        pass
