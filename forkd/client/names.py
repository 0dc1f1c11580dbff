"""Names of files between this machine and the protocol (docs/protocol.md "Names").

On both machines names are bytes; in messages they are text.  A byte that is no valid UTF-8 is
written as the character U+EF00 + byte.  Python's own file functions write it as U+DC00 + byte
(PEP 383), which UTF-8 cannot carry.

A name that comes from a server is never trusted: `safe_name` stands between it and the disk.
"""

from __future__ import annotations

import os

from forkd.client.errors import ProtocolError, printable

_NAME_MAX = 255
_TO_WIRE = {0xDC00 + byte: 0xEF00 + byte for byte in range(0x80, 0x100)}
_FROM_WIRE = {0xEF00 + byte: 0xDC00 + byte for byte in range(0x80, 0x100)}


def from_bytes(raw: bytes) -> str:
    """Bytes of a path -> text for a message."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("utf-8", "surrogateescape").translate(_TO_WIRE)


def to_bytes(text: str) -> bytes:
    """Text of a message -> bytes of a path.  Raises ProtocolError for text that has none."""
    if text.isascii():
        return text.encode()
    try:
        return text.translate(_FROM_WIRE).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ProtocolError(f"{printable(text)!r} is not a name in UTF-8") from None


def to_remote(local: str) -> str:
    """A path of this machine, as Python writes it -> text for a message."""
    return from_bytes(os.fsencode(local))


def to_local(remote: str) -> str:
    """Text of a message -> a path of this machine, as Python writes it.  Raises ProtocolError."""
    return os.fsdecode(to_bytes(remote))


def safe_name(remote: str) -> str:
    """One name from a server's listing -> a local name that stays in its folder.

    Raises ProtocolError for a name that a listing cannot hold: empty, ".", "..", with a "/" or a
    NUL, or longer than a Linux file system takes.
    """
    raw = to_bytes(remote)
    if raw in (b"", b".", b"..") or b"/" in raw or b"\0" in raw or len(raw) > _NAME_MAX:
        raise ProtocolError(f"the server lists a name that is none: {printable(remote[:80])!r}")
    return os.fsdecode(raw)


def join(folder: str, name: str) -> str:
    """A remote path: `name` below `folder`."""
    return f"{folder.rstrip('/')}/{name}" if folder.strip("/") else name


def base(path: str) -> str:
    """The last name of a remote path, "" for the account's folder itself."""
    return path.rstrip("/").rpartition("/")[2]
