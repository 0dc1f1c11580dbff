"""Where passwords come from: standard input, the environment, a prompt.  Never the command line.

A password that was asked for lives in memory only.
"""

from __future__ import annotations

import os
import sys

from forkd.client.errors import PasswordError, UrlError
from forkd.client.url import Url


class Passwords:
    """Finds passwords.  With `from_stdin` they are lines of standard input, in order of need."""

    def __init__(self, from_stdin: bool) -> None:
        self._from_stdin = from_stdin

    def of_script(self) -> ScriptPasswords:
        """The passwords of a script on standard input that these would be for."""
        return ScriptPasswords(self._from_stdin)

    @property
    def ready(self) -> bool:
        """Whether a password is there without asking a person."""
        return self._from_stdin or "FORKC_PASSWORD" in os.environ

    def current(self, url: Url) -> str:
        """The password to log in with.  Raises PasswordError."""
        known = self._known("FORKC_PASSWORD")
        return self._prompt(f"Password of {url.user} on {url.server}: ") if known is None else known

    def new(self, url: Url, variable: str) -> str:
        """A password to be set: asked for twice, or in the environment's `variable`."""
        prompt = f"New password of {url.user} on {url.server}: "
        known = self._known(variable)
        if known is not None:
            return known
        password = self._prompt(prompt)
        if self._prompt("The same again: ") != password:
            raise PasswordError("the two passwords differ; nothing was changed")
        return password

    def _known(self, variable: str) -> str | None:
        """A password that is there without asking a person."""
        return self._line() if self._from_stdin else os.environ.get(variable)

    def _line(self) -> str:
        password = sys.stdin.readline().rstrip("\r\n")
        if not password:
            raise PasswordError("standard input has no line with a password")
        return password

    def _prompt(self, prompt: str) -> str:
        if not os.path.exists("/dev/tty") or not _has_terminal():
            raise PasswordError(
                "there is no terminal to ask for a password;"
                " set FORKC_PASSWORD or use --password-stdin"
            )
        from getpass import getpass

        password = getpass(prompt)
        if not password:
            raise PasswordError("no password was given")
        return password


class ScriptPasswords(Passwords):
    """Passwords of a script: in the environment, else the script's next line."""

    def _known(self, variable: str) -> str | None:
        if not self._from_stdin and variable in os.environ:
            return os.environ[variable]
        return self._line()


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def local_user() -> str:
    """Who one is when an address names nobody: FORKC_USER, or the name on this machine.

    Raises UrlError.
    """
    known = os.environ.get("FORKC_USER")
    if known:
        return known
    from getpass import getuser

    try:
        return getuser()
    except (KeyError, OSError):
        raise UrlError("the address names no user, and this machine does not either") from None
