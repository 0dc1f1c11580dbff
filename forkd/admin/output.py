"""What forkctl writes: text for people or JSON for programs, errors on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import msgspec
from msgspec import Struct

from forkd.admin.render import printable


def show(as_json: bool, value: Struct | Sequence[Struct], text: Callable[[], str]) -> None:
    """The result of a command: `value` as JSON, or what `text` makes of it."""
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(value)).decode())
    elif shown := text():
        print(shown)
    sys.stdout.flush()


def progress(line: str) -> None:
    """A line while the command works."""
    print(printable(line), flush=True)


def complain(line: str) -> None:
    """One line on standard error that names us."""
    print(f"forkctl: {printable(line)}", file=sys.stderr, flush=True)
