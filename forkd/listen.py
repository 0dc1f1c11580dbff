"""Addresses to listen on, as the configuration writes them.  No I/O."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

_ANY = "0.0.0.0"  # noqa: S104 - what an address without a host means


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """`family` is inet, inet6 or unix; for unix `host` is the socket's path and `port` 0."""

    family: str
    host: str
    port: int

    def __str__(self) -> str:
        if self.family == "unix":
            return f"unix:{self.host}"
        host = f"[{self.host}]" if self.family == "inet6" else self.host
        return f"{host}:{self.port}"


def parse_listen(text: str) -> ListenAddress:
    """Read '0.0.0.0:3675', '[::]:3675' or 'unix:/run/x.sock'.  Raises ValueError."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/"):
            raise ValueError(f"{text!r}: the path of a unix socket must be absolute")
        if len(path.encode()) > 107:
            raise ValueError(f"{text!r}: a unix socket's path has at most 107 bytes")
        return ListenAddress("unix", path, 0)
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or not 0 <= int(port) <= 65535:
        raise ValueError(f"{text!r} is not host:port, [ipv6]:port or unix:/path")
    try:
        if host.startswith("[") and host.endswith("]"):
            return ListenAddress("inet6", str(ipaddress.IPv6Address(host[1:-1])), int(port))
        return ListenAddress("inet", str(ipaddress.IPv4Address(host or _ANY)), int(port))
    except ipaddress.AddressValueError:
        raise ValueError(f"{text!r}: {host!r} is not an IP address (IPv6 in brackets)") from None
