"""Where the next data connection comes from: a port of ours, or an address of the client's.

Rules
  1. A port is opened for each PASV or EPSV and takes one connection, of the host that the control
     connection is from; whoever else connects is turned away and logged.
  2. An active connection goes to that host too, and to no port below 1024 (RFC 2577).
  3. Users whom `fxp` names are free of both but for the privileged ports.
  4. Workers share the range of ports: one that is taken is passed over.
"""

from __future__ import annotations

import errno
import os
import secrets
import select
import socket
from collections.abc import Iterator

from forkd.ftp.address import INET, INET6, Endpoint
from forkd.ftp.replies import Negative
from forkd.listen import PortRange
from forkd.log import Log

_BACKLOG = 1024
"""Who may wait at a port: strangers who fill it would keep its client out.  Capped by somaxconn."""
_TRIES = 512
"""Ports of the range that are tried."""
_STRANGERS_MAX = 64
"""Connections from elsewhere that are turned away in one go."""
_FAMILIES = {INET: socket.AF_INET, INET6: socket.AF_INET6}
_NONBLOCKING = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_PRIVILEGED = 1024
_TAKEN = (errno.EADDRINUSE, errno.EACCES)


class DataPort:
    """For one session.  Sockets never block."""

    __slots__ = (
        *("_aim", "_family", "_listener", "_local", "_log", "_open", "_session"),
        *("foreign_allowed", "local_host", "peer_host"),
    )

    def __init__(self, control: socket.socket, session: str, log: Log) -> None:
        """Raises OSError when the client of the control connection is gone."""
        self._family, self._local = control.family, control.getsockname()
        self.local_host = plain_host(self._local[0])
        self.peer_host = plain_host(control.getpeername()[0])
        self._session = session
        self._log = log
        self._listener: socket.socket | None = None
        self._aim: Endpoint | None = None
        self._open: socket.socket | None = None
        self.foreign_allowed = False
        """FXP: the user may name other hosts."""

    @property
    def ready(self) -> bool:
        """PASV, EPSV, PORT or EPRT was said."""
        return self._listener is not None or self._aim is not None

    @property
    def protocol(self) -> int:
        """Of the control connection; IPv4 over IPv6 counts as IPv4."""
        return INET if "." in self.local_host else INET6

    # passive

    def listen(self, ports: PortRange) -> int:
        """Open a port and tell its number.  Raises Negative (425)."""
        self.close()
        for port in _candidates(ports):
            sock = socket.socket(self._family, _NONBLOCKING)
            try:
                if port:  # what waits for its last packets there need not keep us from it
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind((self._local[0], port, *self._local[2:]))
                sock.listen(_BACKLOG)
            except OSError as error:
                sock.close()
                if error.errno in _TAKEN:
                    continue
                raise
            self._listener = sock
            return port or int(sock.getsockname()[1])
        raise Negative(425, "no port for data is free; try again")

    # active

    def aim(self, endpoint: Endpoint) -> None:
        """Connect there for the next transfer.  Raises Negative: 504, 522."""
        self.close()
        if endpoint.port < _PRIVILEGED:
            raise Negative(504, "data is sent to no port below 1024")
        if endpoint.protocol != self.protocol:
            raise Negative(522, f"Network protocol not supported, use ({self.protocol})")
        if plain_host(endpoint.host) != self.peer_host and not self.foreign_allowed:
            self._log.warning("data-address-refused", session=self._session, wanted=endpoint.host)
            raise Negative(504, "data is sent to the host that asks for it only")
        self._aim = endpoint

    # the connection

    def fileno(self) -> int:
        """What to watch until the connection is there."""
        waiting = self._listener if self._listener is not None else self._open
        assert waiting is not None
        return waiting.fileno()

    @property
    def wants(self) -> int:
        return select.EPOLLIN if self._listener is not None else select.EPOLLOUT

    def take(self) -> socket.socket | None:
        """The connection, which is the caller's from then on; None when it is not there yet.

        Raises Negative (425).
        """
        if self._listener is not None:
            return self._accept(self._listener)
        if self._open is None:
            self._open = self._connect()
        return self._connected(self._open)

    def _accept(self, listener: socket.socket) -> socket.socket | None:
        strangers: list[str] = []
        try:
            while len(strangers) < _STRANGERS_MAX:
                sock, address = listener.accept()
                host = plain_host(address[0])
                if host == self.peer_host or self.foreign_allowed:
                    self._listener = None
                    listener.close()
                    sock.setblocking(False)
                    return sock
                sock.close()
                strangers.append(host)
        except (BlockingIOError, ConnectionError):
            pass  # there is none, or it went away again: the next one is heard of
        except OSError as error:
            raise Negative(425, f"no connection: {error.strerror}") from None
        finally:
            if strangers:
                self._log.warning(
                    "data-connection-refused",
                    session=self._session,
                    address=strangers[-1],
                    count=len(strangers),
                    expected=self.peer_host,
                )
        return None

    def _connect(self) -> socket.socket:
        """Begin to connect, from the address the client came to where that is possible."""
        aim = self._aim
        if aim is None:
            raise Negative(425, "say PASV, EPSV, PORT or EPRT first")
        sock = socket.socket(_FAMILIES[aim.protocol], _NONBLOCKING)
        try:
            sock.bind((self.local_host.partition("%")[0], 0))
        except OSError:
            pass  # any address of ours will do
        failure = sock.connect_ex((aim.host, aim.port))
        if failure not in (0, errno.EINPROGRESS):
            sock.close()
            raise _not_reached(failure)
        return sock

    def _connected(self, sock: socket.socket) -> socket.socket | None:
        poll = select.poll()
        poll.register(sock, select.POLLOUT)
        if not poll.poll(0):
            return None
        failure = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failure:
            self.close()
            raise _not_reached(failure)
        self._open = self._aim = None
        return sock

    def close(self) -> None:
        """Forget what was arranged; a connection that was taken is not touched."""
        for sock in (self._listener, self._open):
            if sock is not None:
                sock.close()
        self._listener = self._aim = self._open = None


def plain_host(host: str) -> str:
    """An address in one form: IPv4 over IPv6 is IPv4."""
    return host.removeprefix("::ffff:") if host.startswith("::ffff:") and "." in host else host


def _candidates(ports: PortRange) -> Iterator[int]:
    """In an order that nobody can foretell: a shuffle of which no more is done than is asked for.

    The first one is free nearly always.
    """
    if not ports.first:
        yield 0
        return
    count = ports.last + 1 - ports.first
    moved: dict[int, int] = {}
    for left in range(count, max(0, count - _TRIES), -1):
        drawn = secrets.randbelow(left)
        yield ports.first + moved.get(drawn, drawn)
        moved[drawn] = moved.get(left - 1, left - 1)


def _not_reached(failure: int) -> Negative:
    return Negative(425, f"your port cannot be reached: {os.strerror(failure).lower()}")
