"""Sizes in bytes and durations in seconds, as people write and read them."""

from __future__ import annotations

import re

_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(B|[KMGTP]i?B?)?\s*$", re.IGNORECASE)
_SPAN = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?\s*$")
_POWER = {"": 0, "B": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Bytes(int):
    """A number of bytes, written as 4096, "64 MiB", "1 GiB" (units are powers of 1024)."""


class Seconds(float):
    """A duration, written as 30, "30s", "10m", "24h" or "7d"."""


def parse_bytes(text: str | int) -> Bytes:
    """Read a size; raises ValueError."""
    if isinstance(text, int):
        if isinstance(text, bool) or text < 0:
            raise ValueError("a size is a number of bytes, zero or more")
        return Bytes(text)
    match = _SIZE.match(text)
    if not match:
        raise ValueError(f"{text!r} is not a size (examples: 4096, '64 MiB', '1 GiB')")
    unit = (match[2] or "").upper()
    return Bytes(float(match[1]) * 1024 ** _POWER[unit[:1]] if unit else float(match[1]))


def parse_seconds(text: str | float) -> Seconds:
    """Read a duration; raises ValueError."""
    if isinstance(text, bool):
        raise ValueError("a duration is a number of seconds or a text such as '30s'")
    if isinstance(text, (int, float)):
        if not 0 <= text < 1e10:
            raise ValueError("a duration is zero or more seconds")
        return Seconds(text)
    match = _SPAN.match(text)
    if not match:
        raise ValueError(f"{text!r} is not a duration (examples: 30, '30s', '10m', '24h', '7d')")
    return Seconds(float(match[1]) * _SECONDS[match[2] or "s"])


def format_bytes(count: float) -> str:
    """1536 -> '1.5 KiB'."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024 or unit == "TiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


def format_seconds(seconds: float) -> str:
    """93784 -> '1d 02:03:04'."""
    whole = int(seconds)
    days, rest = divmod(whole, 86400)
    clock = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days}d {clock}" if days else clock
