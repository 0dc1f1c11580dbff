"""The commands about the running daemon as a whole."""

from __future__ import annotations

import argparse
import time

from forkd import controlmessages, reports
from forkd.admin import output
from forkd.admin.controlclient import ignore
from forkd.admin.exits import Exit
from forkd.admin.render import terminal_width
from forkd.admin.results import Reload
from forkd.admin.site import Site
from forkd.admin.statusview import status_screen
from forkd.units import format_count


def status(site: Site, args: argparse.Namespace) -> int:  # noqa: ARG001
    found = site.control().get(controlmessages.Status(), reports.Status)
    output.show(site.json, found, lambda: status_screen(found, time.time(), terminal_width()))
    return Exit.FAILED if found.degraded else Exit.OK


def reload(site: Site, args: argparse.Namespace) -> int:  # noqa: ARG001
    return _change(site, controlmessages.Reload())


def upgrade(site: Site, args: argparse.Namespace) -> int:  # noqa: ARG001
    return _change(site, controlmessages.Upgrade())


def _change(site: Site, request: controlmessages.Reload | controlmessages.Upgrade) -> int:
    """Show the steps to a new generation as they are taken."""
    lines: list[str] = []
    line = lines.append if site.json else output.progress
    done = site.control().get(request, reports.Reloaded, line, timeout=None)
    told = Reload(generation=done.generation, took=done.took, notes=done.notes, progress=lines)
    output.show(site.json, told, lambda: "")
    return Exit.OK


def stop(site: Site, args: argparse.Namespace) -> int:
    site.control().stop(args.now, ignore if site.json else output.progress)
    output.show(site.json, reports.Stopped(), lambda: "forkd has stopped")
    return Exit.OK


def workers(site: Site, args: argparse.Namespace) -> int:
    done = site.control().get(controlmessages.Workers(args.count), reports.Workers)
    told = f"{format_count(done.workers, 'worker')} until the next reload"
    output.show(site.json, done, lambda: told)
    return Exit.OK


def loglevel(site: Site, args: argparse.Namespace) -> int:
    done = site.control().get(controlmessages.ChangeLogLevel(args.level), reports.LogLevel)
    told = f"every process logs from {done.level} on, until the next reload"
    output.show(site.json, done, lambda: told)
    return Exit.OK
