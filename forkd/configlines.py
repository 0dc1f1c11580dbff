"""Where in a TOML text a key stands: tomllib tells values only, a problem should tell its line.

Good enough for people who look for a mistake, not a second TOML parser: a look-alike inside a
multi-line text may be taken for the key.  No I/O.
"""

from __future__ import annotations

import re
import tomllib

_TABLE = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]")
_KEY = re.compile(r"\s*([A-Za-z0-9_\-.\"' \t]+?)\s*=")
_PLACE = re.compile(r" \(at line (\d+), column (\d+)\)$")


def line_of(text: str, dotted: str) -> int:
    """The line of a key ("section.key"), or else of the table it is in; 1 if neither shows."""
    here, nearest = "", 1
    for number, line in enumerate(text.splitlines(), 1):
        if table := _TABLE.match(line):
            here = name = _plain(table[1])
        elif key := _KEY.match(line):
            name = f"{here}.{_plain(key[1])}".removeprefix(".")
        else:
            continue
        if name == dotted:
            return number
        if dotted.startswith(name + "."):
            nearest = number
    return nearest


def problem_at(text: str, source: str, key: str, reason: str) -> str:
    """A problem of a key, as "file:line: key: reason"."""
    return f"{source}:{line_of(text, key)}: {key}: {reason}"


def _plain(name: str) -> str:
    """A dotted TOML key without its quotes and blanks."""
    return ".".join(part.strip().strip("\"'") for part in name.split("."))


def syntax_problem(text: str, source: str, error: tomllib.TOMLDecodeError) -> str:
    """A text that is no TOML, as "file:line: reason: the line"."""
    place = _PLACE.search(str(error))
    if place is None:
        return f"{source}: is not TOML: {error}"
    reason, number = str(error)[: place.start()], int(place[1])
    line = (text.splitlines()[number - 1 : number] or [""])[0].strip()
    quoted = f": {line}" if line else ""
    return f"{source}:{number}: is not TOML: {reason} (column {place[2]}){quoted}"
