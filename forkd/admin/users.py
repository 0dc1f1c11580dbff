"""The commands about accounts and their quotas.  They need no running daemon, but tell one."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from forkd import messages
from forkd.accounts import ALL_PERMISSIONS, DEFAULT, Account, check_name
from forkd.admin import ask, output, render
from forkd.admin.book import Book, open_book
from forkd.admin.controlclient import NotRunningError
from forkd.admin.exits import CtlError, Exit
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
        shown = _fields(book, added.account)
    told = _tell(site, args.name)
    if args.generate:
        shown["password"] = password

    def text() -> str:
        lines = [f"account {args.name} is made"]
        if added.held:
            lines.append(
                f"its folder holds {format_bytes(added.held)} already, which are charged to it"
            )
        if args.generate:
            lines.append(f"password: {password}")
        return "\n".join(lines)

    output.show(site.json, shown, text)
    return told


def passwd(site: Site, args: argparse.Namespace) -> int:
    config = site.config()
    check_name(args.name)
    password = _password(config, args)
    with _book(config) as book:
        book.accounts.set_password(args.name, password)
    told = _tell(site, args.name)
    shown = {"name": args.name, **({"password": password} if args.generate else {})}
    made = f"\npassword: {password}" if args.generate else ""
    output.show(site.json, shown, lambda: f"the password of {args.name} is changed{made}")
    return told


def change(site: Site, args: argparse.Namespace) -> int:
    if args.quota is None and args.perms is None and args.enabled is None:
        raise CtlError(
            Exit.USAGE, "user set: name a change: --quota, --perms, --enable or --disable"
        )
    with _book(site.config()) as book:
        account = book.change(
            args.name, quota=args.quota, permissions=args.perms, enabled=args.enabled
        )
        shown = _fields(book, account)
    told = _tell(site, args.name)
    output.show(site.json, shown, lambda: _sheet(shown))
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

    shown = {"name": args.name, "home": cleared.home, "files_deleted": cleared.deleted}
    output.show(site.json, shown, text)
    return told


def show(site: Site, args: argparse.Namespace) -> int:
    with _book(site.config()) as book:
        shown = _fields(book, book.one(args.name))
    output.show(site.json, shown, lambda: _sheet(shown))
    return Exit.OK


def listing(site: Site, args: argparse.Namespace) -> int:  # noqa: ARG001
    with _book(site.config()) as book:
        found = [_fields(book, account) for account in book.list()]
    headings = ("NAME", "ID", "ENABLED", "USED", "LIMIT", "FULL", "HOME", "PERMISSIONS")
    rows = [
        (
            account["name"],
            str(account["id"]),
            _yes(account["enabled"]),
            *_use(account),
            account["home"],
            _rights(account),
        )
        for account in found
    ]
    output.show(
        site.json,
        found,
        lambda: render.table(headings, rows, "ID USED LIMIT FULL") if rows else _NOBODY,
    )
    return Exit.OK


def quota(site: Site, args: argparse.Namespace) -> int:
    with _book(site.config()) as book:
        accounts = book.list() if args.name is None else iter([book.one(args.name)])
        found = [
            {key: fields[key] for key in ("name", "used", "reserved", "limit", "quota")}
            for fields in (_fields(book, account) for account in accounts)
        ]
    headings = ("NAME", "USED", "LIMIT", "FULL", "RESERVED")
    rows = [
        (account["name"], *_use(account), format_bytes(account["reserved"])) for account in found
    ]
    output.show(
        site.json,
        found,
        lambda: (
            f"{render.table(headings, rows, 'USED LIMIT FULL RESERVED')}\n{_LEGEND}"
            if rows
            else _NOBODY
        ),
    )
    return Exit.OK


_LEGEND = "USED includes RESERVED, the whole sizes of the uploads under way"
_NOBODY = "there are no accounts; make one with forkctl user add NAME"


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
        site.control().call(messages.TellAccountChanged(name))
    except NotRunningError:
        pass  # it will read the accounts when it starts
    except CtlError as error:
        output.complain("the change is made, but the running daemon could not be told:")
        for line in error.lines:
            output.complain(line)
        return error.code
    return Exit.OK


def _fields(book: Book, account: Account) -> dict[str, Any]:
    """An account for programs: bytes, seconds since 1970."""
    usage = book.usage(account)
    return {
        "name": account.name,
        "id": account.id,
        "home": account.home,
        "enabled": account.enabled,
        "permissions": [name for name in PERMISSIONS if name in account.permissions],
        "quota": int(account.quota) if isinstance(account.quota, int) else account.quota,
        "limit": usage.limit,
        "used": usage.used,
        "reserved": usage.reserved,
        "created": account.created,
        "password_changed": account.password_changed,
    }


def _sheet(account: dict[str, Any]) -> str:
    used, limit, full = _use(account)
    source = "" if account["quota"] != DEFAULT else " (the default)"
    return render.pairs(
        [
            ("name", account["name"]),
            ("id", str(account["id"])),
            ("home", account["home"]),
            ("enabled", _yes(account["enabled"])),
            ("permissions", _rights(account)),
            ("limit", limit + source),
            ("used", f"{used} ({account['used']} bytes), {full}"),
            ("reserved", f"{format_bytes(account['reserved'])} of it, for uploads under way"),
            ("created", render.moment(account["created"])),
            ("password", f"changed {render.moment(account['password_changed'])}"),
        ]
    )


def _use(account: dict[str, Any]) -> tuple[str, str, str]:
    limit: int | None = account["limit"]
    used: int = account["used"]
    return format_bytes(used), render.limit(limit), render.share(used, limit)


def _rights(account: dict[str, Any]) -> str:
    chosen: list[str] = account["permissions"]
    return "all" if len(chosen) == len(PERMISSIONS) else ",".join(chosen) or "none"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
