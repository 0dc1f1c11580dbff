"""Listening sockets that were there before this process: sd_listen_fds(3).

Rules
  1. A socket unit's sockets are *given*.  FileDescriptorName= (LISTEN_FDNAMES) is the door: native,
     ftp or ftps, any number of each.  Without a name the configured address tells the door.
  2. What an earlier forkd left with the service manager (fdstore.py) is *kept*.
  3. A socket serves one family: an IPv6 one that takes IPv4 too is refused, since whoever comes
     over IPv4 has an address then that FTP cannot answer to.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass

from forkd.errors import StartError
from forkd.listen import DOORS, ListenAddress
from forkd.seat import BoundListener

KEPT = "kept-"
"""What the names of kept sockets begin with."""
LISTEN_FDS_START = 3
_NAMELESS = ("", "unknown")
"""What sd_listen_fds_with_names(3) calls a socket that nobody named."""


@dataclass(frozen=True, slots=True)
class Inherited:
    """The door of a given socket is "" where no name tells it.

    `kept` are those that can still be reached, `left` what the manager calls all of them.
    """

    given: tuple[BoundListener, ...] = ()
    kept: tuple[BoundListener, ...] = ()
    left: frozenset[str] = frozenset()


NOTHING_INHERITED = Inherited()


def inherited_sockets(environ: MutableMapping[str, str]) -> Inherited:
    """What a service manager passed to this process.

    Takes LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES out of the environment.  Raises StartError for a
    descriptor that is no listening stream socket, or that rules 1 and 3 refuse.
    """
    count, pid = environ.pop("LISTEN_FDS", ""), environ.pop("LISTEN_PID", "")
    told = environ.pop("LISTEN_FDNAMES", "")
    if pid != str(os.getpid()) or not count.isdecimal():
        return NOTHING_INHERITED
    names = told.split(":") if told else [""] * int(count)
    if len(names) != int(count):
        raise StartError(f"LISTEN_FDNAMES: {len(names)} names for {count} descriptors")
    given: list[BoundListener] = []
    kept: list[BoundListener] = []
    for fd, name in enumerate(names, LISTEN_FDS_START):
        sock = _listening(fd)
        if not name.startswith(KEPT):
            given.append(_given(sock, "" if name in _NAMELESS else name))
        elif _is_reachable(sock):
            kept.append(BoundListener(address_of(sock), sock))
        else:
            sock.close()
    left = frozenset(name for name in names if name.startswith(KEPT))
    return Inherited(tuple(given), tuple(kept), left)


def address_of(sock: socket.socket, door: str = "native") -> ListenAddress:
    """Where a socket really listens (a configured port 0 has become a number)."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return ListenAddress("unix", os.fsdecode(name), 0, door)
    family = "inet6" if sock.family == socket.AF_INET6 else "inet"
    return ListenAddress(family, name[0], name[1], door)


def _listening(fd: int) -> socket.socket:
    try:
        sock = socket.socket(fileno=fd)
        listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise StartError(f"LISTEN_FDS: descriptor {fd}: {error.strerror}") from None
    if not listening or sock.type != socket.SOCK_STREAM:
        raise StartError(f"LISTEN_FDS: descriptor {fd} is no listening stream socket")
    sock.set_inheritable(False)
    sock.setblocking(False)
    return sock


def _is_reachable(sock: socket.socket) -> bool:
    """Whether the file of a unix socket is still there."""
    return sock.family != socket.AF_UNIX or os.path.exists(address_of(sock).host)


def _given(sock: socket.socket, name: str) -> BoundListener:
    address = address_of(sock, name)
    for flaw in _flaws(sock, address):
        raise StartError(f"the socket unit's {address}: {flaw}")
    return BoundListener(address, sock)


def _flaws(sock: socket.socket, address: ListenAddress) -> Iterator[str]:
    if address.door and address.door not in DOORS:
        known = ", ".join(DOORS)
        yield f"FileDescriptorName={address.door} is no door of forkd; it has {known}"
    elif address.door not in ("", "native") and address.family == "unix":
        yield "FTP needs host:port: it opens connections for data"
    elif address.host == "::" and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
        yield (
            "it takes IPv4 too; set BindIPv6Only=ipv6-only, and name "
            f"0.0.0.0:{address.port} by a ListenStream= of its own"
        )
