"""Replies: codes, the form of one and of several lines, and what a refusal of the core becomes.

Clients decide by the first digit whether to try again: 4 is for now, 5 for good.
"""

from __future__ import annotations

from collections.abc import Sequence

from forkd.errors import Refusal
from forkd.ftp.lines import escape

_UNSAFE = bytes(range(32)) + b"\x7f"
_SHOWN = bytes.maketrans(_UNSAFE, b"?" * len(_UNSAFE))

FOR_REFUSAL: dict[str, int] = {
    "internal": 451,
    "bad-frame": 500,
    "bad-request": 501,
    "bad-version": 501,
    "unknown-verb": 502,
    "auth-required": 530,
    "auth-failed": 530,
    "auth-insecure": 530,
    "register-closed": 530,
    "register-refused": 530,
    "weak-password": 530,
    "denied": 550,
    "bad-name": 553,
    "outside": 550,
    "not-found": 550,
    "exists": 550,
    "is-a-folder": 550,
    "not-a-folder": 550,
    "not-a-file": 550,
    "not-empty": 550,
    "bad-range": 554,
    "quota": 552,
    "digest-mismatch": 451,
    "source-changed": 550,
    "busy": 450,
    "no-space": 452,
    "io-error": 451,
    "read-only": 450,
    "unknown-command": 550,
    "command-failed": 550,
    "kicked": 421,
    "timeout": 421,
    "going-away": 421,
    "too-many": 421,
    "banned": 421,
}
"""The one table: a code of errors.CODES -> the code of RFC 959 (554: RFC 3659 section 5.4)."""

_OTHERS = 550


class Negative(Exception):  # noqa: N818 - an answer, not an accident
    """A request is answered with this reply instead of being carried out."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


def code_for(refusal: Refusal) -> int:
    """The reply's code for a refusal of the core."""
    return FOR_REFUSAL.get(refusal.code, _OTHERS)


def reply(code: int, text: str | bytes) -> bytes:
    """A reply of one line; what cannot be printed in the text is shown as '?'."""
    return escape(b"%d %s\r\n" % (code, clean(text)))


def multiline(code: int, first: str, between: Sequence[str | bytes], last: str) -> bytes:
    """A reply of several lines (RFC 959 section 4.2), those between indented by one space."""
    lines = [b"%d-%s" % (code, clean(first))]
    lines += [b" " + clean(line) for line in between]
    lines.append(b"%d %s" % (code, clean(last)))
    return escape(b"\r\n".join(lines) + b"\r\n")


def quoted(path: bytes) -> bytes:
    """A path in quotes, those within doubled (RFC 959 appendix II)."""
    return b'"' + path.replace(b'"', b'""') + b'"'


def clean(text: str | bytes) -> bytes:
    """Without anything that could end the line."""
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "replace")
    return raw.translate(_SHOWN)
