"""systemd's journal, spoken to natively: https://systemd.io/JOURNAL_NATIVE_PROTOCOL.

Each event is one datagram with the text for people in MESSAGE, its level in PRIORITY, and its name
and fields as FORKD_EVENT, FORKD_SESSION, FORKD_USER ..., so that `journalctl FORKD_SESSION=ID`
finds what a session did.
"""

from __future__ import annotations

import re
import socket
from typing import Any

from forkd.logs import priorities
from forkd.logs.forms import human_text, transfer_fields
from forkd.logs.transferline import TransferLine

SOCKET = "/run/systemd/journal/socket"
_FIELD_MAX = 8192
"""Bytes of one value at most: an event must fit into a datagram, and a peer chooses paths."""
_NAME = re.compile(r"[^A-Z0-9_]")
_CUT = "…".encode()


class JournalForm:
    """A datagram an event."""

    def event(self, stamp: str, level: str, event: str, fields: dict[str, Any]) -> bytes:  # noqa: ARG002
        """The journal has a time of its own."""
        parts = [
            _field("MESSAGE", human_text(event, fields)),
            b"PRIORITY=%d\n" % priorities.NUMBERS[level],
            b"SYSLOG_IDENTIFIER=forkd\n",
            _field("FORKD_EVENT", event.encode(errors="backslashreplace")),
        ]
        for name, value in fields.items():
            if value != "" and value is not None:
                parts.append(_field(f"FORKD_{_NAME.sub('_', name.upper())}", _text(value)))
        return b"".join(parts)

    def transfer(self, line: TransferLine) -> bytes:
        return self.event(line.time, line.level, line.event, transfer_fields(line))


class JournalSocket:
    """Where datagrams go; one that the journal has no room for is lost.

    Connected when it is made: a process that is confined since finds no path any more.
    """

    def __init__(self, path: str = SOCKET) -> None:
        """Raises OSError: there is no journal."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise
        self._socket.setblocking(False)

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, messages: list[bytes]) -> int:
        """Send the first ones, as many as there is room for: their number."""
        for number, message in enumerate(messages):
            try:
                self._socket.send(message)
            except OSError:
                return number
        return len(messages)

    def close(self) -> None:
        self._socket.close()


def _text(value: Any) -> bytes:
    text = "\n".join(map(str, value)) if isinstance(value, list) else str(value)
    return text.encode(errors="backslashreplace")


def _field(name: str, value: bytes) -> bytes:
    if len(value) > _FIELD_MAX:
        kept = value[: _FIELD_MAX - len(_CUT)]
        value = kept.decode(errors="ignore").encode() + _CUT
    if b"\n" in value:
        return b"%s\n%s%s\n" % (name.encode(), len(value).to_bytes(8, "little"), value)
    return b"%s=%s\n" % (name.encode(), value)
