"""The commands about accounts.  Those that change one need no running daemon, but tell one."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from forkd import controlmessages, reports
from forkd.accounts import ALL_PERMISSIONS, DEFAULT, check_name
from forkd.admin import ask, output, records, render
from forkd.admin.book import Book, open_book
from forkd.admin.controlclient import NotRunningError
from forkd.admin.exits import CtlError, Exit
from forkd.admin.quota import NOBODY
from forkd.admin.results import NewAccount, Removed, Secret
from forkd.admin.site import Site, become_owner
from forkd.config import PERMISSIONS, Config
from forkd.units import format_bytes


def add(site: Site, args: argparse.Namespace) -> int:
    config = site.config()
    check_name(args.name)
    password = _password(config, args)
    with _book(config) as book:
        added = book.add(
            args.name,
            password,
            home=args.home,
            quota=DEFAULT if args.quota is None else args.quota,
            permissions=ALL_PERMISSIONS if args.perms is None else args.perms,
            enabled=not args.disabled,
        )
    told = _tell(site, args.name)

    def text() -> str:
        lines = [f"account {args.name} is made"]
        if added.held:
            lines.append(
                f"its folder holds {format_bytes(added.held)} already, which are charged to it"
            )
        if args.generate:
            lines.append(f"password: {password}")
        return "\n".join(lines)

    (account,) = records.accounts(site, args.name)
    made = NewAccount(**msgspec.structs.asdict(account), password=password if args.generate else "")
    output.show(site.json, made, text)
    return told


def passwd(site: Site, args: argparse.Namespace) -> int:
    config = site.config()
    check_name(args.name)
    password = _password(config, args)
    with _book(config) as book:
        book.accounts.set_password(args.name, password)
    told = _tell(site, args.name)
    shown = Secret(name=args.name, password=password if args.generate else "")
    made = f"\npassword: {password}" if args.generate else ""
    output.show(site.json, shown, lambda: f"the password of {args.name} is changed{made}")
    return told


def change(site: Site, args: argparse.Namespace) -> int:
    if args.quota is None and args.perms is None and args.enabled is None:
        raise CtlError(
            Exit.USAGE, "user set: name a change: --quota, --perms, --enable or --disable"
        )
    with _book(site.config()) as book:
        book.change(args.name, quota=args.quota, permissions=args.perms, enabled=args.enabled)
    told = _tell(site, args.name)
    (account,) = records.accounts(site, args.name)
    output.show(site.json, account, lambda: _sheet(account))
    return told


def remove(site: Site, args: argparse.Namespace) -> int:
    with _book(site.config()) as book:
        account = book.accounts.remove(args.name)
        told = _tell(site, args.name)
        cleared = book.clear(account, args.delete_files)

    def text() -> str:
        fate = "and its files are removed"
        if not cleared.deleted:
            fate = "is removed" + (
                f"; its files stay in {cleared.home} ({format_bytes(cleared.held)})"
                if cleared.held
                else ""
            )
        return f"account {args.name} {fate}"

    shown = Removed(name=args.name, home=cleared.home, files_deleted=cleared.deleted)
    output.show(site.json, shown, text)
    return told


def show(site: Site, args: argparse.Namespace) -> int:
    (account,) = records.accounts(site, args.name)
    output.show(site.json, account, lambda: _sheet(account))
    return Exit.OK


def listing(site: Site, args: argparse.Namespace) -> int:  # noqa: ARG001
    found = records.accounts(site)
    output.show(site.json, found, lambda: _list(found))
    return Exit.OK


def users(site: Site, args: argparse.Namespace) -> int:  # noqa: ARG001
    found = records.accounts(site)
    output.show(site.json, found, lambda: _use_table(found))
    return Exit.OK


def _list(found: list[reports.Account]) -> str:
    headings = ("NAME", "ID", "ENABLED", "USED", "LIMIT", "FULL", "HOME", "PERMISSIONS")
    rows = [
        (
            account.name,
            str(account.id),
            _yes(account.enabled),
            *_space(account),
            account.home,
            _rights(account),
        )
        for account in found
    ]
    return render.table(headings, rows, "ID USED LIMIT FULL") if rows else NOBODY


def _use_table(found: list[reports.Account]) -> str:
    """Who is here, and what could keep somebody away: those who are here first."""
    headings = ("USER", "SESSIONS", "MOST", "USED", "LIMIT", "FULL", "FAILED", "ENABLED")
    rows = [
        (
            account.name,
            str(account.sessions),
            "-" if account.sessions_limit is None else str(account.sessions_limit),
            *_space(account),
            str(account.failed),
            _yes(account.enabled),
        )
        for account in sorted(found, key=lambda one: (-one.sessions, one.name))
    ]
    shown = render.table(headings, rows, "SESSIONS MOST USED LIMIT FULL FAILED")
    return shown if rows else NOBODY


@contextmanager
def _book(config: Config) -> Iterator[Book]:
    become_owner(config)
    book = open_book(config)
    try:
        yield book
    finally:
        book.close()


def _password(config: Config, args: argparse.Namespace) -> str:
    if args.generate:
        return ask.generated(config.accounts.min_password)
    return ask.from_stdin() if args.password_stdin else ask.prompt(args.name)


def _tell(site: Site, name: str) -> int:
    """Let a running daemon look at the account anew."""
    try:
        site.control().call(controlmessages.TellAccountChanged(name))
    except NotRunningError:
        pass  # it will read the accounts when it starts
    except CtlError as error:
        output.complain("the change is made, but the running daemon could not be told:")
        for line in error.lines:
            output.complain(line)
        return error.code
    return Exit.OK


def _sheet(account: reports.Account) -> str:
    used, limit, full = _space(account)
    source = "" if account.quota != DEFAULT else " (the default)"
    most = "" if account.sessions_limit is None else f" of {account.sessions_limit}"
    return render.pairs(
        [
            ("name", account.name),
            ("id", str(account.id)),
            ("home", account.home),
            ("enabled", _yes(account.enabled)),
            ("permissions", _rights(account)),
            ("limit", limit + source),
            ("used", f"{used} ({account.used} bytes), {full}"),
            ("reserved", f"{format_bytes(account.reserved)} of it, for uploads under way"),
            ("sessions", f"{account.sessions}{most}"),
            ("failed", f"{account.failed} log-ins lately"),
            ("created", render.moment(account.created)),
            ("password", f"changed {render.moment(account.password_changed)}"),
        ]
    )


def _space(account: reports.Account) -> tuple[str, str, str]:
    return (
        format_bytes(account.used),
        render.limit(account.limit),
        render.share(account.used, account.limit),
    )


def _rights(account: reports.Account) -> str:
    chosen = account.permissions
    return "all" if len(chosen) == len(PERMISSIONS) else ",".join(chosen) or "none"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
