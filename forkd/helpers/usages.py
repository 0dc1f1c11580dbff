"""Which accounts have series of their own: the fullest; the rest are summed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

OTHERS = "_other"
"""The label under which all accounts but the fullest are summed."""


class Account(Protocol):
    """What is told of an account, in bytes; a `limit` of None is unlimited."""

    @property
    def name(self) -> str: ...
    @property
    def charged(self) -> int: ...
    @property
    def limit(self) -> int | None: ...
    @property
    def reserved(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Usage:
    """One user's series (or the others' sum), in bytes."""

    user: str
    used: int
    reserved: int
    limit: int | None

    @property
    def fullness(self) -> tuple[float, int]:
        """Sorts by the used part of the limit, then by use."""
        if self.limit is None:
            return 0.0, self.used
        return (self.used / self.limit if self.limit else 1.0), self.used


def fullest(accounts: Iterable[Account], top: int) -> list[Usage]:
    """The `top` fullest accounts and the sum of the rest as OTHERS.

    The sum has a limit only where every account in it has one.
    """
    usages: dict[str, Usage] = {}
    for cell in accounts:
        usage = Usage(cell.name, cell.charged, cell.reserved, cell.limit)
        # one series twice would make Prometheus drop the whole scrape
        known = usages.get(usage.user)
        usages[usage.user] = usage if known is None else _sum(usage.user, [known, usage])
    ranked = sorted(usages.values(), key=lambda usage: usage.fullness, reverse=True)
    if len(ranked) <= top:
        return ranked
    shown = [usage for usage in ranked[:top] if usage.user != OTHERS]
    rest = [usage for usage in ranked if usage not in shown]
    return [*shown, _sum(OTHERS, rest)]


def _sum(user: str, usages: list[Usage]) -> Usage:
    limits = [usage.limit for usage in usages if usage.limit is not None]
    return Usage(
        user,
        sum(usage.used for usage in usages),
        sum(usage.reserved for usage in usages),
        sum(limits) if len(limits) == len(usages) else None,
    )
