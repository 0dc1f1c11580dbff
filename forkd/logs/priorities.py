"""Priorities of log lines, "<3>" and so on, for systemd's journal: sd-daemon(3)."""

from __future__ import annotations

import os
from collections.abc import Mapping

NUMBERS = {"debug": 7, "info": 6, "warning": 4, "error": 3}
"""What syslog(3) calls each level."""
_OF_LEVEL = {level: b"<%d>" % number for level, number in NUMBERS.items()}


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
