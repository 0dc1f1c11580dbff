"""How forkctl ends: exit codes, and the error that carries one."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes; docs/forkctl.md is their contract."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_RUNNING = 3
    CANNOT_TELL = 4


class CtlError(Exception):
    """The command ends: one line for each entry of `lines`, and an exit code."""

    def __init__(self, code: Exit, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.code = code
        self.lines = lines
