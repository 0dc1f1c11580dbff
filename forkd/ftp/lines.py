"""Bytes of a control connection -> command lines.

A line ends with LF; a CR before it goes with it (RFC 959 section 5.3.1 wants both, scripts send LF
alone).  Telnet commands within a line are taken out (RFC 854): those that come with ABOR, and
options nobody negotiates here.  A line that is too long is dropped up to its end and told once.
The same bytes give the same lines, however they are cut.
"""

from __future__ import annotations

import re

LINE_MAX = 8 * 1024
"""Bytes of a line: the longest path, spelled with every byte doubled."""

_TELNET = re.compile(
    rb"\xff(?:(\xff)"  # a byte of 255 itself
    rb"|[\xfb-\xfe][\x00-\xff]?"  # WILL, WONT, DO, DONT and an option
    rb"|\xfa[\x00-\xff]*?(?:\xff\xf0|$)"  # subnegotiation
    rb"|[\xf0-\xf9])"  # IP, DM, AYT ...
)


class Overlong:
    """In place of a line that was too long."""


OVERLONG = Overlong()


class Lines:
    """Bytes in, lines out."""

    __slots__ = ("_at", "_buffer", "_skipping")

    def __init__(self) -> None:
        self._buffer = b""
        self._at = 0
        self._skipping = False

    @property
    def buffered(self) -> int:
        """Bytes that came and belong to no line that was taken."""
        return len(self._buffer) - self._at

    @property
    def full(self) -> bool:
        """More came than the longest line and its CR: `next` takes a line of it or drops it."""
        return self.buffered > LINE_MAX + 1

    def receive(self, data: bytes | memoryview) -> None:
        rest = self._buffer[self._at :]
        self._buffer, self._at = rest + bytes(data) if rest else bytes(data), 0

    def next(self) -> bytes | Overlong | None:
        """The next line without its end, OVERLONG in place of one; None when none is complete."""
        while True:
            end = self._buffer.find(b"\n", self._at)
            if end < 0:
                if self.full:
                    self.drop()
                    self._skipping = True
                return None
            line = self._buffer[self._at : end].removesuffix(b"\r")
            self._at = end + 1
            if self._at == len(self._buffer):
                self._buffer, self._at = b"", 0
            if self._skipping or len(line) > LINE_MAX:
                self._skipping = False
                return OVERLONG
            plain = _plain(line)
            if plain:
                return plain

    def drop(self) -> None:
        """Forget what was not taken."""
        self._buffer, self._at, self._skipping = b"", 0, False


def _plain(line: bytes) -> bytes:
    if b"\xff" in line:
        line = _TELNET.sub(lambda found: found[1] or b"", line)
    return line.replace(b"\r\0", b"\r") if b"\0" in line else line


def escape(reply: bytes) -> bytes:
    """A reply as it travels: a byte of 255 is doubled."""
    return reply.replace(b"\xff", b"\xff\xff") if b"\xff" in reply else reply
