"""What a command's argument says: how it is read, and the value it is.

Every reader takes a verb and the bytes behind it, and raises Negative: 501 where they are none
such, 504 for a parameter that is not implemented.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from forkd.ftp.address import INET, INET6, Endpoint, parse_eprt, parse_port
from forkd.ftp.facts import parse_stamp
from forkd.ftp.replies import Negative

OFFSET_MAX = (1 << 63) - 1
_USER_MAX = 64
_SECRET_MAX = 1024


@dataclass(frozen=True, slots=True)
class Command:
    """A verb that takes no argument, or whose argument means nothing here."""

    verb: str


@dataclass(frozen=True, slots=True)
class WithText(Command):
    """USER, PASS, and what tells a word."""

    text: str


@dataclass(frozen=True, slots=True)
class WithPath(Command):
    """`path` is b"" where it was left out and may be."""

    path: bytes


@dataclass(frozen=True, slots=True)
class WithNumber(Command):
    """REST, ALLO."""

    number: int


@dataclass(frozen=True, slots=True)
class WithEndpoint(Command):
    """PORT, EPRT."""

    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class ExtendedPassive(Command):
    """EPSV: `protocol` None leaves it to us, `always` is EPSV ALL."""

    protocol: int | None
    always: bool


@dataclass(frozen=True, slots=True)
class SetTime(Command):
    """MFMT, and MDTM with a time: seconds since 1970."""

    mtime: float
    path: bytes


@dataclass(frozen=True, slots=True)
class Options(Command):
    """OPTS: what it is about, and how it is to be."""

    about: str
    value: bytes


@dataclass(frozen=True, slots=True)
class ChangeMode(Command):
    """SITE CHMOD."""

    mode: int
    path: bytes


Parse = Callable[[str, bytes], Command]


def read_bare(verb: str, _: bytes) -> Command:
    return Command(verb)


def read_text(verb: str, argument: bytes) -> Command:
    return WithText(verb, _decoded(argument).strip())


def read_user(verb: str, argument: bytes) -> Command:
    name = _decoded(argument).strip()
    if not name or len(name) > _USER_MAX:
        raise Negative(501, f"USER takes a name of at most {_USER_MAX} characters")
    return WithText(verb, name)


def read_secret(verb: str, argument: bytes) -> Command:
    """A password is taken as it is, with blanks at its ends."""
    if len(argument) > _SECRET_MAX:
        raise Negative(501, f"a password has at most {_SECRET_MAX} bytes")
    return WithText(verb, _decoded(argument))


def read_path(verb: str, argument: bytes) -> Command:
    if not argument.strip():
        raise Negative(501, f"{verb} takes a path")
    return WithPath(verb, argument)


def read_maybe_path(verb: str, argument: bytes) -> Command:
    return WithPath(verb, argument if argument.strip() else b"")


def read_quoted_path(verb: str, argument: bytes) -> Command:
    """As the hash commands send it, in quotes or not."""
    path = argument.strip()
    if len(path) > 1 and path.startswith(b'"') and path.endswith(b'"'):
        argument = path[1:-1]
    return read_path(verb, argument)


def read_listing(verb: str, argument: bytes) -> Command:
    """A path behind the options of ls(1), which mean nothing here."""
    rest = argument.lstrip(b" ")
    while rest.startswith(b"-"):
        _, _, rest = rest.partition(b" ")
        rest = rest.lstrip(b" ")
        argument = rest
    return read_maybe_path(verb, argument)


def read_number(verb: str, argument: bytes) -> Command:
    digits = argument.strip()
    if not digits.isdigit() or len(digits) > 19 or int(digits) > OFFSET_MAX:
        raise Negative(501, f"{verb} takes a number of bytes")
    return WithNumber(verb, int(digits))


def read_allo(verb: str, argument: bytes) -> Command:
    """A size, and perhaps " R " and that of a record (RFC 959)."""
    return read_number(verb, argument.strip().partition(b" ")[0])


def read_type(verb: str, argument: bytes) -> Command:
    kind = argument.strip().upper()
    if kind in (b"A", b"A N", b"AN"):
        return WithText(verb, "A")
    if kind in (b"I", b"L8", b"L 8"):
        return WithText(verb, "I")
    raise Negative(504, "TYPE is A, I or L 8 here")


def one_of(*allowed: bytes) -> Parse:
    def read(verb: str, argument: bytes) -> Command:
        value = argument.strip().upper()
        if value not in allowed:
            known = b", ".join(allowed).decode()
            raise Negative(504, f"{verb} is {known} here")
        return WithText(verb, value.decode())

    return read


def read_prot(verb: str, argument: bytes) -> Command:
    level = argument.strip().upper()
    if level in (b"S", b"E"):
        raise Negative(536, "PROT is C or P over TLS")
    return one_of(b"C", b"P")(verb, argument)


def read_port(verb: str, argument: bytes) -> Command:
    return WithEndpoint(verb, parse_port(argument))


def read_eprt(verb: str, argument: bytes) -> Command:
    return WithEndpoint(verb, parse_eprt(argument))


def read_epsv(verb: str, argument: bytes) -> Command:
    which = argument.strip().upper()
    if which in (b"", b"ALL"):
        return ExtendedPassive(verb, None, which == b"ALL")
    if not which.isdigit() or len(which) > 5:
        raise Negative(501, "EPSV takes 1, 2 or ALL")
    if int(which) not in (INET, INET6):
        raise Negative(522, "Network protocol not supported, use (1,2)")
    return ExtendedPassive(verb, int(which), False)


def read_mfmt(verb: str, argument: bytes) -> Command:
    time, _, path = argument.lstrip(b" ").partition(b" ")
    if not path.strip():
        raise Negative(501, f"{verb} takes a time and a path")
    return SetTime(verb, parse_stamp(time), path)


def read_mdtm(verb: str, argument: bytes) -> Command:
    """Some clients set times with MDTM: a time, then a path."""
    time, _, path = argument.lstrip(b" ").partition(b" ")
    if len(time) == 14 and time.isdigit() and path.strip():
        return read_mfmt(verb, argument)
    return read_path(verb, argument)


def read_opts(verb: str, argument: bytes) -> Command:
    about, _, value = argument.strip().partition(b" ")
    if not about:
        raise Negative(501, "OPTS takes the name of a feature")
    return Options(verb, about.upper().decode("ascii", "replace"), value.strip())


def read_chmod(verb: str, argument: bytes) -> Command:
    mode, _, path = argument.strip().partition(b" ")
    octal = len(mode) in (3, 4) and mode.isdigit() and max(mode) < ord("8")
    if not octal or not path.strip():
        raise Negative(501, "SITE CHMOD takes three octal digits and a path")
    if int(mode, 8) > 0o777:
        raise Negative(504, "SITE CHMOD sets no more than permissions for reading and writing")
    return ChangeMode(verb, int(mode, 8), path)


def _decoded(argument: bytes) -> str:
    try:
        return argument.decode("utf-8")
    except UnicodeDecodeError:
        return argument.decode("latin-1")
