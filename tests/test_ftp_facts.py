"""Lines of listings, times, addresses, patterns, paths and replies of the FTP engine."""

from __future__ import annotations

import contextlib
import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkd.ftp.address import Endpoint, epsv_reply, parse_eprt, parse_port, pasv_reply
from forkd.ftp.facts import (
    FACTS,
    Item,
    facts_line,
    list_line,
    name_line,
    parse_stamp,
    stamp,
    wanted_facts,
)
from forkd.ftp.paths import resolve, show
from forkd.ftp.patterns import is_pattern, matcher
from forkd.ftp.replies import Negative, multiline, quoted, reply

NOW = 1_780_000_000.0  # 2026-05-28 20:26:40
FILE = Item(b"a b.txt", "file", 1234, NOW - 3600, 0o640, "1g2")
FOLDER = Item(b"sub", "folder", 0, NOW - 400 * 86400, 0o755, "1g3")
ALL = frozenset(("list", "read", "write", "replace", "delete", "mkdir", "move"))


def test_list_lines() -> None:
    assert list_line(FILE, NOW) == (
        b"-rw-r-----    1 ftp      ftp              1234 May 28 19:26 a b.txt\r\n"
    )
    assert list_line(FOLDER, NOW) == (
        b"drwxr-xr-x    1 ftp      ftp                 0 Apr 23  2025 sub\r\n"
    )
    future = Item(b"f", "file", 1, NOW + 7 * 86400, 0o644, "")
    assert b"Jun  4  2026 f" in list_line(future, NOW)


def test_a_name_cannot_forge_a_line() -> None:
    evil = Item(b"a\r\n226 done\x1b[2J", "file", 1, NOW, 0o644, "1g2")
    for line in (list_line(evil, NOW), name_line(evil), facts_line(evil, FACTS, ALL) + b"\r\n"):
        assert line.count(b"\n") == 1
        assert b"a??226 done?[2J" in line


def test_facts() -> None:
    assert facts_line(FILE, FACTS, ALL) == (
        b"type=file;size=1234;modify=20260528192640;perm=adfrw;unique=1g2;UNIX.mode=0640; a b.txt"
    )
    assert facts_line(FOLDER, FACTS, ALL) == (
        b"type=dir;modify=20250423202640;perm=ecdflmp;unique=1g3;UNIX.mode=0755; sub"
    )
    assert facts_line(FILE, ("size",), ALL) == b"size=1234; a b.txt"
    assert facts_line(FILE, (), ALL) == b" a b.txt"
    assert b"perm=r;" in facts_line(FILE, FACTS, {"read"})
    assert b"perm=el;" in facts_line(FOLDER, FACTS, {"list"})
    assert b"type=OS.unix=slink;" in facts_line(Item(b"x", "link", 0, 0, 0, ""), FACTS, ALL)


def test_wanted_facts_keep_our_order_and_spelling() -> None:
    assert wanted_facts(b"UNIX.MODE;size;Type;nonsense;") == ("type", "size", "UNIX.mode")
    assert wanted_facts(b"") == ()


@given(st.integers(-62135596800, 253402300799))
def test_stamps_are_read_as_they_are_written(seconds: int) -> None:
    assert parse_stamp(stamp(seconds).encode()) == seconds
    at = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=seconds)
    assert stamp(seconds) == at.strftime("%Y%m%d%H%M%S").zfill(14)


@pytest.mark.parametrize("mtime", [-1e18, 1e18, 1e300])
def test_absurd_times_are_told(mtime: float) -> None:
    assert len(stamp(mtime)) == 14
    assert list_line(Item(b"f", "file", 1, mtime, 0o644, ""), NOW)


@pytest.mark.parametrize(
    "text", [b"", b"2026", b"20260230000000", b"2026010203040x", b"20260102030405.x"]
)
def test_bad_stamps(text: bytes) -> None:
    with pytest.raises(Negative) as refused:
        parse_stamp(text)
    assert refused.value.code == 501


def test_addresses() -> None:
    assert parse_port(b"10,0,0,1,195,80") == Endpoint(1, "10.0.0.1", 50000)
    assert parse_eprt(b"|2|::ffff:0|50000|") == Endpoint(2, "::ffff:0", 50000)
    assert parse_eprt(b"!1!10.0.0.1!21!") == Endpoint(1, "10.0.0.1", 21)
    assert pasv_reply("10.0.0.1", 50000) == "Entering Passive Mode (10,0,0,1,195,80)."
    assert epsv_reply(50000) == "Entering Extended Passive Mode (|||50000|)"


@given(st.binary(max_size=40))
def test_any_address_is_read_or_refused(raw: bytes) -> None:
    for read in (parse_port, parse_eprt):
        with contextlib.suppress(Negative):
            assert 0 <= read(raw).port <= 65535


@pytest.mark.parametrize(
    ("pattern", "fits", "not_"),
    [
        (b"*", b"a", b".a"),
        (b"*.txt", b"a.txt", b"a.txt.gz"),
        (b"?.c", b"x.c", b"xx.c"),
        (b"[ab]*", b"bee", b"cee"),
        (b".*", b".a", b"a"),
        (b"*\xff*", b"a\xffb", b"ab"),
        (b"[", b"[", b"a"),
    ],
)
def test_patterns(pattern: bytes, fits: bytes, not_: bytes) -> None:
    assert is_pattern(pattern)
    assert matcher(pattern)(fits)
    assert not matcher(pattern)(not_)


def test_a_nasty_pattern_takes_no_time() -> None:
    assert not matcher(b"*a" * 100 + b"b")(b"a" * 255)


@given(st.binary(max_size=60), st.lists(st.binary(min_size=1, max_size=5), max_size=4))
def test_paths_never_leave_the_root(path: bytes, here: list[bytes]) -> None:
    parts = resolve(tuple(p for p in here if b"/" not in p and p not in (b".", b"..")), path)
    assert not {b"", b".", b".."}.intersection(parts)
    assert resolve((), show(parts)) == parts


def test_replies() -> None:
    assert reply(200, "a\r\nb") == b"200 a??b\r\n"
    assert reply(200, b"\xff") == b"200 \xff\xff\r\n"
    assert multiline(211, "A:", ["b", b"c\n"], "d") == b"211-A:\r\n b\r\n c?\r\n211 d\r\n"
    assert quoted(b'/a"b') == b'"/a""b"'
