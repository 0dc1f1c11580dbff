"""What must be on the disk before anybody serves: certificate, ledger, storage folders.

Runs as a short-lived child of the master, after root was given up and before the first worker, at
every start and reload; so it finds what the serving user cannot read, and the master stays small.
Everything here is kept where it exists already.
"""

from __future__ import annotations

import os

from forkd import ledgerfile, store, tlscontext
from forkd.accounts import open_accounts
from forkd.config import Config
from forkd.seat import ChildSeat


def prepare(config: Config) -> None:
    """Make what is missing and look at what is there.  Raises StartError naming the file."""
    tlscontext.ensure_certificate(config)
    tlscontext.server_context(config)
    ledgerfile.allocate(os.path.join(config.server.state_dir, "ledger"), config.accounts.max)
    store.prepare(config)
    open_accounts(config)


def main(seat: ChildSeat) -> int:
    """The child's task; its exit is the answer, a StartError becomes `Unable`."""
    prepare(seat.config)
    return 0
