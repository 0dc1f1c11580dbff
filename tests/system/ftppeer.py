"""FTP by hand: sockets and lines, so that every order and every break can be tried."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rig import PASSWORD, Daemon, free_port, running

TIMEOUT = 30.0
_RESET = struct.pack("ii", 1, 0)  # socket(7) SO_LINGER: close with RST


def client_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


class FtpPeer:
    """A control connection, and data connections of it."""

    def __init__(
        self,
        port: int,
        host: str = "127.0.0.1",
        *,
        implicit: bool = False,
        context: ssl.SSLContext | None = None,
        source: str = "",
    ) -> None:
        """`source` is the address it comes from, where it is not to be the usual one."""
        self.host, self.port, self.source = host, port, source
        self.sock: socket.socket = socket.create_connection((host, port), TIMEOUT, (source, 0))
        self.context = context or client_context()
        self.protected = False
        self.resumes = True
        """Data connections go on with the TLS session of this one."""
        self._buffer = b""
        if implicit:
            self.wrap()
            self.protected = True
        self.greeting = self.reply()

    def wrap(self) -> None:
        """Put the control connection under TLS."""
        self.sock = self.context.wrap_socket(self.sock, server_hostname="localhost")

    def send(self, *lines: str | bytes) -> None:
        """Commands in one packet."""
        self.sock.sendall(
            b"".join((x if isinstance(x, bytes) else x.encode()) + b"\r\n" for x in lines)
        )

    def line(self) -> str:
        while b"\n" not in self._buffer:
            got = self.sock.recv(65536)
            if not got:
                raise EOFError(self._buffer)
            self._buffer += got
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode(errors="surrogateescape").removesuffix("\r")

    def reply(self) -> str:
        """One whole reply, its lines joined by newlines."""
        first = last = self.line()
        lines = [first]
        while not (last[:3] == first[:3] and last[3:4] != "-"):
            last = self.line()
            lines.append(last)
        return "\n".join(lines)

    def ask(self, *lines: str | bytes) -> str:
        """The reply to the last of these commands; those before must succeed."""
        for line in lines[:-1]:
            answer = self.ask(line)
            assert answer[0] in "23", f"{line!r}: {answer}"
        self.send(lines[-1])
        return self.reply()

    def log_in(self, user: str = "alice", password: str = PASSWORD) -> FtpPeer:
        answer = self.try_log_in(user, password)
        assert answer.startswith("230"), answer
        self.ask("TYPE I")
        return self

    def try_log_in(self, user: str = "alice", password: str = PASSWORD) -> str:
        answer = self.ask(f"USER {user}")
        return self.ask(f"PASS {password}") if answer.startswith("331") else answer

    def secure(self) -> FtpPeer:
        """AUTH TLS, PBSZ 0, PROT P."""
        answer = self.ask("AUTH TLS")
        assert answer.startswith("234"), answer
        self.wrap()
        self.ask("PBSZ 0", "PROT P")
        self.protected = True
        return self

    # data connections

    def passive(self) -> socket.socket:
        """Connected, not under TLS yet."""
        answer = self.ask("EPSV")
        found = re.search(r"\(\|\|\|(\d+)\|\)", answer)
        assert found, answer
        return socket.create_connection((self.host, int(found[1])), TIMEOUT, (self.source, 0))

    def protect(self, data: socket.socket) -> socket.socket:
        """After 150, where the session is protected."""
        if not self.protected:
            return data
        session = self.sock.session if self.resumes else None  # type: ignore[attr-defined]
        return self.context.wrap_socket(
            data, server_hostname="localhost", session=session, suppress_ragged_eofs=False
        )

    def open(self, command: str | bytes) -> socket.socket:
        """The data connection of a command that answered with 150."""
        data = self.passive()
        self.send(command)
        answer = self.reply()
        if not answer.startswith("150"):
            data.close()
            raise AssertionError(answer)
        return self.protect(data)

    def fetch(self, command: str | bytes) -> bytes:
        with self.open(command) as data:
            content = read_all(data)
            hang_up(data)
        answer = self.reply()
        assert answer.startswith("226"), answer
        return content

    def retr(self, path: str, offset: int = 0) -> bytes:
        if offset:
            self.ask(f"REST {offset}")
        return self.fetch(f"RETR {path}")

    def store(self, command: str | bytes, content: bytes) -> str:
        """The last reply: of a refusal before the transfer, too."""
        data = self.passive()
        self.send(command)
        answer = self.reply()
        if answer.startswith("150"):
            data = self.protect(data)
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                data.sendall(content)
                hang_up(data)
            answer = self.reply()
        data.close()
        return answer

    def stor(self, path: str, content: bytes) -> None:
        answer = self.store(f"STOR {path}", content)
        assert answer.startswith("226"), answer

    def close(self) -> None:
        self.sock.close()

    def vanish(self, *data: socket.socket) -> None:
        """As a client that is killed: no QUIT, and resets."""
        for sock in (self.sock, *data):
            reset(sock)


def read_all(sock: socket.socket) -> bytes:
    parts = []
    while part := sock.recv(1 << 18):
        parts.append(part)
    return b"".join(parts)


def hang_up(data: socket.socket) -> None:
    """The end of a data connection in order: close_notify both ways under TLS."""
    if isinstance(data, ssl.SSLSocket):
        with contextlib.suppress(OSError):
            data.unwrap().close()
    data.close()


def reset(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    sock.close()


class Site:
    """A daemon that speaks FTP, and its clients."""

    def __init__(self, daemon: Daemon, port: int, ftps_port: int) -> None:
        self.daemon, self.port, self.ftps_port = daemon, port, ftps_port
        self._peers: list[FtpPeer] = []

    def connect(self, **how: Any) -> FtpPeer:
        port = self.ftps_port if how.get("implicit") else self.port
        peer = FtpPeer(port, **how)
        self._peers.append(peer)
        return peer

    def log_in(self, user: str = "alice") -> FtpPeer:
        return self.connect().log_in(user)

    def new_user(self, *options: str) -> str:
        name = f"user{len(self.daemon.users)}"
        self.daemon.add_user(name, *options)
        return name

    def charged(self, user: str) -> int:
        """What the ledger has, which must be what is on the disk."""
        found = next(each for each in self.daemon.verify() if each["user"] == user)
        assert found["drift"] == 0, found
        return int(found["charged"])

    def hang_up(self) -> None:
        for peer in self._peers:
            peer.close()
        self._peers.clear()


@contextlib.contextmanager
def serving_ftp(folder: Path, *wrapper: str | Path, **settings: dict[str, str]) -> Iterator[Site]:
    """FTP and implicit FTPS on 127.0.0.1, plain log-ins allowed; `settings` as for Daemon."""
    port, ftps_port = free_port(), free_port()
    listen = {"ftp": f'["127.0.0.1:{port}"]', "ftps": f'["127.0.0.1:{ftps_port}"]'}
    settings["listen"] = listen | settings.get("listen", {})
    settings["ftp"] = {"tls": '"allow"'} | settings.get("ftp", {})
    with running(folder, settings, *wrapper) as daemon:
        site = Site(daemon, port, ftps_port)
        try:
            yield site
        finally:
            site.hang_up()
