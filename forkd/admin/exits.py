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
    INTERRUPTED = 130  # 128 + SIGINT, as shells tell it


EXPLAINED = """\
exit codes:
  0  done; status: forkd serves
  1  refused or failed; status: degraded, or drained; quota verify: a charge is wrong; kick: nobody
     was there; check: it would be refused
  2  the command line is wrong
  3  forkd is not running
  4  cannot tell: no permission, no configuration, or no answer that can be understood
  130  interrupted
"""


class CtlError(Exception):
    """The command ends: one line for each entry of `lines`, and an exit code."""

    def __init__(self, code: Exit, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.code = code
        self.lines = lines
