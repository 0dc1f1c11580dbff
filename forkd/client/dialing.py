"""The way to a server: address, TCP options, and for forkd:// a TLS handshake.

A dead network is found by TCP itself (keepalive, TCP_USER_TIMEOUT; tcp(7)).
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from forkd.client.errors import LostError
from forkd.client.events import Listener
from forkd.client.url import Url
from forkd.client.wire import Wire, words

if TYPE_CHECKING:
    from forkd.client.trust import Trust

CONNECT_TIMEOUT = 20.0
_DEAD_PEER_MS = 60_000


def connect(url: Url, trust: Trust | None, stall: float, tell: Listener) -> Wire:
    """Reach the server of `url`; `stall` is the longest silence in seconds while something is due.

    Without `trust`, pins are kept as for KnownHosts, and `tell` hears of new ones.
    Raises LostError, TrustError.
    """
    try:
        sock = _reach(url)
    except OSError as error:
        raise LostError(f"no connection to {url.server}: {words(error)}") from None
    try:
        if not url.tls:
            return Wire(sock, url.server, stall)
        from forkd.client import tls  # the ssl module takes its time to load

        return tls.secure(sock, url, trust, stall, tell)
    except BaseException:
        sock.close()
        raise


def _reach(url: Url) -> socket.socket:
    if url.scheme == "forkd+unix":
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(CONNECT_TIMEOUT)
            sock.connect(url.host)
        except BaseException:
            sock.close()
            raise
        return sock
    # bytes: for text, Python loads its tables of international names
    host = url.host.encode() if url.host.isascii() else url.host
    sock = socket.create_connection((host, url.port), CONNECT_TIMEOUT)  # type: ignore[arg-type]
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 20)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_PEER_MS)
    return sock
