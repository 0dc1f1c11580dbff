"""Passwords from people and programs: prompt, standard input, or made up.  Never an argument."""

from __future__ import annotations

import getpass
import secrets
import sys

from forkd.admin.exits import CtlError, Exit

_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"  # nothing that looks like something else
_GROUP = 5


def prompt(name: str) -> str:
    """Ask twice on the terminal.  Raises CtlError."""
    try:
        with open("/dev/tty", "rb"):
            pass
    except OSError:
        raise CtlError(
            Exit.USAGE, "there is no terminal to ask for a password; use --password-stdin"
        ) from None
    first = getpass.getpass(f"Password for {name}: ")
    if getpass.getpass("Once more: ") != first:
        raise CtlError(Exit.FAILED, "the passwords differ; nothing was changed")
    return first


def from_stdin() -> str:
    """The first line of standard input.  Raises CtlError."""
    line = sys.stdin.buffer.readline()
    try:
        return line.removesuffix(b"\n").removesuffix(b"\r").decode()
    except UnicodeDecodeError:
        raise CtlError(Exit.FAILED, "the password on standard input is not UTF-8 text") from None


def generated(least: int) -> str:
    """A random password of at least `least` characters and 99 bits."""
    groups = max(4, -(-(least + 1) // (_GROUP + 1)))
    return "-".join(
        "".join(secrets.choice(_ALPHABET) for _ in range(_GROUP)) for _ in range(groups)
    )
