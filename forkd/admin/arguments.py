"""Words of the command line -> values, for argparse."""

from __future__ import annotations

from argparse import ArgumentTypeError

from forkd.accounts import DEFAULT, OwnQuota
from forkd.config import PERMISSIONS, UNLIMITED
from forkd.units import Seconds, parse_bytes, parse_seconds

_WORKERS_MOST = 32
_SHORTEST = 0.2


def quota(text: str) -> OwnQuota:
    if text == DEFAULT:
        return DEFAULT
    if text == UNLIMITED:
        return "unlimited"
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{error}, nor {UNLIMITED!r}, nor {DEFAULT!r}") from None


def permissions(text: str) -> frozenset[str]:
    if text in ("all", "none"):
        return frozenset(PERMISSIONS if text == "all" else ())
    chosen = frozenset(part.strip() for part in text.split(",") if part.strip())
    unknown = sorted(chosen - frozenset(PERMISSIONS))
    if unknown or not chosen:
        known = ", ".join(PERMISSIONS)
        raise ArgumentTypeError(f"{text!r} is not all, none or some of {known}")
    return chosen


def workers(text: str) -> int:
    count = _whole(text)
    if count is None or count > _WORKERS_MOST:
        raise ArgumentTypeError(f"{text!r} is not a number from 0 to {_WORKERS_MOST}")
    return count


def positive(text: str) -> int:
    count = _whole(text)
    if not count:
        raise ArgumentTypeError(f"{text!r} is not a number above 0")
    return count


def duration(text: str) -> Seconds:
    """As in the configuration: 30, 90s, 10m."""
    try:
        return parse_seconds(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def seconds(text: str) -> float:
    return float(duration(text))


def pause(text: str) -> float:
    """Long enough that looking is not all that the daemon does."""
    value = seconds(text)
    if value < _SHORTEST:
        raise ArgumentTypeError(f"at least {_SHORTEST} seconds")
    return value


def _whole(text: str) -> int | None:
    return int(text) if text.isdecimal() and text.isascii() else None
