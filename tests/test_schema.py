"""docs/schema/forkctl.json and docs/forkctl-json.md are of what forkctl prints."""

from __future__ import annotations

from pathlib import Path

from forkd.admin import grammar, schema

DOCS = Path(__file__).parent.parent / "docs"


def commands() -> set[str]:
    """Those that print an answer."""
    top = grammar.parser()._subparsers
    assert top is not None
    found = set()
    for name, command in top._group_actions[0].choices.items():  # type: ignore[union-attr]
        below = command._subparsers
        found |= {f"{name} {each}" for each in below._group_actions[0].choices} if below else {name}
    return found - {"completion"}


def test_the_schema_is_up_to_date() -> None:
    kept = (DOCS / "schema/forkctl.json").read_text()
    assert kept == schema.text(), "run: python -m forkd.admin.schema > docs/schema/forkctl.json"


def test_every_command_has_an_answer_and_a_line_in_the_page() -> None:
    assert commands() | {"quota verify", "bans lift"} == set(schema.COMMANDS)
    page = (DOCS / "forkctl-json.md").read_text()
    for command, kind in schema.schema()["commands"].items():
        ref = kind.get("$ref") or kind["items"]["$ref"]
        name = ref.rpartition("/")[2]
        shown = f"list of {name}" if "items" in kind else name
        assert f"| `{command}` | {shown} |" in page


def test_every_field_is_required_and_explained_kinds_have_words() -> None:
    for name, kind in schema.schema()["$defs"].items():
        assert kind["required"] == list(kind["properties"]), name
