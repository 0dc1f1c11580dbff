"""Priorities of log lines, "<3>" and so on, for systemd's journal: sd-daemon(3)."""

from __future__ import annotations

import os
from collections.abc import Mapping

_OF_LEVEL = {"debug": b"<7>", "info": b"<6>", "warning": b"<4>", "error": b"<3>"}


def of_level(level: str) -> bytes:
    """What stands before a line of this level in the journal."""
    return _OF_LEVEL[level]


def is_journal(fd: int, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether what is written to `fd` goes to the journal: systemd.exec(5), JOURNAL_STREAM."""
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
