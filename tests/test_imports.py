"""Imports run one way: the house rules about who may know whom, read from the sources."""

from __future__ import annotations

import ast
import graphlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "forkd"

LAYERS = (
    ("errors", "units", "listen", "configlines", "folders", "title"),
    (
        "config",
        "syscalls",
        "cells",
        "scoreboard",
        "messages",
        "controlmessages",
        "protocol",
        "verbs",
        "ftp.",
    ),
    ("ledger.locks", "ledger.layout", "storage.tree"),
    ("accounts", "storage.localtree", "storage.names", "digest", "ledger.file", "storage.sidecar"),
    ("storage.store", "quota", "storage.partials", "limits.", "events."),
    ("serving.throttle", "serving.remembered"),
    ("serving.transfer",),
    ("serving.session",),
    ("serving.admission",),
    ("doors.",),
    ("worker", "helpers.exporter", "helpers.keeper", "helpers.runner", "helpers.dispatcher"),
    ("master",),
    ("cli", "ctl"),
)
"""Nothing reaches a later layer than its own, over however many modules in between.

A name with a dot at its end stands for all below it.
"""

WIRE_ENGINES = ("protocol", "verbs", "ftp")
IMPURE = {"socket", "os", "time", "logging", "select", "selectors", "io", "threading", "asyncio"}

UNKNOWN_TO_THE_MASTER = (
    *("doors.", "client.", "events.", "helpers.", "serving.", "storage.", "ftp."),
    *("protocol", "verbs", "worker"),
)
"""It parses no byte from the network, and what it imports all its children carry."""

KNOWN_TO_THE_CLIENT = {"", "client", "digest", "errors", "protocol", "units", "verbs"}
"""The client is used on machines that serve nothing."""

HOLDERS = {
    "ctypes": {"syscalls"},
    "daemon": {"cli"},
    "prometheus_client": {"helpers.metrics", "helpers.exporter"},
    "rich": {"client.", "admin."},
    "setproctitle": {"title"},
    "shtab": {"admin.completion"},
    "sqlite3": {"accounts.database", "accounts.sqlite"},
    "subprocess": {
        *("helpers.command", "helpers.deliver", "helpers.dispatcher", "helpers.runner"),
        "supervisor.trial",
    },
}
"""What is kept behind one door: module -> the only rooms that import it."""


@dataclass(frozen=True)
class Import:
    """One import in a module of ours.  `early`: it is carried out when the module is loaded."""

    module: str
    early: bool


def _name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def _imports(path: Path) -> Iterator[Import]:
    yield from _walk(ast.parse(path.read_text()), True)


def _walk(node: ast.AST, early: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, early) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "relative imports hide who knows whom"
            module = child.module or ""
            names = [f"{module}.{alias.name}" for alias in child.names]
            ours = [name for name in names if name.removeprefix("forkd.") in NAMES]
            yield from (Import(name, early) for name in ours or [module])
        lazy = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from _walk(child, early and not lazy)


SOURCES = {_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
NAMES = set(SOURCES)
IMPORTS = {name: list(_imports(path)) for name, path in SOURCES.items()}


def _ours(name: str, early_only: bool) -> set[str]:
    """The modules of forkd that a module imports."""
    found = set()
    for item in IMPORTS[name]:
        if item.module.partition(".")[0] == "forkd" and (item.early or not early_only):
            target = item.module.removeprefix("forkd").removeprefix(".")
            found.add(target if target in NAMES else target.rpartition(".")[0])
    return found - {name}


def _reach(name: str, early_only: bool) -> dict[str, str]:
    """Everything a module reaches, with the way to it."""
    ways = {name: name}
    new = [name]
    while new:
        here = new.pop()
        for target in _ours(here, early_only) - ways.keys():
            ways[target] = f"{ways[here]} -> {target}"
            new.append(target)
    return ways


def _room(name: str) -> str:
    return name.partition(".")[0]


def _among(name: str, entries: Iterable[str]) -> bool:
    """Whether a module is one of these, or below one that ends with a dot."""
    return any(name == e or (e.endswith(".") and name.startswith(e)) for e in entries)


def _third_parties(name: str) -> set[str]:
    return {_room(item.module) for item in IMPORTS[name]} - {"forkd"}


def test_the_sources_are_found() -> None:
    assert {"errors", "protocol", "doors", "client", "config"} <= NAMES
    assert _ours("config", True) >= {"errors", "units", "listen"}


def test_there_is_no_circle() -> None:
    graph = {name: _ours(name, True) - {""} for name in NAMES}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"imports in a circle: {error.args[1]}")


@pytest.mark.parametrize("level", range(len(LAYERS) - 1))
def test_layers(level: int) -> None:
    later = [entry for layer in LAYERS[level + 1 :] for entry in layer]
    wrong = [
        way
        for name in NAMES
        if _among(name, LAYERS[level])
        for target, way in _reach(name, True).items()
        if _among(target, later)
    ]
    assert wrong == []


@pytest.mark.parametrize("name", sorted(n for n in NAMES if _room(n) in WIRE_ENGINES))
def test_wire_engines_are_pure(name: str) -> None:
    outside = {target for target in _ours(name, False) if _room(target) != _room(name)}
    assert outside <= {"errors"}
    others = _third_parties(name)
    assert others - {"msgspec"} <= set(sys.stdlib_module_names) - IMPURE


def test_what_the_wire_engines_rest_on_is_pure_too() -> None:
    assert _ours("errors", False) == set()
    assert not _third_parties("errors") & IMPURE


def test_the_core_knows_no_door_and_no_door_another() -> None:
    outside = {"doors", "worker"}
    wrong = [
        (name, target)
        for name in NAMES
        for target in _ours(name, False)
        if _room(target) == "doors"
        and (_room(name) not in outside or _door(name) not in (_door(target), ""))
    ]
    assert wrong == []


def _door(name: str) -> str:
    """doors.native.gate -> native."""
    return [*name.split("."), ""][1] if _room(name) == "doors" else ""


def test_what_the_master_carries() -> None:
    wrong = [
        way
        for target, way in _reach("master", True).items()
        if _among(target, UNKNOWN_TO_THE_MASTER)
    ]
    assert wrong == []


def test_the_client_needs_no_server() -> None:
    wrong = [
        way
        for name in NAMES
        if _room(name) == "client"
        for target, way in _reach(name, False).items()
        if _room(target) not in KNOWN_TO_THE_CLIENT
    ]
    assert wrong == []


@pytest.mark.parametrize("module", HOLDERS)
def test_one_door_to_each(module: str) -> None:
    wrong = [
        name
        for name in NAMES
        if module in _third_parties(name) and not _among(name, HOLDERS[module])
    ]
    assert wrong == []


def test_only_declared_dependencies() -> None:
    declared = {
        *("argon2", "cryptography", "msgspec", "prometheus_client"),
        *("daemon", "lockfile", "rich", "setproctitle", "shtab"),
    }
    used = set().union(*(_third_parties(name) for name in NAMES))
    assert used - set(sys.stdlib_module_names) <= declared
