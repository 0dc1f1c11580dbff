"""Command lines -> typed commands.

Each verb has a row in VERBS: how its argument is read, whether strangers may say it, what HELP
tells.  What is no command is refused: 500 unknown, 501 argument, 502 known and not implemented,
504 a parameter that is not implemented.
"""

from __future__ import annotations

from dataclasses import dataclass

from forkd.ftp import arguments
from forkd.ftp.arguments import Command, Parse
from forkd.ftp.replies import Negative


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


def _site(__: str, argument: bytes) -> Command:
    word, _, rest = argument.strip().partition(b" ")
    verb = "SITE " + word.upper().decode("ascii", "replace")
    if not word:
        raise Negative(501, "SITE takes a command; SITE HELP tells which")
    if verb not in _SITE:
        raise Negative(504, "unknown SITE command; SITE HELP tells those there are")
    return _SITE[verb](verb, rest)


_SITE: dict[str, Parse] = {
    "SITE HELP": arguments.read_bare,
    "SITE CHMOD": arguments.read_chmod,
    "SITE QUOTA": arguments.read_bare,
    "SITE WHO": arguments.read_bare,
}

VERBS: dict[str, Verb] = {
    "ABOR": Verb(arguments.read_bare, "breaks the transfer off", True),
    "ACCT": Verb(arguments.read_bare, "is not needed", True),
    "ALLO": Verb(arguments.read_allo, "<size> of the next upload"),
    "APPE": Verb(arguments.read_path, "<path> appends to a file"),
    "AUTH": Verb(arguments.read_text, "TLS", True),
    "AVBL": Verb(arguments.read_maybe_path, "tells how many bytes can be stored"),
    "CDUP": Verb(arguments.read_bare, "goes to the folder above"),
    "CLNT": Verb(arguments.read_text, "<name> of the client", True),
    "CSID": Verb(arguments.read_text, "<name> of the client", True),
    "CWD": Verb(arguments.read_maybe_path, "<folder> to work in"),
    "DELE": Verb(arguments.read_path, "<path> removes a file"),
    "EPRT": Verb(arguments.read_eprt, "<|protocol|host|port|>"),
    "EPSV": Verb(arguments.read_epsv, "[1|2|ALL]"),
    "FEAT": Verb(arguments.read_bare, "tells what is implemented", True),
    "HASH": Verb(arguments.read_quoted_path, "<path> tells a file's digest"),
    "HELP": Verb(arguments.read_text, "tells the commands", True),
    "LIST": Verb(arguments.read_listing, "[path] as ls -l"),
    "MDTM": Verb(arguments.read_mdtm, "<path> tells when a file was changed"),
    "MFMT": Verb(arguments.read_mfmt, "<time> <path> sets that"),
    "MKD": Verb(arguments.read_path, "<folder> is made"),
    "MLSD": Verb(arguments.read_maybe_path, "[folder] with facts"),
    "MLST": Verb(arguments.read_maybe_path, "[path] tells its facts"),
    "MODE": Verb(arguments.one_of(b"S"), "S", True),
    "NLST": Verb(arguments.read_listing, "[path] names alone"),
    "NOOP": Verb(arguments.read_bare, "does nothing", True),
    "OPTS": Verb(arguments.read_opts, "<feature> [how]", True),
    "PASS": Verb(arguments.read_secret, "<password>", True),
    "PASV": Verb(arguments.read_bare, "opens a port for data"),
    "PBSZ": Verb(arguments.read_number, "0", True),
    "PORT": Verb(arguments.read_port, "<h1,h2,h3,h4,p1,p2>"),
    "PROT": Verb(arguments.read_prot, "C or P", True),
    "PWD": Verb(arguments.read_bare, "tells the folder worked in"),
    "QUIT": Verb(arguments.read_bare, "ends the session", True),
    "REIN": Verb(arguments.read_bare, "logs out", True),
    "REST": Verb(arguments.read_number, "<offset> of the next transfer"),
    "RETR": Verb(arguments.read_path, "<path> sends a file"),
    "RMD": Verb(arguments.read_path, "<folder> is removed"),
    "RNFR": Verb(arguments.read_path, "<path> to rename"),
    "RNTO": Verb(arguments.read_path, "<path> it gets"),
    "SITE": Verb(_site, "<command>", True),
    "SIZE": Verb(arguments.read_path, "<path> tells a file's bytes"),
    "STAT": Verb(arguments.read_listing, "[path]", True),
    "STOR": Verb(arguments.read_path, "<path> takes a file"),
    "STOU": Verb(arguments.read_maybe_path, "takes a file under a new name"),
    "STRU": Verb(arguments.one_of(b"F"), "F", True),
    "SYST": Verb(arguments.read_bare, "tells the kind of system", True),
    "TYPE": Verb(arguments.read_type, "A, I or L 8", True),
    "USER": Verb(arguments.read_user, "<name>", True),
    "XCRC": Verb(arguments.read_quoted_path, "<path>"),
    "XMD5": Verb(arguments.read_quoted_path, "<path>"),
    "XSHA": Verb(arguments.read_quoted_path, "<path>"),
    "XSHA1": Verb(arguments.read_quoted_path, "<path>"),
    "XSHA256": Verb(arguments.read_quoted_path, "<path>"),
    "XSHA512": Verb(arguments.read_quoted_path, "<path>"),
}
_ALIASES = {"XCUP": "CDUP", "XCWD": "CWD", "XMKD": "MKD", "XPWD": "PWD", "XRMD": "RMD"}

_KNOWN = frozenset(("ADAT", "CCC", "CONF", "ENC", "LPRT", "LPSV", "MIC", "SMNT", "LANG", "HOST"))
"""Verbs of RFCs that are not implemented."""
