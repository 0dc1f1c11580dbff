"""Sizes in bytes and durations in seconds, as people write and read them."""

from __future__ import annotations

import re

_SIZE = re.compile(
    r"^\s*(\d+)(?:\.(\d+))?\s*(?:B|([KMGTP])(I?)(B?))?\s*$", re.IGNORECASE | re.ASCII
)
_SPAN = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?\s*$", re.ASCII)
_POWER = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

MAX_BYTES = 1 << 62
MAX_SECONDS = 100_000 * 86400.0


class Bytes(int):
    """A number of bytes, written as 4096, "64 MiB" or "64M" (powers of 1024), "64 MB" (of 1000)."""


class Seconds(float):
    """A duration, written as 30, "30s", "10m", "24h" or "7d"."""


def parse_bytes(text: object) -> Bytes:
    """Read a size, a text or a whole number; raises ValueError."""
    if isinstance(text, bool) or not isinstance(text, (int, str)):
        raise ValueError("a size is a number of bytes or a text such as '64 MiB'")
    if isinstance(text, int):
        count = text
    else:
        match = _SIZE.match(text)
        if not match:
            raise ValueError(f"{text!r} is not a size (examples: 4096, '64 MiB', '1 GiB')")
        places = match[2] or ""
        decimal = bool(match[5]) and not match[4]  # MB, of all of M, MiB and MB: as coreutils do
        unit = (1000 if decimal else 1024) ** _POWER[(match[3] or "").upper()]
        count = int(match[1] + places) * unit // 10 ** len(places)
    if not 0 <= count <= MAX_BYTES:
        raise ValueError("a size is at least 0 and at most 4096 PiB")
    return Bytes(count)


def parse_seconds(text: object) -> Seconds:
    """Read a duration, a text or a number of seconds; raises ValueError."""
    if isinstance(text, bool) or not isinstance(text, (int, float, str)):
        raise ValueError("a duration is a number of seconds or a text such as '30s'")
    if isinstance(text, str):
        match = _SPAN.match(text)
        if not match:
            raise ValueError(
                f"{text!r} is not a duration (examples: 30, '30s', '10m', '24h', '7d')"
            )
        seconds = float(match[1]) * _SECONDS[match[2] or "s"]
    else:
        seconds = text
    if not 0 <= seconds <= MAX_SECONDS:
        raise ValueError("a duration is at least 0 and at most 100000 days")
    return Seconds(seconds)


def format_bytes(count: float) -> str:
    """1536 -> '1.5 KiB'."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024 or unit == "TiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


def format_count(count: int, noun: str) -> str:
    """(1, 'session') -> '1 session', (1200, 'session') -> '1,200 sessions'."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def format_seconds(seconds: float) -> str:
    """93784 -> '1d 02:03:04'."""
    whole = int(seconds)
    days, rest = divmod(whole, 86400)
    clock = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days}d {clock}" if days else clock
