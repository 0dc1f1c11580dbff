"""Values as TOML gives them -> the types that a section's fields name.  No I/O.

Knows types, not keys.  What does not fit is answered with sentences that say what is allowed, one
for each element of a list that is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from msgspec import Meta

from forkd.listen import (
    ListenAddress,
    Masquerade,
    PortRange,
    parse_listen,
    parse_masquerade,
    parse_ports,
)
from forkd.units import Bytes, Seconds, parse_bytes, parse_seconds

UNLIMITED = "unlimited"


class UnfitError(Exception):
    """A value that its key cannot take; `reasons` are sentences without the key."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


def read_value(value: Any, hint: Any) -> Any:
    """The value as `hint` wants it.  Raises UnfitError."""
    if any(isinstance(text, str) and "\0" in text for text in _texts(value)):
        raise UnfitError(["contains a NUL character"])
    bounds = None
    if get_origin(hint) is Annotated:
        hint, bounds = get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        if Bytes in get_args(hint):
            return _limit(value)
        if int in get_args(hint):
            return _count(value, bounds)
        hint = next(kind for kind in get_args(hint) if kind is not NoneType)
    if get_origin(hint) is tuple:
        return _list(value, _ELEMENTS[get_args(hint)[0]], bounds)
    if get_origin(hint) is Literal:
        return _choice(value, get_args(hint))
    if hint is int:
        return _whole(value, bounds)
    return _one(value, _READERS[hint])


def _one(value: Any, read: Callable[[Any], Any]) -> Any:
    try:
        return read(value)
    except ValueError as error:
        raise UnfitError([str(error)]) from None


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false, without quotes")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a text, in quotes")
    return value


def _limit(value: Any) -> Bytes | str:
    if value == UNLIMITED:
        return UNLIMITED
    try:
        return parse_bytes(value)
    except ValueError as error:
        raise UnfitError([f"{error}, or {UNLIMITED!r}"]) from None


def _count(value: Any, bounds: Meta | None) -> int | str:
    if value == UNLIMITED:
        return UNLIMITED
    try:
        return _whole(value, bounds)
    except UnfitError as error:
        raise UnfitError([f"{error}, or {UNLIMITED!r}"]) from None


def _choice(value: Any, allowed: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise UnfitError([f"must be one of {', '.join(allowed)}"])
    return value


def _whole(value: Any, bounds: Meta | None) -> int:
    low, high = (bounds.ge, bounds.le) if bounds else (None, None)
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or (low is not None and value < low) or (high is not None and value > high):
        allowed = f", {low} to {high}" if low is not None and high is not None else ""
        raise UnfitError([f"must be a whole number{allowed}"])
    return int(value)


def _list(value: Any, read: Callable[[Any], Any], bounds: Meta | None) -> tuple[Any, ...]:
    example = _EXAMPLES[read]
    if not isinstance(value, list):
        raise UnfitError([f"must be a list of texts, such as {example}"])
    if bounds and bounds.min_length and len(value) < bounds.min_length:
        raise UnfitError([f"must not be empty: it is a list of texts, such as {example}"])
    if not all(isinstance(item, str) for item in value):
        wrong = ", ".join(repr(item) for item in value if not isinstance(item, str))
        raise UnfitError([f"must be a list of texts, such as {example}: {wrong} is no text"])
    read_items, reasons = [], []
    for item in value:
        try:
            read_items.append(read(item))
        except ValueError as error:
            reasons.append(str(error))
    if reasons:
        raise UnfitError(reasons)
    return tuple(read_items)


def _texts(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        yield from value
    else:
        yield value


_READERS: dict[Any, Callable[[Any], Any]] = {
    bool: _flag,
    str: _text,
    Bytes: parse_bytes,
    Seconds: parse_seconds,
    PortRange: parse_ports,
}
_ELEMENTS: dict[Any, Callable[[Any], Any]] = {
    str: _text,
    ListenAddress: parse_listen,
    Masquerade: parse_masquerade,
}
_EXAMPLES: dict[Callable[[Any], Any], str] = {
    _text: '["one", "two"]',
    parse_listen: '["0.0.0.0:3675", "unix:/path"]',
    parse_masquerade: '["203.0.113.7", "own for 10.0.0.0/8"]',
}
