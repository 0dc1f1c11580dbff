"""docs/logs.md lists the events of the code, with their levels and fields."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
METHODS = {"debug", "info", "warning", "error", "unexpected", "event"}
SPREAD = {"command", "user", "session", "hook", "id", "kind", "path"}
"""What `**_fields(...)` may stand for."""
SAID_ABOVE = {"session"}
OF_FORMS = {"transfer", "lines-lost", "line-failed", "refused"}
"""Events whose level or fields are no constants of a call."""


def _said() -> dict[str, tuple[set[str], set[str]]]:
    """event -> (levels, fields), of all calls of a log in the sources."""
    found: dict[str, tuple[set[str], set[str]]] = defaultdict(lambda: (set(), set()))
    for path in (ROOT / "forkd").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            receiver = ast.unparse(node.func.value)
            if node.func.attr not in METHODS or not receiver.endswith("log"):
                continue
            constants = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
            if not constants:
                continue
            method = node.func.attr
            levels, fields = found[str(constants[-1])]
            levels.add("error" if method == "unexpected" else method)
            fields |= {keyword.arg for keyword in node.keywords if keyword.arg}
            if method == "unexpected":
                fields |= {"error", "traceback"}
    return found


def _told() -> dict[str, tuple[set[str], set[str]]]:
    """The same of the page."""
    rows = re.findall(
        r"^\| `([a-z-]+)` \| ([a-z, ]+) \|([^|]*)\|",
        (ROOT / "docs/logs.md").read_text().partition("## Events")[2],
        re.MULTILINE,
    )
    return {
        event: (set(levels.split(", ")), set(re.findall(r"`(\w+)`", fields)))
        for event, levels, fields in rows
    }


def test_every_event_is_told_and_no_other() -> None:
    said, told = _said(), _told()
    assert len(said) > 50
    assert set(said) | OF_FORMS == set(told)


def test_levels_and_fields_are_true() -> None:
    said, told = _said(), _told()
    for event in said.keys() - OF_FORMS:
        levels, fields = said[event]
        assert told[event][0] == levels, event
        assert fields - told[event][1] <= SAID_ABOVE, event
        assert told[event][1] - fields <= SPREAD, event
