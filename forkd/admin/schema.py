"""What each command prints with --json, as a JSON Schema (2020-12).

    python -m forkd.admin.schema > docs/schema/forkctl.json

A key of `$defs` is a kind of answer; `commands` names the kind of each command.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from forkd import reports
from forkd.admin import results

COMMANDS: dict[str, Any] = {
    "status": reports.Status,
    "top": results.Frame,
    "sessions": list[results.Session],
    "transfers": list[results.Session],
    "kick": reports.Kicked,
    "reload": results.Reload,
    "upgrade": results.Reload,
    "check": results.Check,
    "drain": reports.Drained,
    "undrain": reports.Serving,
    "workers": reports.Workers,
    "loglevel": reports.LogLevel,
    "stop": reports.Stopped,
    "users": list[reports.Account],
    "user add": results.NewAccount,
    "user passwd": results.Secret,
    "user set": reports.Account,
    "user remove": results.Removed,
    "user list": list[reports.Account],
    "user show": reports.Account,
    "quota": list[results.Quota],
    "quota verify": list[reports.Comparison],
    "bans": list[reports.Ban],
    "bans lift": results.Lifted,
}
"""The answer of each command; top prints one a line."""


def schema() -> dict[str, Any]:
    """The whole schema.  What is printed has every field, so every one is required."""
    kinds, found = msgspec.json.schema_components(
        list(COMMANDS.values()), ref_template="#/$defs/{name}"
    )
    for kind in found.values():
        kind["required"] = list(kind.get("properties", {}))
        for field in kind.get("properties", {}).values():
            field.pop("default", None)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "What forkctl prints with --json",
        "description": " ".join((reports.__doc__ or "").split("Rules\n")[1].split()),
        "commands": dict(zip(COMMANDS, kinds, strict=True)),
        "$defs": dict(sorted(found.items())),
    }


def text() -> str:
    """As it is kept in docs/schema."""
    return msgspec.json.format(msgspec.json.encode(schema())).decode() + "\n"


def main(argv: Sequence[str]) -> int:
    if argv:
        sys.stderr.write("usage: python -m forkd.admin.schema\n")
        return 2
    sys.stdout.write(text())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
