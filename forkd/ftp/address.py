"""Addresses of data connections: PORT and PASV (RFC 959), EPRT and EPSV (RFC 2428)."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from forkd.ftp.replies import Negative

INET, INET6 = 1, 2
"""Protocol numbers of RFC 2428 section 2."""

_DELIMITERS = range(33, 127)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a client waits for a data connection; `host` in normal form."""

    protocol: int
    host: str
    port: int


def parse_port(argument: bytes) -> Endpoint:
    """The argument of PORT: h1,h2,h3,h4,p1,p2.  Raises Negative (501)."""
    parts = argument.strip().split(b",")
    if len(parts) != 6 or not all(part.isdigit() and len(part) <= 3 for part in parts):
        raise Negative(501, "PORT takes h1,h2,h3,h4,p1,p2")
    numbers = [int(part) for part in parts]
    if max(numbers) > 255:
        raise Negative(501, "a number of PORT is at most 255")
    return Endpoint(INET, ".".join(map(str, numbers[:4])), numbers[4] << 8 | numbers[5])


def parse_eprt(argument: bytes) -> Endpoint:
    """The argument of EPRT: |protocol|host|port|.  Raises Negative: 501, 522."""
    text = argument.strip().decode("ascii", "replace")
    mark = text[:1]
    fields = text.split(mark) if mark else []
    if len(fields) != 5 or fields[0] or fields[4] or ord(mark) not in _DELIMITERS:
        raise Negative(501, "EPRT takes |1|host|port| or |2|host|port|")
    number, host, port = fields[1:4]
    if number not in ("1", "2"):
        raise Negative(522, "Network protocol not supported, use (1,2)")
    try:
        kind = ipaddress.IPv4Address if number == "1" else ipaddress.IPv6Address
        address = str(kind(host))
    except ValueError:
        raise Negative(501, "the host of EPRT is not an address of its protocol") from None
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise Negative(501, "the port of EPRT is not one")
    return Endpoint(int(number), address, int(port))


def pasv_reply(host: str, port: int) -> str:
    """The text of 227 for an IPv4 address."""
    numbers = (*host.split("."), str(port >> 8), str(port & 255))
    return f"Entering Passive Mode ({','.join(numbers)})."


def epsv_reply(port: int) -> str:
    """The text of 229."""
    return f"Entering Extended Passive Mode (|||{port}|)"
