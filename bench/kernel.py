"""The kernel moves the bytes: sendfile out, splice in.  Blocking sockets, exact counts."""

from __future__ import annotations

import fcntl
import os
import socket

from bench.processes import BenchError

PIPE = 1 << 20
_CHUNK = 16 << 20


def send_file(sock: socket.socket, path: str) -> None:
    """A whole file to a socket."""
    fd = os.open(path, os.O_RDONLY)
    try:
        offset, size = 0, os.fstat(fd).st_size
        while offset < size:
            offset += os.sendfile(sock.fileno(), fd, offset, min(size - offset, _CHUNK))
    finally:
        os.close(fd)


class Drain:
    """Takes bytes from a socket through a pipe of its own into a file or nowhere."""

    def __init__(self, target: str) -> None:
        """`target` is made where it does not exist; /dev/null is where nothing has to be kept."""
        self.fd = os.open(target, os.O_WRONLY | os.O_CREAT, 0o644)
        self._reader, self._writer = os.pipe()
        fcntl.fcntl(self._writer, fcntl.F_SETPIPE_SZ, PIPE)

    def take(self, sock: socket.socket, count: int) -> None:
        """Exactly `count` bytes.  Raises BenchError when the peer ends before."""
        while count:
            came = os.splice(sock.fileno(), self._writer, min(count, PIPE), flags=os.SPLICE_F_MOVE)
            if not came:
                raise BenchError(f"the connection ended {count} bytes before its time")
            count -= came
            while came:
                came -= os.splice(self._reader, self.fd, came, flags=os.SPLICE_F_MOVE)

    def close(self) -> None:
        for fd in (self.fd, self._reader, self._writer):
            os.close(fd)
