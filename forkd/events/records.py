"""What a journal holds: one line a record, JSON behind its CRC-32, so a torn end shows.

    Intent   a change is about to be made; on the disk before the change is
    Done     it was made
    Undone   it was not

Times on the monotonic clock are nanoseconds and mean nothing after a boot; `boot` tells which one.
Paths are text as names.py writes it, so every name on disk can be told.
"""

from __future__ import annotations

import zlib
from typing import Literal

import msgspec
from msgspec import Struct

Kind = Literal["published", "removed", "renamed"]
KINDS: tuple[Kind, ...] = ("published", "removed", "renamed")


class Origin(Struct, frozen=True):
    """Who makes changes: an account in one session.  `home` is its folder below storage.path."""

    account: int
    user: str
    home: str
    session: str
    door: str


class Header(Struct, frozen=True, tag="journal", tag_field="r"):
    """The first record of a journal."""

    boot: str


class Intent(Struct, frozen=True, tag="intent", tag_field="r", omit_defaults=True):
    """A change about to be made.

    `staged` are the names that the object has in the staging folder before a publish, or after a
    removal.  `size` is in bytes, `time` in seconds since 1970, `at` on the monotonic clock.
    """

    id: str
    kind: Kind
    origin: Origin
    path: str
    time: float
    at: int
    type: Literal["file", "folder"] = "file"
    staged: tuple[str, ...] = ()
    inode: int = 0
    size: int | None = None
    digest: str | None = None
    source: str | None = None
    """The former path of what was renamed."""


class Done(Struct, frozen=True, tag="done", tag_field="r", omit_defaults=True):
    """The change was made at `at`; `size` where it is known better than before."""

    id: str
    at: int
    size: int | None = None


class Undone(Struct, frozen=True, tag="undone", tag_field="r"):
    """The change was refused, or never came to be made."""

    id: str


Record = Header | Intent | Done | Undone

_encode = msgspec.json.Encoder().encode
_decoder: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)
_CRC_DIGITS = 8


def line_of(record: Record) -> bytes:
    """A record as its line."""
    body = _encode(record)
    return b"%08x %s\n" % (zlib.crc32(body), body)


def record_of(line: bytes) -> Record | None:
    """The record of a line without its newline; None where it is broken."""
    body = line[_CRC_DIGITS + 1 :]
    try:
        if int(line[:_CRC_DIGITS], 16) != zlib.crc32(body):
            return None
        return _decoder.decode(body)
    except (ValueError, msgspec.MsgspecError):
        return None
