"""The commented etc/forkd.toml and the types of forkd.config -> the keys of forkd.toml(5)."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from deploy.man import roff
from forkd.config import Config
from forkd.configread import read_value
from forkd.listen import ListenAddress, Masquerade, PortRange
from forkd.units import Bytes, Seconds

_SECTION = re.compile(r"(?:# )?\[(\w+)(\.\w+)?\]")
_KEY = re.compile(r"(?:# )?(\w+) = (.+?)(?: +# (.*))?")


@dataclass
class Group:
    """Keys that one comment tells of; `keys` are pairs of name and value, as written."""

    comment: list[str]
    keys: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Section:
    """`tables`: it holds tables whose names the administrator chooses."""

    name: str
    tables: bool
    comment: list[str]
    groups: list[Group] = field(default_factory=list)


def sections(text: str) -> list[Section]:
    """What the commented file tells, in its order."""
    found: list[Section] = []
    comment: list[str] = []
    for line in text.splitlines():
        if section := _SECTION.fullmatch(line):
            if not found or found[-1].name != section[1]:
                found.append(Section(section[1], bool(section[2]), comment))
            comment = []
        elif found and (key := _KEY.fullmatch(line)):
            if comment or key[3] or not found[-1].groups or found[-1].tables:
                note = [roff.sentence(key[3])] if key[3] else []
                found[-1].groups.append(Group(comment + note))
            found[-1].groups[-1].keys.append((key[1], key[2]))
            comment = []
        elif line.startswith("# "):
            comment.append(line.removeprefix("# "))
        else:
            comment = []
    return found


def page(text: str) -> str:
    """All keys as troff.  Raises ValueError where the file and forkd.config differ."""
    kinds = {name: kind for name, kind in get_type_hints(Config).items() if name != "source"}
    found = sections(text)
    if [section.name for section in found] != list(kinds):
        raise ValueError(f"other sections: {[section.name for section in found]}")
    return "\n".join(line for each in found for line in _section(each, kinds[each.name]))


def _section(section: Section, kind: Any) -> Iterator[str]:
    kind = get_args(kind)[1] if section.tables else kind
    hints = get_type_hints(kind, include_extras=True)
    defaults = {each.name: each.default for each in msgspec.structs.fields(kind)}
    named = [name for group in section.groups for name, _ in group.keys]
    if sorted(named) != sorted(hints):
        raise ValueError(f"[{section.name}] has {sorted(hints)}, the file tells of {sorted(named)}")
    yield roff.heading(f"[{section.name}.NAME]" if section.tables else f"[{section.name}]")
    if section.comment:
        yield roff.prose(" ".join(section.comment))
    for group in section.groups:
        tags = [_tag(name, value, hints[name], defaults[name]) for name, value in group.keys]
        yield roff.item(tags, _paragraphs(group.comment))


def _paragraphs(comment: list[str]) -> str:
    """Filled; a line that begins with a value in quotes begins a line of its own."""
    blocks: list[str] = []
    for line in comment:
        if blocks and not line.startswith('"'):
            blocks[-1] += f" {line}"
        else:
            blocks.append(line)
    return "\n.br\n".join(roff.prose(block) for block in blocks) or "\\&"


def _tag(name: str, value: str, hint: Any, default: Any) -> str:
    note = what(hint)
    if read_value(tomllib.loads(f"x = {value}")["x"], hint) != default:
        note += "; an example"
        if default is not msgspec.NODEFAULT and default is not None:
            note += f", the default is {json.dumps(default)}"
    return f"\\fB{name}\\fR = {roff.escaped(value)} ({roff.escaped(note)})"


def what(hint: Any) -> str:
    """Which values a key takes, in words."""
    bounds = None
    if get_origin(hint) is Annotated:
        hint, bounds = get_args(hint)
    choices = [each for each in get_args(hint) if each is not NoneType]
    if get_origin(hint) is Literal:
        *others, last = map(json.dumps, choices)
        return f"{', '.join(others)} or {last}" if others else last
    if get_origin(hint) is tuple:
        return _LISTS[choices[0]]
    if choices:
        return " or ".join(what(each) for each in (Annotated[choices[0], bounds], *choices[1:]))
    if hint is int and bounds:
        return f"number, {bounds.ge} to {bounds.le}"
    return _WORDS[hint]


_WORDS = {
    int: "number",
    bool: "true or false",
    str: "text",
    Bytes: "size",
    Seconds: "duration",
    PortRange: "ports",
}
_LISTS = {str: "texts", ListenAddress: "addresses", Masquerade: "addresses"}
