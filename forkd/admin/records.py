"""What accounts and addresses have on record: read from the files by whoever may, else asked for.

Root and the owner of state_dir read the files, with the daemon up or down.  Anybody else asks the
daemon, who tells those that server.operators names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import msgspec

from forkd import controlmessages, reports
from forkd.admin.book import open_book
from forkd.admin.controlclient import NotRunningError
from forkd.admin.exits import CtlError, Exit
from forkd.admin.site import Site, become_owner, is_owner
from forkd.config import Config
from forkd.errors import Refusal
from forkd.helpers import accounting
from forkd.limits.table import LimitTable, open_table

T = TypeVar("T")


def accounts(site: Site, name: str = "") -> list[reports.Account]:
    """All accounts by name, or the one of this name.  Raises CtlError, and Refusal not-found."""
    config = _own_config(site)
    if config is None:
        found = _ask(site, controlmessages.ListAccounts(name), reports.Account)
    else:
        become_owner(config)
        with _limits(config) as limits:
            book = open_book(config)
            try:
                found = list(
                    accounting.account_reports(
                        *(config, book.accounts, book.ledger.file, limits, name)
                    )
                )
            finally:
                book.close()
    if name and not found:
        raise Refusal("not-found", f"there is no account named {name!r}")
    return found


def bans(site: Site) -> list[reports.Ban]:
    """The addresses with failed log-ins, those that are banned first.  Raises CtlError."""
    config = _own_config(site)
    if config is None:
        return _ask(site, controlmessages.ListBans(), reports.Ban)
    with _own_limits(config) as limits:
        return accounting.ban_reports(limits)


def lift(site: Site, origin: str) -> bool:
    """Forget an address's failures; False where there were none.  Raises CtlError."""
    config = _own_config(site)
    if config is None:
        return bool(_ask(site, controlmessages.LiftBan(origin), reports.Ban))
    with _own_limits(config) as limits:
        return limits.lift(origin)


def _own_config(site: Site) -> Config | None:
    """The configuration where its files are ours, None where the daemon is to be asked."""
    try:
        config = site.config()
    except CtlError:
        if os.geteuid() == 0:
            raise
        return None
    return config if is_owner(config) else None


def _ask(site: Site, request: controlmessages.ControlRequest, kind: type[T]) -> list[T]:
    try:
        body = site.control().call(request)
    except NotRunningError as error:
        raise CtlError(
            error.code, *error.lines, "while it is down, only root and its own user see this"
        ) from None
    return msgspec.convert(body.get("rows", []), list[kind])  # type: ignore[valid-type]


@contextmanager
def _own_limits(config: Config) -> Iterator[LimitTable]:
    become_owner(config)
    with _limits(config) as limits:
        if limits is None:
            raise CtlError(
                Exit.NOT_RUNNING,
                f"{config.server.runtime_dir}/limits is not there: forkd has not run yet",
            )
        yield limits


@contextmanager
def _limits(config: Config) -> Iterator[LimitTable | None]:
    """None where forkd has not run yet."""
    try:
        table = open_table(config, 0)
    except FileNotFoundError:
        yield None
        return
    try:
        yield table
    finally:
        table.file.close()
