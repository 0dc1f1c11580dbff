"""A grammar of argparse -> the synopsis, options and commands of a page."""

from __future__ import annotations

import argparse
import re
from argparse import Action, ArgumentParser
from collections.abc import Iterator
from typing import Any

from deploy.man import roff

Tree = argparse._SubParsersAction


def synopsis(program: ArgumentParser) -> str:
    """A line for each command."""
    common = _common(program)
    return roff.synopsis(line for leaf, _ in leaves(program) for line in _usages(leaf, common))


def options(program: ArgumentParser) -> str:
    """The options of the program, and those that all its commands have."""
    found = {name: action for action in _optional(program) for name in action.option_strings[-1:]}
    for leaf, _ in leaves(program):
        for action in _optional(leaf):
            if action.option_strings[-1] in _common(program):
                found.setdefault(action.option_strings[-1], action)
    return "\n".join(_item(action, program) for action in found.values())


def commands(program: ArgumentParser) -> str:
    """A part for each command: what it does, its arguments, its own options."""
    return "\n".join(_command(leaf, summary, _common(program)) for leaf, summary in leaves(program))


def entries(text: str, title: str) -> str:
    """The paragraph `title` of an epilog: lines such as "  0  all went well", then sentences."""
    block = next(part for part in text.split("\n\n") if part.startswith(f"{title}:"))
    items: list[list[str]] = []
    rest: list[str] = []
    for line in block.splitlines()[1:]:
        if entry := re.fullmatch(r"  (\S+)\s+(.*)", line):
            items.append([entry[1], entry[2]])
        elif line.startswith("   "):
            items[-1][1] += f" {line.strip()}"
        else:
            rest.append(line)
    shown = [roff.item([f"\\fB{roff.escaped(tag)}\\fR"], roff.prose(said)) for tag, said in items]
    return "\n".join([*shown, *([".PP", roff.prose(" ".join(rest))] if rest else [])])


def leaves(parser: ArgumentParser, summary: str = "") -> Iterator[tuple[ArgumentParser, str]]:
    """The commands that can be given, each with what the list of commands says of it."""
    trees: list[Tree[Any]] = [action for action in parser._actions if isinstance(action, Tree)]
    if not trees:
        yield parser, summary
    for tree in trees:
        told = {choice.dest: choice.help or "" for choice in tree._choices_actions}
        for name, below in tree.choices.items():
            yield from leaves(below, told[name])


def _optional(parser: ArgumentParser) -> list[Action]:
    return [action for action in parser._actions if action.option_strings]


def _common(program: ArgumentParser) -> set[str]:
    """The long names of the options that every command has."""
    names = [{a.option_strings[-1] for a in _optional(leaf)} for leaf, _ in leaves(program)]
    return set.intersection(*names)


def _usages(leaf: ArgumentParser, common: set[str]) -> list[str]:
    if leaf.usage:
        return [line.strip() for line in leaf.usage.splitlines()]
    words = [leaf.prog]
    together = {a: group for group in leaf._mutually_exclusive_groups for a in group._group_actions}
    done: set[int] = set()
    for action in sorted(leaf._actions, key=lambda action: not action.option_strings):
        if action.option_strings and action.option_strings[-1] in common:
            continue
        group = together.get(action)
        if group is None:
            words.append(_word(action, brackets=not action.required))
        elif id(group) not in done:
            done.add(id(group))
            either = " | ".join(_word(each, brackets=False) for each in group._group_actions)
            words.append(f"{{{either}}}" if group.required else f"[{either}]")
    return [" ".join(words)]


def _word(action: Action, *, brackets: bool) -> str:
    name = _value(action) if not action.option_strings else action.option_strings[0]
    if action.option_strings and action.nargs != 0:
        name = f"{name} {_value(action)}"
    if action.nargs == "+" and "..." not in name:
        name = f"{name}..."
    return f"[{name}]" if brackets else name


def _value(action: Action) -> str:
    if action.choices is not None and action.metavar is None:
        return f"{{{','.join(map(str, action.choices))}}}"
    return str(action.metavar or action.dest.upper())


def _command(leaf: ArgumentParser, summary: str, common: set[str]) -> str:
    parts = [roff.heading(leaf.prog), roff.synopsis(_usages(leaf, common)), ".PP"]
    parts.append(roff.prose(roff.sentence(leaf.description or summary)))
    for action in leaf._actions:
        own = not action.option_strings or action.option_strings[-1] not in common
        if own and action.help:
            parts.append(_item(action, leaf))
    if leaf.epilog:
        title, _, text = leaf.epilog.partition("\n")
        parts += [".PP", roff.prose(f"{roff.sentence(title)} {text}")]
    return "\n".join(parts)


def _item(action: Action, parser: ArgumentParser) -> str:
    tag = ", ".join(action.option_strings)
    if action.nargs != 0:
        tag = f"{tag} {_value(action)}".strip()
    said = (action.help or "") % {**vars(action), "prog": parser.prog}
    return roff.item([roff.usage(tag)], roff.prose(roff.sentence(said)))
