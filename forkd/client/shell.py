"""`forkc shell`: an interactive session, or a script on standard input.

An error ends a command, not the shell; an unknown command gets help; the end of input, quit and
exit end it.
"""

from __future__ import annotations

import cmd
import os
import readline
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from forkd.client import exits
from forkd.client.errors import AuthError, ClientError
from forkd.client.filecommands import FileCommands, UsageError
from forkd.client.operations import Operations
from forkd.client.settings import config_dir
from forkd.client.show import on_lines
from forkd.client.upload import error_code
from forkd.client.url import Url

if TYPE_CHECKING:
    from forkd.client.commands import Command

_LOGIN_TRIES = 3


def interact(command: Command) -> int:
    """Run the shell until its end; the exit status."""
    url = command.url(command.args.what)
    operations = command.operations(url, password=False)
    shell = Shell(command, operations, url)
    try:
        shell.begin()
        shell.loop()
    finally:
        operations.client.close()
    return shell.status


class Shell(FileCommands):
    """One session.  `status` is the exit status: that of the last failed command of a script."""

    doc_header = "commands (help NAME tells more):"
    free = frozenset({"help", "login", "register", "quit", "exit", "EOF", "pwd", "lcd", "lpwd"})
    """What one may do without being logged in."""

    def __init__(self, command: Command, operations: Operations, url: Url) -> None:
        super().__init__(operations, url.path.rstrip("/"))
        self._command = command
        self._url = url
        self._interactive = sys.stdin.isatty()
        self._passwords = command.passwords if self._interactive else command.passwords.of_script()
        self._logged_in = False
        self._ended = False
        self.status = exits.OK

    # log-in

    def begin(self) -> None:
        """Connect, and log in or register.  Raises ClientError when there is no server."""
        welcome = self.operations.client.connect()
        if self._passwords.ready:
            self._guarded(lambda: self._log_in(self._url.user))
            return
        if not self._interactive:
            return
        self._print(f"{welcome.server} on {self._url.server}, session {welcome.session}")
        try:
            self._first_questions(welcome.register)
        except EOFError:
            self._print("")
            self._ended = True
        except KeyboardInterrupt:
            self._print("")
        if not self._logged_in and not self._ended:
            self._print("not logged in; 'login' and 'register' are there to try again")

    def _first_questions(self, register: bool) -> None:
        if register and self._asks_to_register():
            self._guarded(lambda: self._register(""))
        for _ in range(_LOGIN_TRIES):
            if self._logged_in or self._ended:
                return
            user = input(f"User [{self._url.user}]: ").strip() or self._url.user
            self._guarded(partial(self._log_in, user))

    def _asks_to_register(self) -> bool:
        while True:
            answer = input("(l)og in or (r)egister? [l] ").strip().lower()
            if answer in ("quit", "exit"):
                self._ended = True
            if answer in ("", "l", "login", "log in", "quit", "exit"):
                return False
            if answer in ("r", "register"):
                return True
            self._print("l: log in with an account; r: make a new one; quit: leave")

    def _log_in(self, user: str) -> int:
        self._logged_in = False
        url = self._url.as_user(user)
        self.operations.client.log_in(user, self._passwords.current(url))
        self._url = url
        self._logged_in = True
        if self._interactive:
            self.operations.quota()
        return exits.OK

    def _register(self, user: str) -> int:
        if not user:
            user = input(f"New user's name [{self._url.user}]: ").strip() or self._url.user
        url = self._url.as_user(user)
        password = self._passwords.new(url, "FORKC_PASSWORD")
        client = self.operations.client
        client.register(user, password)
        client.log_in(user, password)
        self._url = url
        self._logged_in = True
        self._print(f"{user} is registered and logged in")
        return exits.OK

    # the loop

    def loop(self) -> None:
        """Read and do commands until the end."""
        self._load_history()
        while not self._ended:
            self.prompt = self._prompt()
            try:
                self.cmdloop()
                self._ended = True
            except KeyboardInterrupt:
                if not self._interactive:
                    raise
                self._print("")
        self._save_history()

    def _prompt(self) -> str:
        if not self._interactive:
            return ""
        return f"{self._url.user}:/{self.cwd}> " if self._logged_in else "(not logged in)> "

    def onecmd(self, line: str) -> bool:
        """Do one line; nothing that goes wrong ends the shell."""
        ended = False
        name = self.parseline(line)[0] or ""

        def run() -> int:
            nonlocal ended
            if not self._logged_in and name not in self.free and hasattr(self, f"do_{name}"):
                raise UsageError(f"log in first: 'login' or 'register' ({name} needs an account)")
            ended = bool(cmd.Cmd.onecmd(self, line))
            return exits.OK

        self._guarded(run, resumes=name in ("put", "get"))
        self.prompt = self._prompt()
        return ended

    def _guarded(self, action: Callable[[], int], resumes: bool = False) -> None:
        screen = self.operations.screen
        try:
            status = action()
        except UsageError as error:
            screen.error("usage", str(error))
            status = exits.USAGE
        except ClientError as error:
            screen.error(error_code(error), str(error))
            status = exits.exit_code(error)
            if isinstance(error, AuthError):
                self._logged_in = False
        except KeyboardInterrupt:
            if not self._interactive:
                raise
            hint = "; the same command goes on where it stopped" if resumes else ""
            screen.error("interrupted", f"interrupted{hint}")
            status = exits.INTERRUPTED
        if status and not self._interactive:
            self.status = status

    def did(self, status: int) -> None:
        if status and not self._interactive:
            self.status = status

    def get_names(self) -> list[str]:
        """The commands that help lists."""
        return [name for name in super().get_names() if name != "do_EOF"]

    def emptyline(self) -> bool:
        """An empty line does nothing."""
        return False

    def default(self, line: str) -> None:
        """An unknown command."""
        if line.lstrip().startswith("#"):
            return
        word = line.split()[0]
        raise UsageError(f"{word!r} is no command; 'help' lists them")

    # commands around the session

    def do_login(self, line: str) -> None:
        """login [USER]: log in, or become another user

        A script writes the password on its next line, unless FORKC_PASSWORD is set.
        """
        self._log_in(self.parse("login", line, ("user", "?")).user or self._url.user)

    def do_register(self, line: str) -> None:
        """register USER: make an account, and log in

        A script writes the password on its next line, unless FORKC_PASSWORD is set.
        """
        self._register(self.parse("register", line, ("user",)).user)

    def do_passwd(self, _line: str) -> None:
        """passwd: change the password"""
        old = self._passwords.current(self._url)
        new = self._passwords.new(self._url, "FORKC_NEW_PASSWORD")
        try:
            self.operations.client.passwd(old, new)
        except AuthError as error:
            if error.code != "auth-failed":
                raise
            self.operations.screen.error(error.code, str(error))  # and one stays logged in
            self.did(exits.NO_LOGIN)
            return
        self.operations.screen.summary({"command": "passwd"}, "the password is changed")

    def do_quit(self, _line: str) -> bool:
        """quit: end the session"""
        return True

    do_exit = do_quit

    def do_EOF(self, _line: str) -> bool:  # noqa: N802 - cmd.Cmd names it so
        """the end of input ends the session too"""
        if self._interactive:
            self._print("")
        return True

    # typing

    def completedefault(self, text: str, line: str, _begin: int, end: int) -> list[str]:
        """Complete local names after put and lcd, remote ones after the rest."""
        typed = line[:end].split()[-1] if line[:end].strip() and line[end - 1] != " " else ""
        folder, _, start = typed.rpartition("/")
        local = line.split()[0] in ("put", "lcd")
        try:
            names = _local_names(folder, typed) if local else self._remote_names(folder, typed)
        except (ClientError, OSError):
            return []
        # readline replaces `text` only, which begins after the last delimiter in the word
        cut = len(start) - len(text)
        return [name[max(0, cut) :] for name in names if name.startswith(start)]

    def _remote_names(self, folder: str, typed: str) -> list[str]:
        path = self.path((folder or "/") if typed.startswith("/") else folder)
        entries = self.operations.client.list(path)
        return [item.name + ("/" if item.type == "folder" else "") for item in entries]

    def _load_history(self) -> None:
        if self._interactive:
            readline.set_completer_delims(" \t\n/")
            with suppress(OSError, ClientError):
                readline.read_history_file(os.path.join(config_dir(), "history"))

    def _save_history(self) -> None:
        if self._interactive:
            readline.set_history_length(1000)
            with suppress(OSError, ClientError):
                readline.write_history_file(os.path.join(config_dir(), "history"))

    def _print(self, text: str) -> None:
        print(on_lines(text), file=sys.stderr, flush=True)


def _local_names(folder: str, typed: str) -> list[str]:
    path = (folder or "/") if typed.startswith("/") else (folder or ".")
    with os.scandir(os.path.expanduser(path)) as entries:
        return [entry.name + ("/" if entry.is_dir() else "") for entry in entries]
