"""forkctl bans: the addresses whose log-ins failed."""

from __future__ import annotations

import argparse
import time

from forkd import reports
from forkd.admin import output, records, render
from forkd.admin.exits import CtlError, Exit
from forkd.admin.results import Lifted
from forkd.admin.site import Site
from forkd.limits.policy import read_origin


def bans(site: Site, args: argparse.Namespace) -> int:  # noqa: ARG001
    found = records.bans(site)
    output.show(site.json, found, lambda: _screen(found, time.time()))
    return Exit.OK


def lift(site: Site, address: str) -> int:
    """Forget a ban and the failures that led to it."""
    try:
        origin = read_origin(address)
    except ValueError:
        raise CtlError(
            Exit.USAGE, f"{address!r} is no address: write it as forkctl bans shows it"
        ) from None
    if not records.lift(site, origin):
        raise CtlError(Exit.FAILED, f"{origin} is not banned, and no log-in of it failed")
    output.show(site.json, Lifted(lifted=origin), lambda: f"{origin} may log in again")
    return Exit.OK


def _screen(found: list[reports.Ban], now: float) -> str:
    if not found:
        return "no address is banned, and no log-in failed lately"
    rows = [
        (
            one.address,
            str(one.failures),
            "-" if one.until is None else render.age(one.until - now + 1),
        )
        for one in found
    ]
    return render.table(("ADDRESS", "FAILURES", "BANNED FOR"), rows, "FAILURES")
