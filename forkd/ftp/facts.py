"""What listings say of files: the lines of LIST (as `ls -l`), NLST, MLSD and MLST (RFC 3659).

Times are UTC.  A name that would break its line is shown with '?' in it, and cannot be asked for.
"""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass

from forkd.ftp.replies import Negative, clean

FACTS = ("type", "size", "modify", "perm", "unique", "UNIX.mode")
"""In the order they are told; names are compared without regard to case."""

_SIX_MONTHS = 182 * 86400
_AHEAD = 86400
"""A clock may be wrong by so much, in seconds."""
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
_EPOCH = datetime.datetime(1970, 1, 1)
_YEAR_ONE, _YEAR_9999 = -62135596800, 253402300799
_LETTERS = {"folder": "d", "link": "l"}
_TYPES = {"file": "file", "folder": "dir", "link": "OS.unix=slink"}


@dataclass(frozen=True, slots=True)
class Item:
    """One entry: `kind` is file, folder, link or other, `mtime` seconds since 1970."""

    name: bytes
    kind: str
    size: int
    mtime: float
    mode: int
    unique: str


Line = Callable[[Item], bytes]


def list_line(item: Item, now: float) -> bytes:
    """As `ls -l` in the C locale: the hour within six months, else the year."""
    mtime = int(item.mtime)
    when = _ls_time(mtime, -_AHEAD < now - mtime < _SIX_MONTHS)
    head = f"{_ls_mode(item.kind, item.mode)}    1 ftp      ftp      {item.size:>12} {when} "
    return head.encode() + clean(item.name) + b"\r\n"


def name_line(item: Item) -> bytes:
    return clean(item.name) + b"\r\n"


@functools.lru_cache(256)
def _ls_time(mtime: int, recent: bool) -> str:
    at = _moment(mtime)
    day = f"{_MONTHS[at.month - 1]} {at.day:>2} "
    return day + (f"{at.hour:02}:{at.minute:02}" if recent else f"{at.year:>5}")


@functools.lru_cache(256)
def _ls_mode(kind: str, mode: int) -> str:
    bits = "".join("rwx"[i % 3] if mode >> 8 - i & 1 else "-" for i in range(9))
    return _LETTERS.get(kind, "-") + bits


def facts_line(item: Item, wanted: Collection[str], rights: Collection[str]) -> bytes:
    """The facts and the name, without a line's end.  `rights` are the account's permissions."""
    kind = item.kind if item.kind in ("cdir", "pdir") else _TYPES.get(item.kind, "OS.unix=other")
    folder = kind in ("dir", "cdir", "pdir")
    told = {
        "type": kind,
        "size": None if folder else str(item.size),
        "modify": stamp(item.mtime),
        "perm": (_folder_perm if folder else _file_perm)(frozenset(rights)),
        "unique": item.unique,
        "UNIX.mode": f"0{item.mode & 0o777:03o}",
    }
    facts = "".join(f"{fact}={told[fact]};" for fact in FACTS if fact in wanted and told[fact])
    return facts.encode() + b" " + clean(item.name)


@functools.lru_cache(64)
def _file_perm(rights: frozenset[str]) -> str:
    """RFC 3659 section 7.5.5."""
    letters = {"a": "replace", "d": "delete", "f": "move", "r": "read", "w": "replace"}
    return "".join(letter for letter, right in letters.items() if right in rights) or "r"


@functools.lru_cache(64)
def _folder_perm(rights: frozenset[str]) -> str:
    letters = {"c": "write", "d": "delete", "f": "move", "l": "list", "m": "mkdir", "p": "delete"}
    return "e" + "".join(letter for letter, right in letters.items() if right in rights)


def wanted_facts(names: bytes) -> tuple[str, ...]:
    """The argument of OPTS MLST: what is known of it, in our order (RFC 3659 section 7.9)."""
    asked = {name.strip().lower() for name in names.decode("ascii", "replace").split(";")}
    return tuple(fact for fact in FACTS if fact.lower() in asked)


def stamp(mtime: float) -> str:
    """YYYYMMDDHHMMSS (RFC 3659 section 2.3)."""
    at = _moment(int(mtime))
    return f"{at.year:04}{at.month:02}{at.day:02}{at.hour:02}{at.minute:02}{at.second:02}"


def parse_stamp(text: bytes) -> float:
    """Seconds since 1970 of YYYYMMDDHHMMSS[.sss].  Raises Negative (501)."""
    digits, dot, fraction = text.partition(b".")
    fields = [digits[0:4], *(digits[at : at + 2] for at in range(4, 14, 2))]
    try:
        if len(digits) != 14 or not digits.isdigit() or (dot and not fraction.isdigit()):
            raise ValueError(text)
        at = datetime.datetime(*map(int, fields))  # type: ignore[arg-type]
    except ValueError:
        raise Negative(501, "a time is YYYYMMDDHHMMSS, in UTC") from None
    seconds = (at - _EPOCH) // datetime.timedelta(seconds=1)
    return seconds + float(b"0." + fraction[:9]) if dot else float(seconds)


def _moment(mtime: int) -> datetime.datetime:
    return _EPOCH + datetime.timedelta(seconds=min(max(mtime, _YEAR_ONE), _YEAR_9999))
