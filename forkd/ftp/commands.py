"""Command lines -> typed commands.

Each verb has a row in VERBS: how its argument is read, whether strangers may say it, what HELP
tells.  What is no command is refused: 500 unknown, 501 argument, 502 known and not implemented,
504 a parameter that is not implemented.
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


@dataclass(frozen=True, slots=True)
class Verb:
    """A row of the table."""

    parse: Parse
    help: str = ""
    stranger: bool = False
    """May be said before log-in."""


def parse(line: bytes) -> Command:
    """Read one line.  Raises Negative."""
    word, _, argument = line.lstrip(b" ").partition(b" ")
    said = word.upper().decode("ascii", "replace")
    verb = _ALIASES.get(said, said)
    row = VERBS.get(verb)
    if row is None:
        raise Negative(502 if verb in _KNOWN else 500, _unknown(verb))
    if b"\0" in argument:
        raise Negative(501, "a command cannot contain a NUL character")
    return row.parse(verb, argument)


def is_for_strangers(verb: str) -> bool:
    return VERBS[verb].stranger


def _unknown(verb: str) -> str:
    return f"{verb} is not implemented" if verb in _KNOWN else "unknown command"


# how arguments are read


def _bare(verb: str, _: bytes) -> Command:
    return Command(verb)


def _text(verb: str, argument: bytes) -> Command:
    return WithText(verb, _decoded(argument).strip())


def _user(verb: str, argument: bytes) -> Command:
    name = _decoded(argument).strip()
    if not name or len(name) > _USER_MAX:
        raise Negative(501, f"USER takes a name of at most {_USER_MAX} characters")
    return WithText(verb, name)


def _secret(verb: str, argument: bytes) -> Command:
    """A password is taken as it is, with blanks at its ends."""
    if len(argument) > _SECRET_MAX:
        raise Negative(501, f"a password has at most {_SECRET_MAX} bytes")
    return WithText(verb, _decoded(argument))


def _path(verb: str, argument: bytes) -> Command:
    if not argument.strip():
        raise Negative(501, f"{verb} takes a path")
    return WithPath(verb, argument)


def _maybe_path(verb: str, argument: bytes) -> Command:
    return WithPath(verb, argument if argument.strip() else b"")


def _quoted_path(verb: str, argument: bytes) -> Command:
    """As the hash commands send it, in quotes or not."""
    path = argument.strip()
    if len(path) > 1 and path.startswith(b'"') and path.endswith(b'"'):
        argument = path[1:-1]
    return _path(verb, argument)


def _listing(verb: str, argument: bytes) -> Command:
    """A path behind the options of ls(1), which mean nothing here."""
    rest = argument.lstrip(b" ")
    while rest.startswith(b"-"):
        _, _, rest = rest.partition(b" ")
        rest = rest.lstrip(b" ")
        argument = rest
    return _maybe_path(verb, argument)


def _number(verb: str, argument: bytes) -> Command:
    digits = argument.strip()
    if not digits.isdigit() or len(digits) > 19 or int(digits) > OFFSET_MAX:
        raise Negative(501, f"{verb} takes a number of bytes")
    return WithNumber(verb, int(digits))


def _allo(verb: str, argument: bytes) -> Command:
    """A size, and perhaps " R " and that of a record (RFC 959)."""
    return _number(verb, argument.strip().partition(b" ")[0])


def _type(verb: str, argument: bytes) -> Command:
    kind = argument.strip().upper()
    if kind in (b"A", b"A N", b"AN"):
        return WithText(verb, "A")
    if kind in (b"I", b"L8", b"L 8"):
        return WithText(verb, "I")
    raise Negative(504, "TYPE is A, I or L 8 here")


def _one_of(*allowed: bytes) -> Parse:
    def read(verb: str, argument: bytes) -> Command:
        value = argument.strip().upper()
        if value not in allowed:
            known = b", ".join(allowed).decode()
            raise Negative(504, f"{verb} is {known} here")
        return WithText(verb, value.decode())

    return read


def _prot(verb: str, argument: bytes) -> Command:
    level = argument.strip().upper()
    if level in (b"S", b"E"):
        raise Negative(536, "PROT is C or P over TLS")
    return _one_of(b"C", b"P")(verb, argument)


def _port(verb: str, argument: bytes) -> Command:
    return WithEndpoint(verb, parse_port(argument))


def _eprt(verb: str, argument: bytes) -> Command:
    return WithEndpoint(verb, parse_eprt(argument))


def _epsv(verb: str, argument: bytes) -> Command:
    which = argument.strip().upper()
    if which in (b"", b"ALL"):
        return ExtendedPassive(verb, None, which == b"ALL")
    if not which.isdigit() or len(which) > 5:
        raise Negative(501, "EPSV takes 1, 2 or ALL")
    if int(which) not in (INET, INET6):
        raise Negative(522, "Network protocol not supported, use (1,2)")
    return ExtendedPassive(verb, int(which), False)


def _mfmt(verb: str, argument: bytes) -> Command:
    time, _, path = argument.lstrip(b" ").partition(b" ")
    if not path.strip():
        raise Negative(501, f"{verb} takes a time and a path")
    return SetTime(verb, parse_stamp(time), path)


def _mdtm(verb: str, argument: bytes) -> Command:
    """Some clients set times with MDTM: a time, then a path."""
    time, _, path = argument.lstrip(b" ").partition(b" ")
    if len(time) == 14 and time.isdigit() and path.strip():
        return _mfmt(verb, argument)
    return _path(verb, argument)


def _opts(verb: str, argument: bytes) -> Command:
    about, _, value = argument.strip().partition(b" ")
    if not about:
        raise Negative(501, "OPTS takes the name of a feature")
    return Options(verb, about.upper().decode("ascii", "replace"), value.strip())


def _site(__: str, argument: bytes) -> Command:
    word, _, rest = argument.strip().partition(b" ")
    verb = "SITE " + word.upper().decode("ascii", "replace")
    if not word:
        raise Negative(501, "SITE takes a command; SITE HELP tells which")
    if verb not in _SITE:
        raise Negative(504, "unknown SITE command; SITE HELP tells those there are")
    return _SITE[verb](verb, rest)


def _chmod(verb: str, argument: bytes) -> Command:
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


_SITE: dict[str, Parse] = {
    "SITE HELP": _bare,
    "SITE CHMOD": _chmod,
    "SITE QUOTA": _bare,
    "SITE WHO": _bare,
}

VERBS: dict[str, Verb] = {
    "ABOR": Verb(_bare, "breaks the transfer off", True),
    "ACCT": Verb(_bare, "is not needed", True),
    "ALLO": Verb(_allo, "<size> of the next upload"),
    "APPE": Verb(_path, "<path> appends to a file"),
    "AUTH": Verb(_text, "TLS", True),
    "AVBL": Verb(_maybe_path, "tells how many bytes can be stored"),
    "CDUP": Verb(_bare, "goes to the folder above"),
    "CLNT": Verb(_text, "<name> of the client", True),
    "CSID": Verb(_text, "<name> of the client", True),
    "CWD": Verb(_maybe_path, "<folder> to work in"),
    "DELE": Verb(_path, "<path> removes a file"),
    "EPRT": Verb(_eprt, "<|protocol|host|port|>"),
    "EPSV": Verb(_epsv, "[1|2|ALL]"),
    "FEAT": Verb(_bare, "tells what is implemented", True),
    "HASH": Verb(_quoted_path, "<path> tells a file's digest"),
    "HELP": Verb(_text, "tells the commands", True),
    "LIST": Verb(_listing, "[path] as ls -l"),
    "MDTM": Verb(_mdtm, "<path> tells when a file was changed"),
    "MFMT": Verb(_mfmt, "<time> <path> sets that"),
    "MKD": Verb(_path, "<folder> is made"),
    "MLSD": Verb(_maybe_path, "[folder] with facts"),
    "MLST": Verb(_maybe_path, "[path] tells its facts"),
    "MODE": Verb(_one_of(b"S"), "S", True),
    "NLST": Verb(_listing, "[path] names alone"),
    "NOOP": Verb(_bare, "does nothing", True),
    "OPTS": Verb(_opts, "<feature> [how]", True),
    "PASS": Verb(_secret, "<password>", True),
    "PASV": Verb(_bare, "opens a port for data"),
    "PBSZ": Verb(_number, "0", True),
    "PORT": Verb(_port, "<h1,h2,h3,h4,p1,p2>"),
    "PROT": Verb(_prot, "C or P", True),
    "PWD": Verb(_bare, "tells the folder worked in"),
    "QUIT": Verb(_bare, "ends the session", True),
    "REIN": Verb(_bare, "logs out", True),
    "REST": Verb(_number, "<offset> of the next transfer"),
    "RETR": Verb(_path, "<path> sends a file"),
    "RMD": Verb(_path, "<folder> is removed"),
    "RNFR": Verb(_path, "<path> to rename"),
    "RNTO": Verb(_path, "<path> it gets"),
    "SITE": Verb(_site, "<command>", True),
    "SIZE": Verb(_path, "<path> tells a file's bytes"),
    "STAT": Verb(_listing, "[path]", True),
    "STOR": Verb(_path, "<path> takes a file"),
    "STOU": Verb(_maybe_path, "takes a file under a new name"),
    "STRU": Verb(_one_of(b"F"), "F", True),
    "SYST": Verb(_bare, "tells the kind of system", True),
    "TYPE": Verb(_type, "A, I or L 8", True),
    "USER": Verb(_user, "<name>", True),
    "XCRC": Verb(_quoted_path, "<path>"),
    "XMD5": Verb(_quoted_path, "<path>"),
    "XSHA": Verb(_quoted_path, "<path>"),
    "XSHA1": Verb(_quoted_path, "<path>"),
    "XSHA256": Verb(_quoted_path, "<path>"),
    "XSHA512": Verb(_quoted_path, "<path>"),
}
_ALIASES = {"XCUP": "CDUP", "XCWD": "CWD", "XMKD": "MKD", "XPWD": "PWD", "XRMD": "RMD"}

_KNOWN = frozenset(("ADAT", "CCC", "CONF", "ENC", "LPRT", "LPSV", "MIC", "SMNT", "LANG", "HOST"))
"""Verbs of RFCs that are not implemented."""
