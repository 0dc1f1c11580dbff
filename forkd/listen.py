"""Addresses to listen on and to be known by, as the configuration writes them.  No I/O."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

DOORS = ("native", "ftp", "ftps")
"""Who can serve at an address."""
_ANY = "0.0.0.0"  # noqa: S104 - what an address without a host means


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """`family` is inet, inet6 or unix; for unix `host` is the socket's path and `port` 0.

    `door` is who serves there; the same address behind another door is the same address.
    """

    family: str
    host: str
    port: int
    door: str = field(default="native", compare=False)

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


@dataclass(frozen=True, slots=True)
class PortRange:
    """Ports from `first` to `last`; both 0 leaves the choice to the kernel."""

    first: int = 0
    last: int = 0

    def __len__(self) -> int:
        return self.last - self.first + 1


def parse_ports(text: object) -> PortRange:
    """Read '50000-50999', or '' for no range.  Raises ValueError."""
    if text == "":
        return PortRange()
    first, dash, last = text.partition("-") if isinstance(text, str) else ("", "", "")
    numbers = [int(each) for each in (first.strip(), last.strip()) if each.isdecimal()]
    if not dash or len(numbers) != 2 or not 1024 <= numbers[0] <= numbers[1] <= 65535:
        raise ValueError(f"{text!r} is not a range of ports such as '50000-50999', 1024 or higher")
    return PortRange(*numbers)


@dataclass(frozen=True, slots=True)
class Masquerade:
    """The address that clients of `network` know us by; `address` None: that they came to."""

    address: str | None
    network: ipaddress.IPv4Network


_EVERYBODY = ipaddress.IPv4Network("0.0.0.0/0")
_OWN = "own"


def parse_masquerade(text: str) -> Masquerade:
    """Read '203.0.113.7', '192.168.1.2 for 192.168.0.0/16' or 'own for 10.0.0.0/8'.

    Raises ValueError.
    """
    address, _, network = text.partition(" for ")
    try:
        return Masquerade(
            None if address.strip() == _OWN else str(ipaddress.IPv4Address(address.strip())),
            ipaddress.IPv4Network(network.strip()) if network else _EVERYBODY,
        )
    except ValueError:
        raise ValueError(
            f"{text!r} is not an IPv4 address, or 'ADDRESS for NETWORK', or 'own for NETWORK'"
        ) from None


def address_for(client: str, known: tuple[Masquerade, ...]) -> str | None:
    """What the narrowest network that holds the client says; None: the address it came to."""
    try:
        address = ipaddress.IPv4Address(client)
    except ValueError:
        return None
    fitting = [each for each in known if address in each.network]
    return max(fitting, key=lambda each: each.network.prefixlen).address if fitting else None
