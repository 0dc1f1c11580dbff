"""forkctl drain and undrain."""

from __future__ import annotations

import argparse

from forkd import controlmessages, reports
from forkd.admin import output
from forkd.admin.controlclient import ignore
from forkd.admin.exits import Exit
from forkd.admin.site import Site
from forkd.units import format_count


def drain(site: Site, args: argparse.Namespace) -> int:
    """Returns when the last session has ended; whoever interrupts it lets forkd go on draining."""
    timeout = None if args.timeout is None else float(args.timeout)
    request: controlmessages.ControlRequest = controlmessages.StopServing(timeout)
    if args.slot is not None:
        request = controlmessages.ReplaceWorker(args.slot, timeout)
    line = ignore if site.json else output.progress
    done = site.control().get(request, reports.Drained, line, timeout=None)

    def text() -> str:
        ended = f"{format_count(done.sessions, 'session')} ended in {done.took:.1f} s"
        if args.slot is not None:
            return f"{ended}; another worker serves in place of that in slot {args.slot}"
        return f"{ended}; no new ones until forkctl undrain"

    output.show(site.json, done, text)
    return Exit.OK


def undrain(site: Site, args: argparse.Namespace) -> int:  # noqa: ARG001
    done = site.control().get(controlmessages.ServeAgain(), reports.Serving)
    output.show(site.json, done, lambda: "forkd takes sessions again")
    return Exit.OK
