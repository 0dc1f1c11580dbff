"""Refusals and faults, each with a stable code.

An error says whose fault it is, carries one sentence for the person who reads it, and whether
repeating the same request later can help.  It is raised where it is detected and translated once,
at the door.
"""

from __future__ import annotations

import errno
from enum import Enum


class Fault(Enum):
    """Who has to act for the error to go away."""

    PEER = "peer"
    POLICY = "policy"
    MACHINE = "machine"
    OURS = "ours"


# code -> (whose fault, can a repeat of the same request help)
# The order is the order of the counters on the scoreboard: append, never insert.
CODES: dict[str, tuple[Fault, bool]] = {
    "internal": (Fault.OURS, True),
    "bad-frame": (Fault.PEER, False),
    "bad-request": (Fault.PEER, False),
    "bad-version": (Fault.PEER, False),
    "unknown-verb": (Fault.PEER, False),
    "auth-required": (Fault.PEER, False),
    "auth-failed": (Fault.PEER, False),
    "auth-insecure": (Fault.POLICY, False),
    "register-closed": (Fault.POLICY, False),
    "register-refused": (Fault.PEER, False),
    "weak-password": (Fault.PEER, False),
    "denied": (Fault.POLICY, False),
    "bad-name": (Fault.PEER, False),
    "outside": (Fault.PEER, False),
    "not-found": (Fault.PEER, False),
    "exists": (Fault.PEER, False),
    "is-a-folder": (Fault.PEER, False),
    "not-a-folder": (Fault.PEER, False),
    "not-a-file": (Fault.PEER, False),
    "not-empty": (Fault.PEER, False),
    "bad-range": (Fault.PEER, False),
    "quota": (Fault.POLICY, False),
    "digest-mismatch": (Fault.PEER, True),
    "source-changed": (Fault.PEER, False),
    "busy": (Fault.POLICY, True),
    "no-space": (Fault.MACHINE, True),
    "io-error": (Fault.MACHINE, True),
    "read-only": (Fault.MACHINE, True),
    "unknown-command": (Fault.PEER, False),
    "command-failed": (Fault.MACHINE, False),
    "kicked": (Fault.POLICY, False),
    "timeout": (Fault.PEER, True),
    "going-away": (Fault.POLICY, True),
    "too-many": (Fault.POLICY, True),
    "banned": (Fault.POLICY, False),
}

CODE_INDEX: dict[str, int] = {code: i for i, code in enumerate(CODES)}


class Refusal(Exception):  # noqa: N818 - a refusal is an answer, not an accident
    """A request that was not carried out.  `code` is one of CODES; `message` is one sentence."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.fault, self.retry = CODES[code]


class FrameError(Refusal):
    """The byte stream itself is broken: the connection cannot go on after this."""

    def __init__(self, message: str) -> None:
        super().__init__("bad-frame", message)


class ConfigError(Exception):
    """A configuration that is refused.  Each problem names file, line, key and reason."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class StartError(Exception):
    """The daemon cannot start or reload: an address in use, a folder that cannot be written."""


_SHOWN = 256
"""Characters of a name that a message repeats."""

_ERRNO: dict[int, tuple[str, str]] = {
    errno.ENOENT: ("not-found", "there is no {what}"),
    errno.EEXIST: ("exists", "{what} exists already"),
    errno.EISDIR: ("is-a-folder", "{what} is a folder"),
    errno.ENOTDIR: ("not-a-folder", "{what} is not a folder, or a part of its path is a file"),
    errno.ENOTEMPTY: ("not-empty", "the folder {what} is not empty"),
    errno.EXDEV: ("outside", "{what} leads out of the account's folder"),
    errno.ELOOP: ("outside", "{what} leads through a loop of symbolic links"),
    errno.ENAMETOOLONG: ("bad-name", "the name {what} is too long for the storage"),
    errno.EILSEQ: ("bad-name", "the storage does not accept the name {what}"),
    errno.ENOSPC: ("no-space", "the storage is full; nothing was changed"),
    errno.EDQUOT: ("no-space", "the storage's own disk quota is used up; nothing was changed"),
    errno.EFBIG: ("no-space", "the storage does not hold files that large"),
    errno.EMFILE: ("busy", "the server has no file descriptor left; try again"),
    errno.ENFILE: ("busy", "the machine has no file descriptor left; try again"),
    errno.EROFS: ("read-only", "the storage is read-only at the moment"),
    errno.EACCES: ("denied", "the storage does not let the server reach {what}"),
    errno.EPERM: ("denied", "the storage does not let the server change {what}"),
    errno.EAGAIN: ("busy", "{what} is being changed by somebody else; try again"),
    errno.EBUSY: ("busy", "{what} is in use by the machine; try again"),
}


def from_oserror(error: OSError, what: str) -> Refusal:
    """Translate an operating-system error about `what` (a name as the peer wrote it)."""
    code, sentence = _ERRNO.get(
        error.errno or 0, ("io-error", "the storage failed on {what} (" + _symbol(error) + ")")
    )
    return Refusal(code, sentence.format(what=_quoted(what) if what else "the account's folder"))


def _quoted(what: str) -> str:
    """A name for a sentence: printable, and short enough for an answer's meta."""
    return repr(what) if len(what) <= _SHOWN else repr(what[:_SHOWN]) + "..."


def _symbol(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "unknown error")
