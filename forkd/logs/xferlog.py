"""The classic transfer log of wu-ftpd, xferlog(5), for the tools that read it.

    Wed Nov 25 08:45:22 2026 1 192.0.2.1 4096 /in/a.bin b _ i r alice ftp 0 * c

Blanks in a path become "_", bytes that cannot be printed "\\x0a" or so: a line has as many words as
its reader expects, whatever a peer names its files.
"""

from __future__ import annotations

import math
import time
from typing import Any

from forkd.logs.transferline import TransferLine

_DIRECTIONS = {"up": "i", "down": "o"}
_SERVICES = {"native": "forkd"}


class Xferlog:
    """A log's form; it has no place for events other than transfers."""

    def event(self, stamp: str, level: str, event: str, fields: dict[str, Any]) -> bytes:  # noqa: ARG002
        return b""

    def transfer(self, line: TransferLine) -> bytes:
        return xferlog_line(line, time.time())


def xferlog_line(line: TransferLine, at: float) -> bytes:
    """The line of a transfer that ended `at` seconds since 1970, shown in local time."""
    words = (
        time.strftime("%a %b %e %H:%M:%S %Y", time.localtime(at)),
        str(max(1, math.ceil(line.seconds))),
        _host(line.address),
        str(line.bytes),
        _word(line.path),
        "b",  # binary: what TYPE A converts is counted as it is on the disk
        "_",
        _DIRECTIONS[line.direction],
        "r",
        _word(line.user) or "-",
        _SERVICES.get(line.door, "ftp"),
        "0",
        "*",
        "c" if line.outcome == "ok" else "i",
    )
    return " ".join(words).encode() + b"\n"


def _host(address: str) -> str:
    """Without the port; a local socket has a uid instead."""
    if address.startswith("unix:"):
        return address
    return address.rpartition(":")[0].strip("[]") or address


def _word(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text.replace(" ", "_")
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character == " " or (character.isspace() and character > "\x9f"):
        return "_"
    if character.isprintable():
        return character
    named = "\udc80" <= character <= "\udcff"  # a byte that is not UTF-8
    raw = character.encode(errors="surrogateescape" if named else "surrogatepass")
    return "".join(f"\\x{byte:02x}" for byte in raw)
