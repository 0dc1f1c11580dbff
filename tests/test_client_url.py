"""Addresses as people write them, and names between disk and protocol."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkd.client.errors import ProtocolError, UrlError
from forkd.client.names import base, from_bytes, join, safe_name, to_bytes, to_local, to_remote
from forkd.client.url import Url, is_url, parse_url

UNIX = "forkd+unix"


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("forkd://h", Url("forkd", "", "h", 3675, "")),
        ("forkd://alice@Example.org/", Url("forkd", "alice", "example.org", 3675, "")),
        ("forkd://a@h:99/x/y/", Url("forkd", "a", "h", 99, "x/y/")),
        ("forkd://a@h//x", Url("forkd", "a", "h", 3675, "x")),
        ("forkd+plain://a@[::1]:5/x", Url("forkd+plain", "a", "::1", 5, "x")),
        ("forkd://[2001:DB8::7]", Url("forkd", "", "2001:db8::7", 3675, "")),
        ("forkd://h/a%20b%2Fc?d#e", Url("forkd", "", "h", 3675, "a b/c?d#e")),
        ("forkd://h/%ff", Url("forkd", "", "h", 3675, "\uefff")),
        ("forkd://a%40b@h/x@y:z", Url("forkd", "a@b", "h", 3675, "x@y:z")),
        ("forkd+unix:///run/f.sock", Url(UNIX, "", "/run/f.sock", 0, "")),
        ("forkd+unix://bob@/run/f.sock:/a/b:c", Url(UNIX, "bob", "/run/f.sock", 0, "a/b:c")),
        ("forkd+unix:///run/f%3Ag.sock:x", Url(UNIX, "", "/run/f:g.sock", 0, "x")),
    ],
)
def test_parse(text: str, url: Url) -> None:
    assert parse_url(text) == url


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("http://h/", "not an address of a forkd server"),
        ("h/x", "not an address"),
        ("forkd://", "not host, host:port"),
        ("forkd://:80/", "not host, host:port"),
        ("forkd://h:0/", "not a port"),
        ("forkd://h:65536/", "not a port"),
        ("forkd://h:x/", "not a port"),
        ("forkd://[::g]/", "not an IPv6 address"),
        ("forkd://::1/", "not host, host:port"),
        ("forkd://alice:secret@h/", "a password does not belong into an address"),
        ("forkd://h/100%", "written %25"),
        ("forkd+unix://run/f.sock", "must be absolute"),
        ("forkd+unix:///" + "x" * 107, "at most 107 bytes"),
    ],
)
def test_what_is_refused_says_what_would_be_right(text: str, words: str) -> None:
    with pytest.raises(UrlError, match=words) as caught:
        parse_url(text)
    assert "secret" not in str(caught.value)


part = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
private = st.sampled_from(["\uef80", "\uefff", "%", "@", ":", "/", "[", " "])


@given(
    user=part,
    path=st.lists(part | private, max_size=4).map("".join),
    host=st.sampled_from(["h", "::1", "example.org"]),
)
def test_what_is_written_is_read_again(user: str, path: str, host: str) -> None:
    for url in (
        Url("forkd", user, host, 4000, path.lstrip("/")),
        Url("forkd+unix", user, "/run/a b:c.sock", 0, path.lstrip("/")),
    ):
        assert parse_url(str(url)) == url


def test_the_server_alone() -> None:
    assert parse_url("forkd://a@[::1]/x").server == "[::1]:3675"
    assert parse_url("forkd+unix://a@/s:/x").server == "/s"
    assert is_url("forkd+unix:///x")
    assert not is_url("./forkd://x")


# names


@given(st.binary(max_size=60).filter(lambda raw: b"\xee\xbe" not in raw and b"\xee\xbf" not in raw))
def test_every_name_on_disk_survives(raw: bytes) -> None:
    text = from_bytes(raw)
    text.encode()  # it can be said in UTF-8
    assert to_bytes(text) == raw
    assert os.fsencode(to_local(text)) == raw


def test_bytes_that_are_no_utf8_are_the_page_s_characters() -> None:
    assert to_remote(os.fsdecode(b"caf\xe9-\xc3\xa9")) == "caf\uefe9-é"
    assert os.fsencode(to_local("caf\uefe9-é")) == b"caf\xe9-\xc3\xa9"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "/etc", "../x", "a\0", "x" * 256, "é" * 128, "\ud800"]
)
def test_a_name_that_could_lead_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(ProtocolError):
        safe_name(name)


@pytest.mark.parametrize("name", ["a", "...", "..a", "a b", "x" * 255, "\uef80", "-r", "\n"])
def test_an_ordinary_name_is_not(name: str) -> None:
    assert os.path.basename(safe_name(name)) == safe_name(name)


def test_join_and_base() -> None:
    assert join("", "a") == "a"
    assert join("/", "a") == "a"
    assert join("a/", "b") == "a/b"
    assert base("a/b/") == "b"
    assert base("") == ""
