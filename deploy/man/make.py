"""`make man`: the manual pages, from the grammars of the programs and the commented forkd.toml.

A template NAME.in is a page with lines such as @OPTIONS@, each of which is put in its place here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from deploy.man import grammar, keys
from forkd import __version__
from forkd.config import DEFAULT_PATH, default_text

HERE = Path(__file__).parent
NAMES = ("forkd.8", "forkctl.8", "forkc.1", "forkd.toml.5")


def pages() -> dict[str, str]:
    """name -> the page as it should be."""
    return {name: _page(name) for name in NAMES}


def _page(name: str) -> str:
    text = (HERE / f"{name}.in").read_text(encoding="utf-8")
    made = {"@VERSION@": lambda: __version__, **_PARTS[name]()}
    for mark, part in made.items():
        if mark not in text:
            raise ValueError(f"{name}.in lacks {mark}")
        text = text.replace(mark, part())
    return f'.\\" Made by `make man` of {name}.in and the sources.\n{text}'


Parts = dict[str, Callable[[], str]]


def _forkd() -> Parts:
    from forkd.cli import EPILOG, parser

    program = parser()
    for command, _ in grammar.leaves(program):
        command.set_defaults(config=DEFAULT_PATH)  # not what FORKD_CONFIG says just now
    return {
        "@SYNOPSIS@": lambda: grammar.synopsis(program),
        "@COMMANDS@": lambda: grammar.commands(program),
        "@EXITS@": lambda: grammar.entries(EPILOG, "exit codes"),
    }


def _forkctl() -> Parts:
    from forkd.admin.exits import EXPLAINED
    from forkd.admin.grammar import parser

    program = parser()
    return {
        "@OPTIONS@": lambda: grammar.options(program),
        "@COMMANDS@": lambda: grammar.commands(program),
        "@EXITS@": lambda: grammar.entries(EXPLAINED, "exit codes"),
    }


def _forkc() -> Parts:
    from forkd.client.cli import whole_parser

    program = whole_parser()
    epilog = program.epilog or ""
    return {
        "@OPTIONS@": lambda: grammar.options(program),
        "@COMMANDS@": lambda: grammar.commands(program),
        "@ADDRESSES@": lambda: grammar.entries(epilog, "addresses"),
        "@EXITS@": lambda: grammar.entries(epilog, "exit status"),
    }


def _config() -> Parts:
    return {"@KEYS@": lambda: keys.page(default_text())}


_PARTS: dict[str, Callable[[], Parts]] = {
    "forkd.8": _forkd,
    "forkctl.8": _forkctl,
    "forkc.1": _forkc,
    "forkd.toml.5": _config,
}

if __name__ == "__main__":
    for page, text in pages().items():
        (HERE / page).write_text(text, encoding="utf-8")
