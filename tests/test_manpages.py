"""The manual pages: as the sources say, whole, and without a fault that a formatter knows."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated, get_args, get_origin, get_type_hints

import pytest
from msgspec.structs import fields

from forkd.config import Config, default_text

sys.path.insert(0, str(Path(__file__).parents[1]))  # deploy is not installed

from deploy.man import keys, make, roff

PAGES = make.pages()


@pytest.mark.parametrize("name", make.NAMES)
def test_a_page_is_as_the_sources_say(name: str):
    assert (make.HERE / name).read_text() == PAGES[name], "`make man` makes it anew"


@pytest.mark.parametrize("name", make.NAMES)
@pytest.mark.parametrize(
    "checker", [("mandoc", "-Tlint"), ("groff", "-man", "-ww", "-z", "-Tutf8")]
)
def test_formatters_find_nothing(checker: tuple[str, ...], name: str):
    if not shutil.which(checker[0]):
        pytest.skip(f"{checker[0]} is not installed")
    checked = subprocess.run(
        [*checker, make.HERE / name], capture_output=True, text=True, timeout=60, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def told_keys() -> dict[str, dict[str, str]]:
    """section -> key -> the line that tells of it, read from the page itself."""
    found: dict[str, dict[str, str]] = {}
    for line in PAGES["forkd.toml.5"].splitlines():
        if section := re.fullmatch(r"\.SS \[(\w+)(\.NAME)?\]", line):
            found[section[1]] = {}
        elif key := re.match(r"\\fB(\w+)\\fR = ", line):
            assert key[1] not in list(found.values())[-1]
            list(found.values())[-1][key[1]] = line
    return found


def kinds() -> dict[str, type]:
    hints = get_type_hints(Config)
    del hints["source"]
    return {
        name: get_args(kind)[1] if get_origin(kind) is dict else kind
        for name, kind in hints.items()
    }


def test_every_key_is_told_with_its_range():
    told = told_keys()
    assert list(told) == list(kinds())
    for section, kind in kinds().items():
        assert sorted(told[section]) == sorted(field.name for field in fields(kind))
        for name, hint in get_type_hints(kind, include_extras=True).items():
            if get_origin(hint) is Annotated and int in (
                get_args(hint)[0],
                *get_args(get_args(hint)[0]),
            ):
                bounds = get_args(hint)[1]
                assert f"{bounds.ge} to {bounds.le}" in told[section][name]


def test_every_key_has_words():
    for section in keys.sections(default_text()):
        for group in section.groups:
            assert group.comment or section.tables, group.keys


def test_a_key_that_the_file_leaves_out_is_missed():
    text = default_text().replace("backlog = 1024\n", "")
    with pytest.raises(ValueError, match="backlog"):
        keys.page(text)


def test_a_default_that_differs_is_told():
    line = keys.page(default_text().replace("workers = 0", "workers = 3"))
    assert "workers\\fR = 3 (number, 0 to 32; an example, the default is 0)" in line


def commands(page: str) -> set[str]:
    return set(re.findall(r"^\.SS (.*)$", PAGES[page], re.MULTILINE))


def test_every_command_is_told():
    assert commands("forkd.8") == {"forkd serve", "forkd check\\-config", "forkd demo"}
    assert {"forkctl top", "forkctl user passwd", "forkctl quota"} <= commands("forkctl.8")
    assert {"forkc put", "forkc shell"} <= commands("forkc.1")


def test_the_environment_is_not_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FORKD_CONFIG", "/home/somebody/forkd.toml")
    assert make.pages() == PAGES


def test_text_is_never_a_request_of_troff():
    assert roff.prose(".so /etc/passwd") == "\\&.so /etc/passwd"
    assert roff.prose("a\\b `x-y` and --all") == "a\\eb \\fBx\\-y\\fR and \\fB\\-\\-all\\fR"


def test_what_is_in_brackets_is_not_torn_apart():
    assert roff.usage("forkc ls [-j N] URL") == (
        "\\fBforkc ls\\fR [\\fB\\-j\\fR\\~\\fIN\\fR] \\fIURL\\fR"
    )
