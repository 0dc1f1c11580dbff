"""Command lines: ends, Telnet, length."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkd.ftp.lines import LINE_MAX, OVERLONG, Lines, Overlong, escape


def read(*pieces: bytes) -> list[bytes | Overlong]:
    lines = Lines()
    found: list[bytes | Overlong] = []
    for piece in pieces:
        lines.receive(piece)
        while (line := lines.next()) is not None:
            found.append(line)
    return found


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"NOOP\r\n", [b"NOOP"]),
        (b"NOOP\n", [b"NOOP"]),
        (b"\r\n\n\r\nNOOP\r\n", [b"NOOP"]),
        (b"a\r\nb\nc", [b"a", b"b"]),
        (b"a\rb\r\r\n", [b"a\rb\r"]),
        (b"a\r\0b\r\n", [b"a\rb"]),
        (b"\xff\xf4\xff\xf2ABOR\r\n", [b"ABOR"]),
        (b"AB\xff\xfd\x06OR\r\n", [b"ABOR"]),
        (b"\xff\xfa\x18\x00x\xff\xf0ABOR\r\n", [b"ABOR"]),
        (b"RETR \xff\xff\r\n", [b"RETR \xff"]),
        (b"RETR \xff.txt\r\n", [b"RETR \xff.txt"]),
        (b"RETR \xff\r\n", [b"RETR \xff"]),
        (b"\xff\xf1\r\n", []),
    ],
)
def test_lines(raw: bytes, expected: list[bytes]) -> None:
    assert read(raw) == expected
    assert read(*(raw[at : at + 1] for at in range(len(raw)))) == expected


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_the_longest_line_passes_and_one_byte_more_does_not(end: bytes) -> None:
    longest = b"x" * LINE_MAX
    for cut in (1, 100, LINE_MAX, 1 << 20):
        stream = longest + end + b"y" + longest + end + b"NOOP\r\n"
        pieces = [stream[at : at + cut] for at in range(0, len(stream), cut)]
        assert read(*pieces) == [longest, OVERLONG, b"NOOP"]


def test_an_endless_line_is_not_kept() -> None:
    lines = Lines()
    for _ in range(1000):
        lines.receive(b"x" * 1000)
        assert lines.next() is None
        assert lines.buffered <= LINE_MAX + 1000
    lines.receive(b"\r\nNOOP\r\n")
    assert lines.next() is OVERLONG
    assert lines.next() == b"NOOP"


@given(st.binary(max_size=200))
def test_an_escaped_reply_reads_as_it_was(raw: bytes) -> None:
    line = raw.translate(None, b"\r\n\0") + b"."
    assert read(escape(line) + b"\r\n") == [line]
