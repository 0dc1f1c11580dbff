"""What is known of a connection that was just accepted."""

from __future__ import annotations

import ipaddress
import itertools
import os
import socket
import struct
from collections.abc import Callable
from typing import NamedTuple

from forkd.limits.policy import origin_of
from forkd.listen import ListenAddress

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid; unix(7) SO_PEERCRED


class Described(NamedTuple):
    """`address` is for logs, `origin` what limits count; `trusted`: nobody else can read along."""

    address: str
    origin: str
    trusted: bool


def describe_peer(sock: socket.socket, listener: ListenAddress) -> Described:
    """Raises OSError when it is gone."""
    if listener.family == "unix":
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        origin = f"unix:uid={_CREDENTIALS.unpack(raw)[1]}"
        return Described(origin, origin, True)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    host, port = sock.getpeername()[:2]
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return Described(shown, origin_of(host), (mapped or address).is_loopback)


def session_ids(slot: int) -> Callable[[], str]:
    """Ids that no other session of this machine's daemon has: slot, process, running number."""
    counter = itertools.count(1)
    own = f"{slot:x}-{os.getpid():x}"
    return lambda: f"{own}-{next(counter):x}"
