"""Addresses as people write them.

    forkd://user@host:port/path          TCP with TLS; the port may be left out (3675)
    forkd+plain://user@host:port/path    plain TCP: passwords and files can be read on the way
    forkd+unix://user@/run/forkd/forkd.sock:/path
                                         a socket of this machine; its path ends at the first ":"

An IPv6 address stands in brackets.  `%20` and the like are decoded in the user, the socket's path
and the path; every other character stands for itself ("?" and "#" too).  Without a user, the
caller decides who it is.  A path ending in "/" means a folder.
"""

from __future__ import annotations

import re

from msgspec import Struct
from msgspec.structs import replace

from forkd.client.errors import UrlError, printable
from forkd.client.names import from_bytes, to_bytes

DEFAULT_PORT = 3675
SCHEMES = ("forkd", "forkd+plain", "forkd+unix")
_URL = re.compile(r"(?P<scheme>[a-z+]+)://(?:(?P<user>[^@/]*)@)?(?P<rest>.*)", re.DOTALL)
_HOST = re.compile(r"(\[(?P<six>[^\]/]*)\]|(?P<host>[^:/\[\]]*))(?::(?P<port>[^/]*))?")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_UNRESERVED = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-~"  # RFC 3986
_UNIX_MAX = 107  # unix(7): sun_path holds 108 bytes with the NUL


class Url(Struct, frozen=True):
    """A server, who one is there, and a path below that account's folder.

    `scheme` is one of SCHEMES.  For forkd+unix, `host` is the socket's path and `port` 0.
    `path` has no leading "/"; names on disk that are not UTF-8 are written as docs/protocol.md
    "Names" says.
    """

    scheme: str
    user: str
    host: str
    port: int
    path: str

    @property
    def tls(self) -> bool:
        """Whether the connection starts with a TLS handshake."""
        return self.scheme == "forkd"

    @property
    def server(self) -> str:
        """The server alone, as pins and messages name it: host:port or the socket's path."""
        if self.scheme == "forkd+unix":
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def at(self, path: str) -> Url:
        """The same server and user with another path."""
        return replace(self, path=path.lstrip("/"))

    def as_user(self, user: str) -> Url:
        """The same server and path as another user."""
        return replace(self, user=user)

    def __str__(self) -> str:
        user = _quote(self.user, b"") + "@" if self.user else ""
        if self.scheme == "forkd+unix":
            tail = f":/{_quote(self.path)}" if self.path else ""
            return f"{self.scheme}://{user}{_quote(self.host)}{tail}"
        return f"{self.scheme}://{user}{self.server}/{_quote(self.path)}"


def is_url(text: str) -> bool:
    """Whether a command line's word is meant as an address of a server."""
    return text.startswith(tuple(f"{scheme}://" for scheme in SCHEMES))


def parse_url(text: str) -> Url:
    """Read an address.  Raises UrlError, with what would be right."""
    match = _URL.fullmatch(text)
    if not match or match["scheme"] not in SCHEMES:
        raise UrlError(
            f"{printable(text)!r} is not an address of a forkd server"
            " (example: forkd://alice@example.org/folder/file)"
        )
    user = match["user"] or ""
    if ":" in user:
        raise UrlError(
            "a password does not belong into an address, where others can see it;"
            " it is asked for, or taken from FORKC_PASSWORD or --password-stdin"
        )
    scheme, user = match["scheme"], _unquote(user)
    if scheme == "forkd+unix":
        host, _, path = match["rest"].partition(":")
        return Url(scheme, user, _socket_path(host), 0, _unquote(path).lstrip("/"))
    authority, _, path = match["rest"].partition("/")
    host, port = _host_port(authority)
    return Url(scheme, user, host, port, _unquote(path).lstrip("/"))


def _host_port(authority: str) -> tuple[str, int]:
    match = _HOST.fullmatch(authority)
    if not match or not (match["six"] or match["host"]):
        raise UrlError(f"{authority!r} is not host, host:port or [ipv6]:port")
    port = match["port"]
    if port is None:
        number = DEFAULT_PORT
    elif port.isdecimal() and port.isascii() and 0 < int(port) < 65536:
        number = int(port)
    else:
        raise UrlError(f"{port!r} is not a port (1 to 65535)")
    if match["host"]:
        return match["host"].lower(), number
    return _ipv6(match["six"]), number


def _ipv6(text: str) -> str:
    from ipaddress import AddressValueError, IPv6Address

    try:
        return str(IPv6Address(text))
    except AddressValueError:
        raise UrlError(f"{text!r} is not an IPv6 address") from None


def _socket_path(text: str) -> str:
    path = to_bytes(_unquote(text))
    if not path.startswith(b"/"):
        raise UrlError("the socket's path must be absolute (example: forkd+unix:///run/forkd.sock)")
    if len(path) > _UNIX_MAX or b"\0" in path:
        raise UrlError(f"a socket's path has at most {_UNIX_MAX} bytes, none of them NUL")
    return path.decode("utf-8", "surrogateescape")


def _unquote(text: str) -> str:
    if bad := _BAD_ESCAPE.search(text):
        raise UrlError(
            f"{text[bad.start() : bad.start() + 3]!r}: a % is followed by two hexadecimal digits;"
            " the character % itself is written %25"
        )
    raw = text.encode("utf-8", "surrogateescape")
    return from_bytes(_ESCAPE.sub(lambda escape: bytes.fromhex(escape[1].decode()), raw))


def _quote(text: str, safe: bytes = b"/!$&'()*+,;=") -> str:
    """`text` with all but letters, digits, "_.-~" and the characters in `safe` escaped."""
    plain = _UNRESERVED + safe
    return "".join(chr(byte) if byte in plain else f"%{byte:02X}" for byte in to_bytes(text))
