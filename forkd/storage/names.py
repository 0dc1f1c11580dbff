"""Paths as peers write them, checked and turned into bytes on disk.  No I/O.

A byte that is no valid UTF-8 travels as the character U+EF00 + byte (U+EF80 to U+EFFF), so that
every name on disk can be told and asked for.
"""

from __future__ import annotations

from forkd.errors import Refusal

NAME_MAX = 255
DEPTH_MAX = 256
_TO_TEXT = {0xDC00 + byte: 0xEF00 + byte for byte in range(0x80, 0x100)}
_TO_BYTES = {0xEF00 + byte: 0xDC00 + byte for byte in range(0x80, 0x100)}


def to_text(name: bytes) -> str:
    """A name on disk as text for the peer."""
    text = name.decode("utf-8", "surrogateescape")
    if text.isascii():
        return text
    plain = "".join(_spell_out(c) if 0xEF80 <= ord(c) <= 0xEFFF else c for c in text)
    return plain.translate(_TO_TEXT)


def _spell_out(char: str) -> str:
    """A real U+EF80..U+EFFF in a name is told byte by byte, or it could not be told apart."""
    return char.encode().decode("ascii", "surrogateescape")


def to_bytes(text: str) -> bytes:
    """A name as the peer wrote it as bytes on disk.  Raises Refusal (bad-name)."""
    try:
        if text.isascii():
            return text.encode()
        return text.translate(_TO_BYTES).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise Refusal("bad-name", "a name is not text") from None


def parse_path(text: str) -> tuple[bytes, ...]:
    """The parts of a path below the account's folder; () is the folder itself.

    Raises Refusal: bad-name, outside.
    """
    raw = to_bytes(text)
    return check_parts(tuple(part for part in raw.split(b"/") if part not in (b"", b".")))


def check_parts(parts: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """The names of a path, if they may exist.  Raises Refusal: bad-name, outside."""
    if any(b"\0" in part for part in parts):
        raise Refusal("bad-name", "a name cannot contain a NUL character")
    if b".." in parts:
        raise Refusal("outside", "'..' is not allowed in a path")
    if len(parts) > DEPTH_MAX:
        raise Refusal("bad-name", f"a path has at most {DEPTH_MAX} names")
    for part in parts:
        if len(part) > NAME_MAX:
            raise Refusal("bad-name", f"a name has at most {NAME_MAX} bytes")
    return parts


def parse_file_path(text: str) -> tuple[bytes, ...]:
    """Like `parse_path`, for what must have a name of its own."""
    parts = parse_path(text)
    if not parts:
        raise Refusal("bad-name", "a name is missing: this is the account's folder itself")
    return parts


def show(parts: tuple[bytes, ...]) -> str:
    """A checked path as text, with a leading slash."""
    return "/" + to_text(b"/".join(parts))
