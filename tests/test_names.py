"""Paths as peers write them: every name on disk can be told and asked for, nothing escapes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from forkd.errors import Refusal
from forkd.storage.names import DEPTH_MAX, parse_file_path, parse_path, show, to_bytes, to_text

NAMES = st.binary(min_size=1, max_size=60).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
)


@given(NAMES)
@example(b"\xff")
@example("\uef80".encode())
@example("\uef80\uefff".encode() + b"\x80")
@example(b"\xee\xbe")
@example("é€😀".encode())
def test_every_name_can_be_told_and_asked_for(name: bytes) -> None:
    text = to_text(name)
    assert to_bytes(text) == name
    assert parse_path(text) == (name,)
    text.encode()  # it can be sent as JSON


@given(st.tuples(NAMES, NAMES).filter(lambda names: names[0] != names[1]))
def test_two_names_are_never_told_alike(names: tuple[bytes, bytes]) -> None:
    assert to_text(names[0]) != to_text(names[1])


@given(st.text(max_size=300))
def test_whatever_is_asked_for_is_a_path_below_or_a_refusal(text: str) -> None:
    try:
        parts = parse_path(text)
    except Refusal:
        return
    for part in parts:
        assert part not in (b"", b".", b"..")
        assert b"/" not in part
        assert b"\0" not in part
    assert parse_path(show(parts)) == parts


def test_a_name_of_any_bytes_is_the_same_on_a_real_disk(tmp_path: Path) -> None:
    for name in (b"plain", "ä".encode(), b"\xff\xfe", "\uef80".encode(), b"new\nline"):
        with open(os.path.join(os.fsencode(tmp_path), to_bytes(to_text(name))), "wb"):
            pass
    told = {to_text(name) for name in os.listdir(os.fsencode(tmp_path))}
    assert told == {"plain", "ä", "\uefff\ueffe", "\uefee\uefbe\uef80", "new\nline"}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ()),
        ("/", ()),
        ("./.", ()),
        ("/a//b/./c/", (b"a", b"b", b"c")),
        ("..a/...", (b"..a", b"...")),
        ("a\\..\\b", (b"a\\..\\b",)),
    ],
)
def test_what_means_the_same_is_the_same(text: str, parts: tuple[bytes, ...]) -> None:
    assert parse_path(text) == parts


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("..", "outside"),
        ("a/../b", "outside"),
        ("a\0b", "bad-name"),
        ("x" * 256, "bad-name"),
        ("ä" * 128, "bad-name"),
        ("a/" * (DEPTH_MAX + 1), "bad-name"),
        ("\ud800", "bad-name"),
    ],
)
def test_what_cannot_be_a_path_is_refused(text: str, code: str) -> None:
    with pytest.raises(Refusal) as refused:
        parse_path(text)
    assert refused.value.code == code


def test_the_longest_that_fits(tmp_path: Path) -> None:
    assert parse_path("x" * 255) == (b"x" * 255,)
    assert len(parse_path("a/" * DEPTH_MAX)) == DEPTH_MAX


def test_a_file_needs_a_name() -> None:
    for text in ("", "/", "."):
        with pytest.raises(Refusal) as refused:
            parse_file_path(text)
        assert refused.value.code == "bad-name"
    assert parse_file_path("a") == (b"a",)
