"""forkctl bans: the addresses whose log-ins failed.  Works on the limits' file itself."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager

from forkd.admin import output, render
from forkd.admin.exits import CtlError, Exit
from forkd.admin.site import Site, become_owner
from forkd.config import Config
from forkd.limits.policy import read_origin
from forkd.limits.table import Failing, LimitTable, open_table


def bans(site: Site, args: argparse.Namespace) -> int:  # noqa: ARG001
    with _table(site.config()) as table:
        found = sorted(table.failing(), key=_worst_first)
    ahead = time.time() - time.monotonic()
    rows = [
        {
            "address": one.origin,
            "failures": one.failures,
            "until": None if one.until is None else one.until + ahead,
        }
        for one in found
    ]
    output.show(site.json, rows, lambda: _screen(found))
    return Exit.OK


def lift(site: Site, address: str) -> int:
    """Forget a ban and the failures that led to it."""
    try:
        origin = read_origin(address)
    except ValueError:
        raise CtlError(
            Exit.USAGE, f"{address!r} is no address: write it as forkctl bans shows it"
        ) from None
    with _table(site.config()) as table:
        if not table.lift(origin):
            raise CtlError(Exit.FAILED, f"{origin} is not banned, and no log-in of it failed")
    output.show(site.json, {"lifted": origin}, lambda: f"{origin} may log in again")
    return Exit.OK


@contextmanager
def _table(config: Config) -> Iterator[LimitTable]:
    become_owner(config)
    try:
        table = open_table(config, 0)
    except FileNotFoundError as error:
        raise CtlError(
            Exit.NOT_RUNNING, f"{error.filename} is not there: forkd has not run yet"
        ) from None
    try:
        yield table
    finally:
        table.file.close()


def _worst_first(one: Failing) -> tuple[bool, int, str]:
    return one.until is None, -one.failures, one.origin


def _screen(found: list[Failing]) -> str:
    if not found:
        return "no address is banned, and no log-in failed lately"
    now = time.monotonic()
    rows = [
        (
            one.origin,
            str(one.failures),
            "-" if one.until is None else render.age(one.until - now + 1),
        )
        for one in found
    ]
    return render.table(("ADDRESS", "FAILURES", "BANNED FOR"), rows, "FAILURES")
