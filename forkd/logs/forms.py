"""The forms of an event: JSON, text for people, and text or JSON with a priority before it.

What a peer sent is data: everything unprintable in it is escaped, so no name can forge a line or
steer a terminal.
"""

from __future__ import annotations

import re
from typing import Any, Protocol

import msgspec

from forkd.logs import priorities
from forkd.logs.transferline import TransferLine

_ESCAPES = re.compile(r"[^\x20-\x7e]")
_BARE = re.compile(r"^[A-Za-z0-9_./:@%+,\[\]-]+$")

_encode = msgspec.json.Encoder(enc_hook=str).encode


class Form(Protocol):
    """How an event is told.  `stamp` is RFC 3339 in UTC, `level` as in log.py."""

    def event(self, stamp: str, level: str, event: str, fields: dict[str, Any]) -> bytes:
        """One whole message."""

    def transfer(self, line: TransferLine) -> bytes:
        """One whole message."""


class Json:
    """A JSON object a line."""

    def event(self, stamp: str, level: str, event: str, fields: dict[str, Any]) -> bytes:
        return _json_line({"time": stamp, "level": level, "event": event} | fields)

    def transfer(self, line: TransferLine) -> bytes:
        return _json_line(line)


class Human:
    """The time of day, the level, the event, and name=value for each field that is not ""."""

    def event(self, stamp: str, level: str, event: str, fields: dict[str, Any]) -> bytes:
        return human_text(f"{stamp[11:19]} {level.upper():7} {event}", fields) + b"\n"

    def transfer(self, line: TransferLine) -> bytes:
        return self.event(line.time, line.level, line.event, transfer_fields(line))


class WithPriority:
    """Another form's line after its priority, for the journal's end of standard error."""

    def __init__(self, form: Form) -> None:
        self._form = form

    def event(self, stamp: str, level: str, event: str, fields: dict[str, Any]) -> bytes:
        return priorities.of_level(level) + self._form.event(stamp, level, event, fields)

    def transfer(self, line: TransferLine) -> bytes:
        return priorities.of_level(line.level) + self._form.transfer(line)


def transfer_fields(line: TransferLine) -> dict[str, Any]:
    """Those beside time, level and event."""
    fields = msgspec.structs.asdict(line)
    for name in ("time", "level", "event"):
        del fields[name]
    return fields


def human_text(start: str, fields: dict[str, Any]) -> bytes:
    """`start`, then the fields that are not "", in one line without an end."""
    parts = [f"{name}={_human_value(value)}" for name, value in fields.items() if value != ""]
    return " ".join([start, *parts]).encode(errors="backslashreplace")


def _human_value(value: Any) -> str:
    text = "; ".join(map(str, value)) if isinstance(value, list) else str(value)
    if _BARE.match(text):
        return text
    quoted = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text.replace("\\", "\\\\"))
    return '"' + quoted.replace('"', '\\"') + '"'


def _json_line(line: TransferLine | dict[str, Any]) -> bytes:
    try:
        text = _encode(line)
    except UnicodeEncodeError:  # a lone surrogate: a name that is not UTF-8
        text = _encode(_scrubbed(line))
    if not text.isascii() or b"\x7f" in text:
        text = _ESCAPES.sub(_json_escape, text.decode()).encode()
    return text + b"\n"


def _json_escape(match: re.Match[str]) -> str:
    """Printable text stays readable; the rest (C1 controls, bidi marks) is escaped."""
    character = match[0]
    if character.isprintable():
        return character
    point = ord(character)  # and no codec, which a confined process could not load any more
    if point < 0x10000:
        return f"\\u{point:04x}"
    point -= 0x10000
    return f"\\u{0xD800 | point >> 10:04x}\\u{0xDC00 | point & 0x3FF:04x}"


def _scrubbed(line: TransferLine | dict[str, Any]) -> dict[str, Any]:
    fields = line if isinstance(line, dict) else msgspec.structs.asdict(line)
    return {
        name: value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value
        for name, value in fields.items()
    }
