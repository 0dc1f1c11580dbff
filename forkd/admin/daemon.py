"""The commands that speak with the running daemon."""

from __future__ import annotations

import argparse
import time
from typing import Any

from forkd import messages
from forkd.admin import output
from forkd.admin.controlclient import ignore
from forkd.admin.exits import CtlError, Exit
from forkd.admin.render import table, terminal_width
from forkd.admin.site import Site
from forkd.admin.statusview import is_degraded, sessions_screen, status_screen
from forkd.units import format_bytes, format_count


def status(site: Site, args: argparse.Namespace) -> int:  # noqa: ARG001
    body = site.control().call(messages.Status())
    output.show(site.json, body, lambda: status_screen(body, time.time(), terminal_width()))
    return Exit.FAILED if is_degraded(body) else Exit.OK


def reload(site: Site, args: argparse.Namespace) -> int:  # noqa: ARG001
    return _change(site, messages.Reload())


def upgrade(site: Site, args: argparse.Namespace) -> int:  # noqa: ARG001
    return _change(site, messages.Upgrade())


def _change(site: Site, request: messages.Reload | messages.Upgrade) -> int:
    """Show the steps to a new generation as they are taken."""
    lines: list[str] = []
    line = lines.append if site.json else output.progress
    body = site.control().call(request, line, timeout=None)
    output.show(site.json, {**body, "progress": lines}, lambda: "")
    return Exit.OK


def stop(site: Site, args: argparse.Namespace) -> int:
    site.control().stop(args.now, ignore if site.json else output.progress)
    output.show(site.json, {"stopped": True}, lambda: "forkd has stopped")
    return Exit.OK


def sessions(site: Site, args: argparse.Namespace) -> int:  # noqa: ARG001
    body = site.control().call(messages.Sessions())
    found = body.get("sessions", [])
    output.show(site.json, found, lambda: sessions_screen(found, time.time()))
    if silent := body.get("silent_workers"):
        output.complain(
            f"{format_count(silent, 'worker')} did not answer; its sessions are missing here"
        )
        return Exit.CANNOT_TELL
    return Exit.OK


def kick(site: Site, args: argparse.Namespace) -> int:
    body = site.control().call(messages.KickSession(args.id))
    output.show(site.json, body, lambda: f"session {args.id} is ended")
    return Exit.OK


def workers(site: Site, args: argparse.Namespace) -> int:
    body = site.control().call(messages.Workers(args.count))
    count = body.get("workers", args.count)
    output.show(site.json, body, lambda: f"{format_count(count, 'worker')} until the next reload")
    return Exit.OK


def verify(site: Site, args: argparse.Namespace) -> int:
    """Exit code 1 when an account is charged wrongly and stays so."""
    request = messages.VerifyQuota(args.name, args.fix)
    line = ignore if site.json else output.progress
    found = site.control().call(request, line, timeout=None).get("accounts", [])
    if args.name is not None and not found:
        raise CtlError(Exit.FAILED, f"there is no account named {args.name!r}")
    wrong = [account for account in found if account.get("drift") and not account.get("fixed")]
    output.show(site.json, found, lambda: _verified(found, len(wrong), args.fix))
    return Exit.FAILED if wrong else Exit.OK


def _verified(found: list[dict[str, Any]], wrong: int, fix: bool) -> str:
    rows = []
    for account in found:
        drift = account.get("drift", 0)
        verdict = "right" if not drift else ("mended" if account.get("fixed") else "wrong")
        if not account.get("exact", True):
            verdict += " (uploads were under way)"
        sizes = (format_bytes(account.get(key, 0)) for key in ("charged", "actual"))
        rows.append((str(account.get("user", "?")), *sizes, f"{drift:+d}", verdict))
    if not rows:
        return "there are no accounts"
    shown = table(("USER", "CHARGED", "DISK", "DRIFT", "VERDICT"), rows, "CHARGED DISK DRIFT")
    hint = "" if fix or not wrong else "\nforkctl quota verify --fix charges what is on the disk"
    return shown + hint
