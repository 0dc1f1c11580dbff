"""forkctl quota: how full the accounts are, and whether their charges are right."""

from __future__ import annotations

import argparse

from forkd import controlmessages, reports
from forkd.admin import output, records, render
from forkd.admin.controlclient import ignore
from forkd.admin.exits import CtlError, Exit
from forkd.admin.results import Quota
from forkd.admin.site import Site
from forkd.units import format_bytes

NOBODY = "there are no accounts; make one with forkctl user add NAME"
_LEGEND = "USED includes RESERVED, the whole sizes of the uploads under way"


def quota(site: Site, args: argparse.Namespace) -> int:
    found = [
        Quota(
            name=account.name,
            quota=account.quota,
            limit=account.limit,
            used=account.used,
            reserved=account.reserved,
        )
        for account in records.accounts(site, args.name or "")
    ]
    output.show(site.json, found, lambda: _screen(found))
    return Exit.OK


def verify(site: Site, args: argparse.Namespace) -> int:
    """Exit code 1 when an account is charged wrongly and stays so."""
    request = controlmessages.VerifyQuota(args.name, args.fix)
    line = ignore if site.json else output.progress
    found = site.control().get(request, reports.Comparisons, line, timeout=None).accounts
    if args.name is not None and not found:
        raise CtlError(Exit.FAILED, f"there is no account named {args.name!r}")
    wrong = [account for account in found if account.drift and not account.fixed]
    output.show(site.json, found, lambda: _verified(found, len(wrong), args.fix))
    return Exit.FAILED if wrong else Exit.OK


def _screen(found: list[Quota]) -> str:
    if not found:
        return NOBODY
    rows = [
        (
            account.name,
            format_bytes(account.used),
            render.limit(account.limit),
            render.share(account.used, account.limit),
            format_bytes(account.reserved),
        )
        for account in found
    ]
    headings = ("NAME", "USED", "LIMIT", "FULL", "RESERVED")
    return f"{render.table(headings, rows, 'USED LIMIT FULL RESERVED')}\n{_LEGEND}"


def _verified(found: list[reports.Comparison], wrong: int, fix: bool) -> str:
    rows = []
    for account in found:
        verdict = "right" if not account.drift else ("mended" if account.fixed else "wrong")
        if account.error:
            verdict = account.error
        elif not account.exact:
            verdict += " (uploads were under way)"
        sizes = (format_bytes(size) for size in (account.charged, account.actual))
        rows.append((account.user, *sizes, f"{account.drift:+d}", verdict))
    if not rows:
        return "there are no accounts"
    shown = render.table(
        ("USER", "CHARGED", "DISK", "DRIFT", "VERDICT"), rows, "CHARGED DISK DRIFT"
    )
    hint = "" if fix or not wrong else "\nforkctl quota verify --fix charges what is on the disk"
    return shown + hint
