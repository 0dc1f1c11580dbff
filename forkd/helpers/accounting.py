"""What the files say of accounts and of addresses, as reports: for the keeper and for forkctl."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

from forkd import reports
from forkd.accounts import Account, Accounts
from forkd.config import PERMISSIONS, Config
from forkd.ledger.file import LedgerFile
from forkd.limits.table import USER, LimitTable


def account_reports(
    config: Config, accounts: Accounts, ledger: LedgerFile, limits: LimitTable | None, name: str
) -> Iterator[reports.Account]:
    """All accounts by name, or the one of this name; without `limits`, nobody is there.

    Raises Refusal: busy, io-error.
    """
    reserved: Counter[int] = Counter()
    for lease in ledger.leases():
        reserved[lease.account] += lease.total
    most = config.limits.sessions_per_user
    for account in [accounts.get(name)] if name else accounts.list():
        if account is None:
            return
        sessions, failed = (0, 0) if limits is None else limits.noted(USER + account.name)
        yield reports.Account(
            name=account.name,
            id=account.id,
            home=account.home,
            enabled=account.enabled,
            permissions=[each for each in PERMISSIONS if each in account.permissions],
            quota=account.quota if isinstance(account.quota, str) else int(account.quota),
            limit=account.limit(config.quota.default),
            used=_used(ledger, account),
            reserved=reserved[account.id],
            created=account.created,
            password_changed=account.password_changed,
            sessions=sessions,
            sessions_limit=most if isinstance(most, int) and most else None,
            failed=failed,
        )


def ban_reports(limits: LimitTable) -> list[reports.Ban]:
    """The addresses with failed log-ins, those that are banned first.  Raises Refusal (busy)."""
    ahead = time.time() - time.monotonic()
    found = sorted(limits.failing(), key=lambda one: (one.until is None, -one.failures, one.origin))
    return [
        reports.Ban(
            address=one.origin,
            failures=one.failures,
            until=None if one.until is None else one.until + ahead,
        )
        for one in found
    ]


def lift(limits: LimitTable, origin: str) -> list[reports.Ban]:
    """Forget an address's failures; what was forgotten.  Raises Refusal (busy)."""
    known = [one for one in ban_reports(limits) if one.address == origin]
    return known if limits.lift(origin) else []


def _used(ledger: LedgerFile, account: Account) -> int:
    try:
        return ledger.read_account(account.id)[0]
    except IndexError:  # accounts.max was raised and the ledger has not grown yet
        return 0
