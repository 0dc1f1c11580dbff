from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkd.units import (
    MAX_BYTES,
    Bytes,
    Seconds,
    format_bytes,
    format_seconds,
    parse_bytes,
    parse_seconds,
)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (0, 0),
        (4096, 4096),
        ("0", 0),
        ("4096", 4096),
        ("12 B", 12),
        ("64 MiB", 64 << 20),
        ("64MiB", 64 << 20),
        ("64 mb", 64_000_000),
        ("1.5 kB", 1500),
        ("64m", 64 << 20),
        ("1.5 K", 1536),
        (" 1 GiB ", 1 << 30),
        ("2T", 2 << 40),
        ("4096 PiB", MAX_BYTES),
        ("9007199254740993", 9007199254740993),  # a float would lose the last one
    ],
)
def test_sizes(text: object, count: int) -> None:
    parsed = parse_bytes(text)
    assert parsed == count
    assert type(parsed) is Bytes


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "-1",
        "1 XB",
        "1,5 K",
        "1 MiBs",
        "4097 PiB",
        "9" * 5000,
        "٣",
        -1,
        True,
        1.5,
        None,
        [1],
    ],
)
def test_what_is_no_size(text: object) -> None:
    with pytest.raises(ValueError):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (0, 0),
        (30, 30),
        (1.5, 1.5),
        ("30", 30),
        ("30s", 30),
        ("250ms", 0.25),
        ("10m", 600),
        ("1.5 h", 5400),
        ("7d", 604800),
    ],
)
def test_durations(text: object, seconds: float) -> None:
    parsed = parse_seconds(text)
    assert parsed == seconds
    assert type(parsed) is Seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "-1s",
        "1w",
        "1 s s",
        "99999999d",
        -1,
        True,
        float("nan"),
        float("inf"),
        10**400,
        None,
    ],
)
def test_what_is_no_duration(text: object) -> None:
    with pytest.raises(ValueError):
        parse_seconds(text)


@given(st.text(max_size=12))
def test_any_text_is_a_value_or_refused(text: str) -> None:
    for parse in (parse_bytes, parse_seconds):
        try:
            value = parse(text)
        except ValueError:
            continue
        assert value >= 0


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (1 << 30, "1.0 GiB"),
        (5 << 50, "5120.0 TiB"),
        (-2048, "-2.0 KiB"),
    ],
)
def test_format_bytes(count: int, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "00:00:00"), (59.9, "00:00:59"), (93784, "1d 02:03:04")]
)
def test_format_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
