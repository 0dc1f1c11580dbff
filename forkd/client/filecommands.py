"""The commands of `forkc shell` that work with files; shell.py has the session around them."""

from __future__ import annotations

import argparse
import cmd
import os
import posixpath
import shlex
from collections.abc import Callable
from functools import partial
from typing import NoReturn

from forkd.client.arguments import add_moving, add_put_only, mixed
from forkd.client.errors import LocalError
from forkd.client.operations import Moving, Operations


class UsageError(Exception):
    """A line that cannot be understood."""


class LineParser(argparse.ArgumentParser):
    """Arguments of one line: a mistake is told, nothing ends."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}\n{self.format_usage().strip()}")


def words(line: str) -> list[str]:
    """A line's words, quoted as in a shell.  Raises UsageError."""
    try:
        return shlex.split(line)
    except ValueError as error:
        raise UsageError(f"{error} (a quote that is not closed?)") from None


def _folder(path: str) -> str:
    return f"{path}/" if path else ""


class FileCommands(cmd.Cmd):
    """What can be done with files.  `cwd` is the remote folder, without a "/" around it."""

    def __init__(self, operations: Operations, cwd: str) -> None:
        super().__init__()
        self.operations = operations
        self.cwd = cwd

    def did(self, status: int) -> None:
        """A command ended with this exit status."""

    def parse(self, name: str, line: str, *arguments: tuple[str, ...]) -> argparse.Namespace:
        parser = LineParser(prog=name, add_help=False, allow_abbrev=False)
        for flag in arguments:
            if flag[0].startswith("-"):
                parser.add_argument(*flag, action="store_true")
            else:
                parser.add_argument(flag[0], nargs=flag[1] if len(flag) > 1 else None)
        return mixed(parser, words(line))

    def path(self, text: str) -> str:
        """A remote path as typed -> below the account's folder."""
        whole = text if text.startswith("/") else f"/{self.cwd}/{text}"
        path = posixpath.normpath(whole).lstrip("/")
        return _folder(path) if text.rpartition("/")[2] in ("", ".", "..") else path

    def do_put(self, line: str) -> None:
        """put [-r] [-L] [-p] [-j N] FILE [TO] | FILE... TO | FILE... -t TO

        Send files to the remote path TO; without TO, one file or folder into this remote folder.
        """
        args = self._moving("put", line)
        sources = [os.path.expanduser(source) for source in args.what]
        target = self.path(args.to) if args.to else _folder(self.cwd)
        self.did(self.operations.put(sources, target, Moving.of(args)))

    def do_get(self, line: str) -> None:
        """get [-r] [-L] [-j N] PATH [TO] | PATH... TO | PATH... -t TO

        Get files to the local path TO; without TO, one file or folder into this local folder.
        """
        args = self._moving("get", line)
        paths = [self.path(path).rstrip("/") for path in args.what]
        self.did(self.operations.get(paths, os.path.expanduser(args.to or "./"), Moving.of(args)))

    def do_ls(self, line: str) -> None:
        """ls [-l] [PATH]: list a folder"""
        args = self.parse("ls", line, ("-l",), ("path", "?"))
        self.operations.ls(self.path(args.path or ""), args.l)

    def do_stat(self, line: str) -> None:
        """stat PATH...: tell about files or folders"""
        paths = self.parse("stat", line, ("path", "+")).path
        self._each(paths, self.operations.stat)

    def do_cd(self, line: str) -> None:
        """cd [PATH]: go to a remote folder"""
        path = self.path(self.parse("cd", line, ("path", "?")).path or "/").rstrip("/")
        if self.operations.client.stat(path).type != "folder":
            raise LocalError(f"/{path} is not a folder")
        self.cwd = path

    def do_pwd(self, _line: str) -> None:
        """pwd: tell the remote folder one is in"""
        self.operations.screen.result({"path": f"/{self.cwd}"}, f"/{self.cwd}\n")

    def do_lcd(self, line: str) -> None:
        """lcd [PATH]: go to a local folder"""
        path = self.parse("lcd", line, ("path", "?")).path or os.path.expanduser("~")
        try:
            os.chdir(path)
        except OSError as error:
            raise LocalError.of(error, path) from None

    def do_lpwd(self, _line: str) -> None:
        """lpwd: tell the local folder one is in"""
        self.operations.screen.result({"path": os.getcwd()}, os.getcwd() + "\n")

    def do_mkdir(self, line: str) -> None:
        """mkdir [-p] PATH...: make folders"""
        args = self.parse("mkdir", line, ("-p",), ("path", "+"))
        self._each(args.path, lambda path: self.operations.mkdir(path, args.p))

    def do_mv(self, line: str) -> None:
        """mv [-f] PATH TO: move or rename; -f replaces a file of that name"""
        args = self.parse("mv", line, ("-f",), ("path",), ("to",))
        self.operations.mv(self.path(args.path), self.path(args.to), args.f)

    def do_rm(self, line: str) -> None:
        """rm [-r] PATH...: remove files, with -r folders"""
        args = self.parse("rm", line, ("-r",), ("path", "+"))
        self._each(args.path, lambda path: self.operations.rm(path, args.r))

    def do_quota(self, _line: str) -> None:
        """quota: tell what is used and free"""
        self.operations.quota()

    def do_run(self, line: str) -> None:
        """run [NAME]: run a command that the server's administrator named, or list those"""
        name = self.parse("run", line, ("name", "?")).name
        self.did(self.operations.commands() if name is None else self.operations.run(name))

    def _each(self, paths: list[str], action: Callable[[str], int]) -> None:
        self.did(self.operations.each([partial(action, self.path(path)) for path in paths]))

    def _moving(self, name: str, line: str) -> argparse.Namespace:
        parser = LineParser(prog=name, add_help=False, allow_abbrev=False)
        add_moving(parser)
        if name == "put":
            add_put_only(parser)
        parser.add_argument("-t", "--to", metavar="TO")
        parser.add_argument("what", nargs="+")
        args = mixed(parser, words(line))
        if args.to is None and len(args.what) > 1:
            args.to = args.what.pop()
        return args
