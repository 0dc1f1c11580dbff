"""A lean FTP client, for measuring a server rather than a client.

It does what an ordinary client does, in the ordinary order: EPSV, connect, the command, 150, the
content, the end of the data connection, 226.  Nothing waits but system calls on blocking sockets.
Large contents are moved by the kernel on plain connections, and through one buffer on TLS, where
data connections offer to resume the session of their control connection.
"""

from __future__ import annotations

import socket
import ssl
import struct
from dataclasses import dataclass

from bench.processes import BenchError

BUFFER = 1 << 20
_TIMEOUT = 120
_HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server is and who one is there."""

    port: int
    user: str
    password: str
    tls: bool = False


class Control:
    """A control connection, under TLS with protected data where its place says so."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._rest = b""
        self.sock = _connected(place.port)
        self._context: ssl.SSLContext | None = None
        self._expect(b"220")
        if place.tls:
            self.ask("AUTH TLS", b"234")
            self._context = _tls_context()
            self.sock = self._context.wrap_socket(self.sock)
            self.ask("PBSZ 0", b"200")
            self.ask("PROT P", b"200")

    def log_in(self) -> None:
        self.ask(f"USER {self._place.user}", b"331")
        self.ask(f"PASS {self._place.password}", b"230")

    def leave(self) -> None:
        """QUIT, and see the server close."""
        self.ask("QUIT", b"221")
        if self.sock.recv(1):
            raise BenchError("something came after the goodbye")
        self.sock.close()

    def ask(self, command: str, code: bytes) -> bytes:
        """The last line of the answer.  Raises BenchError where its code is another."""
        self.sock.sendall(command.encode() + b"\r\n")
        return self._expect(code)

    def open_data(self) -> socket.socket:
        """A data connection to a new port, in clear until `protect`."""
        port = self.ask("EPSV", b"229").split(b"|")[3]
        return _connected(int(port))

    def begin(self, command: str) -> None:
        """A command with a data connection, until it may be used."""
        self.sock.sendall(command.encode() + b"\r\n")
        line = self.reply()
        if line[:3] not in (b"150", b"125"):
            raise BenchError(f"{command}: {line!r}")

    def end(self) -> None:
        self._expect(b"226")

    def protect(self, data: socket.socket) -> socket.socket:
        """The data connection under TLS, where the place says so."""
        if self._context is None:
            return data
        assert isinstance(self.sock, ssl.SSLSocket)
        return self._context.wrap_socket(data, session=self.sock.session)

    def wrap_bio(self, came: ssl.MemoryBIO, goes: ssl.MemoryBIO) -> ssl.SSLObject:
        """As `protect`, where the caller moves the bytes."""
        assert self._context is not None
        assert isinstance(self.sock, ssl.SSLSocket)
        return self._context.wrap_bio(came, goes, session=self.sock.session)

    def reply(self) -> bytes:
        """The last line of the next reply, which may have several."""
        while True:
            line, found, rest = self._rest.partition(b"\r\n")
            if not found:
                piece = self.sock.recv(4096)
                if not piece:
                    raise BenchError(f"the server broke off after {self._rest!r}")
                self._rest += piece
                continue
            self._rest = rest
            if line[3:4] == b" " and line[:3].isdigit():
                return line

    def _expect(self, code: bytes) -> bytes:
        line = self.reply()
        if line[:3] != code:
            raise BenchError(f"{line!r} in the place of {code!r}")
        return line


def _connected(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.connect((_HOST, port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _patient(sock: socket.socket) -> None:
    """It must stay a blocking socket, and not for ever."""
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", _TIMEOUT, 0))


def _tls_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # a certificate of its own, on loopback
    return context


def logged_in(place: Place) -> Control:
    control = Control(place)
    _patient(control.sock)
    control.log_in()
    control.ask("TYPE I", b"200")
    return control


class Reader:
    """TLS from whoever sends much.  Reading large pieces for OpenSSL is cheaper than its own way,
    two system calls for each record of 16 KiB; see forkd/serving/bulktls.py."""

    def __init__(self, control: Control, data: socket.socket) -> None:
        self._sock = data
        self._came, self._goes = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = control.wrap_bio(self._came, self._goes)
        self._ciphertext = memoryview(bytearray(BUFFER))
        while not self._is_shaken():
            self._fill()

    def _is_shaken(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        finally:
            self._sock.sendall(self._goes.read())
        return True

    def _fill(self) -> None:
        count = self._sock.recv_into(self._ciphertext)
        if not count:
            raise BenchError("the data connection ended without close_notify")
        self._came.write(self._ciphertext[:count])

    def recv_into(self, buffer: memoryview) -> int:
        """Bytes read, 0 at the end."""
        while True:
            try:
                return self._tls.read(len(buffer), buffer)  # type: ignore[return-value]
            except ssl.SSLWantReadError:
                self._fill()
            except ssl.SSLZeroReturnError:
                return 0

    def close(self) -> None:
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            pass
        try:
            self._sock.sendall(self._goes.read())
        except OSError:
            pass  # it is closed on the other side
        self._sock.close()
