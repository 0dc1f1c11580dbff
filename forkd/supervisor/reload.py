"""What a changed configuration changes, and what it cannot change before a restart.  No I/O."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from forkd.config import Config
from forkd.supervisor.roster import Spec
from forkd.units import Bytes, Seconds, format_bytes

RESTART_ONLY = (
    *("server.user", "server.group", "server.state_dir", "server.runtime_dir", "server.pidfile"),
    *("storage.path", "accounts.max"),
)
"""Keys whose value is shared by all generations, so it stays until all of them are gone."""

WORKERS_MAX = 32


def effective(running: Config, new: Config) -> Config:
    """The new configuration with the values that cannot change now left as they are."""
    return with_kept(new, kept(running))


def kept(running: Config) -> dict[str, Any]:
    """The values that cannot change now, by their keys."""
    parts = [(key, *key.split(".")) for key in RESTART_ONLY]
    return {key: getattr(getattr(running, section), name) for key, section, name in parts}


def with_kept(new: Config, values: Mapping[str, Any]) -> Config:
    """The configuration with these values in place of its own."""
    sections: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        section, name = key.split(".")
        sections.setdefault(section, {})[name] = value
    return msgspec.structs.replace(
        new,
        **{
            section: msgspec.structs.replace(getattr(new, section), **values)
            for section, values in sections.items()
        },
    )


def differences(old: Config, new: Config) -> Iterator[tuple[str, str]]:
    """(key, "old -> new") of every key that differs."""
    for section in Config.__struct_fields__:
        before, after = getattr(old, section), getattr(new, section)
        if section in ("commands", "hooks"):
            yield from _tables(section, before, after)
        elif section != "source":
            yield from _keys(section, before, after)


def summary(old: Config, new: Config) -> list[str]:
    """Lines for people: what changed, and what needs a restart to change."""
    changed: list[str] = []
    later: list[str] = []
    for key, text in differences(old, new):
        (later if key in RESTART_ONLY else changed).append(f"{key} {text}")
    lines = [f"changed: {', '.join(changed)}"] if changed else []
    if later:
        lines.append(f"needs a restart (unchanged until then): {', '.join(later)}")
    return lines or ["changed: nothing"]


def spec_of(config: Config) -> Spec:
    """Whom the configuration wants to run."""
    helpers = {
        "runner": bool(config.commands),
        "exporter": bool(config.metrics.listen),
        "dispatcher": bool(config.hooks),
    }
    return Spec(
        worker_count(config.server.workers),
        tuple(role for role, wanted in helpers.items() if wanted),
        float(config.server.watchdog_timeout),
        float(config.server.graceful_timeout),
        config.server.drainers,
    )


def worker_count(asked: int) -> int:
    """0 is one for each CPU that this process may use."""
    return min(asked or len(os.sched_getaffinity(0)), WORKERS_MAX)


def _keys(section: str, before: Any, after: Any) -> Iterator[tuple[str, str]]:
    for name in before.__struct_fields__:
        was, now = getattr(before, name), getattr(after, name)
        if was != now:
            secret = name == "secret"
            yield f"{section}.{name}", "changed" if secret else f"{_show(was)} -> {_show(now)}"


def _tables(
    section: str, before: dict[str, Any], after: dict[str, Any]
) -> Iterator[tuple[str, str]]:
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            yield f"{section}.{name}", "removed"
        elif name not in before:
            yield f"{section}.{name}", "added"
        else:
            yield from _keys(f"{section}.{name}", before[name], after[name])


def _show(value: Any) -> str:
    if isinstance(value, Bytes):
        return format_bytes(value)
    if isinstance(value, Seconds):
        return f"{value:g}s"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return f"[{', '.join(str(item) for item in value)}]"
    return str(value) if value not in ("", None) else '""'
