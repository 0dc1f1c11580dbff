"""Values as text for a terminal: aligned columns, ages, sizes.  No I/O.

What comes from peers (paths, names) is escaped: a file's name must not steer a terminal.
"""

from __future__ import annotations

import datetime
import shutil
import textwrap
from collections.abc import Iterable, Sequence

from forkd.units import format_bytes


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], right: str = "") -> str:
    """Aligned columns with headings; `right` names, separated by blanks, those aligned right."""
    lines = [list(headings), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headings))]
    numeric = [heading in right.split() for heading in headings]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    )


def table_within(
    width: int,
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    right: str = "",
    spare: str = "",
) -> str:
    """A table of at most `width` characters, if it gets so narrow without the columns of `spare`.

    `spare` names, separated by blanks, what may be left out, the least needed first.
    """
    kept = list(rows)
    names = list(headings)
    spares = iter(spare.split())
    while True:
        shown = table(names, kept, right)
        if max(map(len, shown.splitlines())) <= width or not (out := next(spares, "")):
            return shown
        column = names.index(out)
        names.pop(column)
        kept = [[*row[:column], *row[column + 1 :]] for row in kept]


def flow(items: Iterable[str], width: int, gap: str = "   ") -> list[str]:
    """Lines of items; a line is longer than `width` only where a single word is."""
    lines: list[str] = []
    for item in filter(None, map(printable, items)):
        if lines and len(lines[-1]) + len(gap) + len(item) <= width:
            lines[-1] += gap + item
        else:
            lines += textwrap.wrap(item, width, break_long_words=False, break_on_hyphens=False)
    return lines


def terminal_width() -> int:
    """Characters of a line: $COLUMNS, else the terminal's, else 80; never fewer than 80."""
    return max(80, shutil.get_terminal_size((80, 24)).columns)


def pairs(rows: Iterable[tuple[str, str]]) -> str:
    """Names and their values, a line each."""
    shown = [(name, printable(value)) for name, value in rows]
    width = max(len(name) for name, _ in shown)
    return "\n".join(f"{name.ljust(width)}  {value}".rstrip() for name, value in shown)


def printable(text: str) -> str:
    """The text with everything escaped that is not plain to see."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def age(seconds: float) -> str:
    """4.2 -> '4s', 123 -> '2m 03s', 90061 -> '1d 01h'."""
    whole = max(0, int(seconds))
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days}d {hours:02}h"
    if hours:
        return f"{hours}h {minutes:02}m"
    return f"{minutes}m {whole % 60:02}s" if minutes else f"{whole}s"


def moment(seconds: float) -> str:
    """Seconds since 1970 as '2026-11-23 06:02:11 UTC'."""
    when = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return when.strftime("%Y-%m-%d %H:%M:%S UTC")


def clock(seconds: float) -> str:
    """Seconds since 1970 as '06:02:11 UTC'."""
    return moment(seconds)[11:]


def limit(count: int | None) -> str:
    """A limit in bytes."""
    return "unlimited" if count is None else format_bytes(count)


def share(used: int, of: int | None) -> str:
    """What part of a limit is used."""
    if of is None:
        return "-"
    return f"{100 * used // of}%" if of else "100%"
