"""forkctl sessions, transfers and kick."""

from __future__ import annotations

import argparse
import time

from forkd import controlmessages, reports
from forkd.admin import looks, output
from forkd.admin.exits import Exit
from forkd.admin.looks import TRANSFERS, Look
from forkd.admin.results import Session
from forkd.admin.sessionview import sessions_table, transfers_table
from forkd.admin.site import Site
from forkd.units import format_count


def sessions(site: Site, args: argparse.Namespace) -> int:
    found, look = _measured(site, args)
    chosen = looks.ordered(found, args.sort)
    output.show(site.json, chosen, lambda: sessions_table(chosen, time.time(), args.wide))
    return _complete(look)


def transfers(site: Site, args: argparse.Namespace) -> int:
    args.state = ""
    found, look = _measured(site, args)
    chosen = looks.ordered((each for each in found if each.state in TRANSFERS), args.sort)
    output.show(site.json, chosen, lambda: transfers_table(chosen, time.time()))
    return _complete(look)


def kick(site: Site, args: argparse.Namespace) -> int:
    """Exit code 1 when there was nobody to kick."""
    if args.user is not None:
        done = site.control().get(controlmessages.KickSessions(args.user), reports.Kicked)
        told = f"{format_count(done.kicked, 'session')} of {args.user} ended"
    else:
        done = site.control().get(controlmessages.KickSession(args.id), reports.Kicked)
        told = f"session {args.id} is ended"
    output.show(site.json, done, lambda: told)
    return Exit.OK if done.kicked else Exit.FAILED


def _measured(site: Site, args: argparse.Namespace) -> tuple[list[Session], Look]:
    """The sessions asked for, with rates where time is given to measure them.

    Where nothing moves there is nothing to measure.
    """
    control, state = site.control(), args.state or ""
    first = looks.take(control, args.user or "", state)
    if not args.interval or all(each.state in ("idle", "login") for each in first.found.sessions):
        return looks.unmeasured(first), first
    time.sleep(args.interval)
    second = looks.take(control, args.user or "", state)
    return looks.between(first, second), second


def _complete(look: Look) -> int:
    """Exit code 4 when some are missing."""
    if not look.found.silent_workers:
        return Exit.OK
    silent = format_count(look.found.silent_workers, "worker")
    output.complain(f"{silent} did not answer; its sessions are missing here")
    return Exit.CANNOT_TELL
