"""What must be on the disk before anybody serves: certificate, ledger, storage folders.

Runs as a short-lived child of the master, after root was given up and before the first worker, at
every start and reload; so it finds what the serving user cannot read, and the master stays small.
Everything here is kept where it exists already.
"""

from __future__ import annotations

import os

from forkd import folders
from forkd.accounts import open_accounts
from forkd.config import Config
from forkd.errors import StartError
from forkd.events.files import folder_of
from forkd.ledger import file as ledgerfile
from forkd.limits import file as limitsfile
from forkd.quota import ledger_path
from forkd.seat import ChildSeat
from forkd.serving import tlscontext
from forkd.storage import belonging, store
from forkd.storage.store import STAGING


def prepare(config: Config) -> None:
    """Make what is missing and look at what is there.  Raises StartError naming the file."""
    tlscontext.ensure_certificate(config)
    tlscontext.server_context(config)
    refuse_unmounted(config)
    ledgerfile.allocate(ledger_path(config), config.accounts.max)
    limitsfile.allocate(config, in_use=bool(ledgerfile.locked_slots(ledger_path(config))))
    try:
        store.prepare(config)
    except OSError as error:
        raise StartError(f"storage.path {config.storage.path}: {error.strerror}") from None
    belonging.claim(config)
    folders.make(folder_of(config), 0o700)
    open_accounts(config)


def refuse_unmounted(config: Config) -> None:
    """A missing disk must not be taken for an empty one: every charge would be set to nothing.

    Raises StartError.
    """
    if os.path.isdir(os.path.join(config.storage.path, STAGING)):
        return
    path = ledger_path(config)
    if not os.path.exists(path):
        return
    ledger = ledgerfile.LedgerFile(path)
    try:
        if any(account.charged for account in ledger.accounts()):
            raise StartError(
                f"storage.path {config.storage.path}: has no {STAGING} folder, but accounts have "
                f"files; is the disk mounted?  (To begin with an empty one, move {path} away.)"
            )
    finally:
        ledger.close()


def main(seat: ChildSeat) -> int:
    """The child's task; its exit is the answer, a StartError becomes `Unable`."""
    prepare(seat.config)
    return 0
