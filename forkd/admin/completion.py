"""forkctl completion: scripts that let bash, zsh and fish complete the commands of our programs.

shtab makes them of the very grammar that reads the command line, so the two cannot differ.  What a
word stands for is told by its placeholder: files, and the sessions and users that forkctl knows.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

from forkd.admin.exits import CtlError, Exit
from forkd.admin.site import Site

SHELLS = ("bash", "zsh", "fish")
PROGRAMS = ("forkctl", "forkd", "forkc")
_FILES = ("FILE", "PATH", "DIR", "FILE... URL", "URL... DEST")
_SESSIONS = "forkctl sessions --interval 0 2>/dev/null | awk '$1 ~ /-.*-/ {print $1}'"
_USERS = "forkctl user list 2>/dev/null | awk 'NR > 1 {print $1}'"
_LISTS = {"ID": ("_forkctl_sessions", _SESSIONS), "NAME": ("_forkctl_users", _USERS)}


def completion(site: Site, args: argparse.Namespace) -> int:  # noqa: ARG001
    print(script(args.shell, args.program), end="")
    return Exit.OK


def script(shell: str, program: str) -> str:
    """What the shell is to read.  Raises CtlError where shtab is not installed."""
    try:
        import shtab
    except ImportError:
        raise CtlError(
            Exit.FAILED, "the Python package shtab makes these scripts, and is not installed"
        ) from None
    grammar = _GRAMMARS[program]()
    for action in _actions(grammar):
        if action.metavar in _FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif program == "forkctl" and action.metavar in _LISTS:
            name, command = _LISTS[str(action.metavar)]
            action.complete = {"bash": name, "zsh": name, "fish": f"({command})"}  # type: ignore[attr-defined]
    preamble = ""
    if program == "forkctl" and shell in _FUNCTION:
        preamble = "".join(_FUNCTION[shell].format(*each) for each in _LISTS.values())
    made: str = shtab.complete(grammar, shell, preamble=preamble)
    return made.rstrip("\n") + "\n"


_FUNCTION = {
    "bash": '{0}() {{ compgen -W "$({1})" -- "$1"; }}\n',
    "zsh": '{0}() {{ local -a names; names=(${{(f)"$({1})"}}); compadd -a names; }}\n',
}
"""How a shell calls a list of words; fish takes the command itself."""


def _actions(grammar: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in grammar._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for below in dict.fromkeys(action.choices.values()):
                yield from _actions(below)


def _forkctl() -> argparse.ArgumentParser:
    from forkd.admin.grammar import parser

    return parser()


def _forkd() -> argparse.ArgumentParser:
    from forkd.cli import parser

    return parser()


def _forkc() -> argparse.ArgumentParser:
    from forkd.client.cli import whole_parser

    return whole_parser()


_GRAMMARS: dict[str, Callable[[], argparse.ArgumentParser]] = {
    "forkctl": _forkctl,
    "forkd": _forkd,
    "forkc": _forkc,
}
