"""The tree and the ledger as one: every change of an account's files, paid for.

The order of steps is what makes a kill harmless; see quota.py for the theory:
  upload   reserve, then write; drop the lease, then rename into the tree
  removal  lease of 0, rename into staging, cover the size, unlink, settle

What is charged and staged is given back by one party only: the process in whose slot it has a
lease, else whoever holds a partial's lock, else the keeper (for objects of dead processes).

Changes that hooks are to be told of have a ticket of the journal (events/journal.py).  Who makes
them in a round has the ticket made before (`publishing`, `removing` ...) and hands it to the round;
nothing that the journal's recovery goes by is let go of before the change is told.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from forkd.errors import Refusal, from_oserror
from forkd.events.journal import UNTOLD, Ticket
from forkd.events.teller import NOBODY, Teller
from forkd.quota import Lease, Ledger, Usage
from forkd.storage import partials, sidecar
from forkd.storage.names import to_bytes
from forkd.storage.partials import Found, Namer, Staged
from forkd.storage.sidecar import Source
from forkd.storage.tree import Parts, Tree


class Incoming(Struct, frozen=True, gc=False):
    """An upload with its reservation.  `size` is the declared size in bytes.

    `own` is the name in staging under which it is exchanged: one of this process.
    """

    staged: Staged
    lease: Lease
    size: int
    own: bytes


class Removal(Struct, frozen=True):
    """A file to be removed, and its name in staging on the way."""

    parts: Parts
    ident: bytes
    ticket: Ticket


class ChargedTree:
    """One account's files for one session.  Every method raises Refusal."""

    def __init__(
        self, tree: Tree, ledger: Ledger, account: int, namer: Namer, teller: Teller = NOBODY
    ) -> None:
        self.tree = tree
        self.account = account
        self._ledger = ledger
        self._namer = namer
        self._teller = teller

    def close(self) -> None:
        self.tree.close()

    def usage(self) -> Usage:
        return self._ledger.usage(self.account)

    # uploads

    def begin_own(self, path: str, size: int) -> Incoming:
        """An upload of `size` bytes that ends with this process if it does not end before."""
        begun = self.begin_fresh([(path, size)])[0]
        if isinstance(begun, Refusal):
            raise begun
        return begun

    def begin_fresh(self, uploads: Sequence[tuple[str, int]]) -> list[Incoming | Refusal]:
        """Several of those (path, size) with one reservation, or else with one each."""
        wanted = [(self._namer.upload(), size) for _, size in uploads]
        try:
            leases = self._ledger.reserve_fresh(self.account, wanted)
        except Refusal as refusal:
            if len(uploads) == 1:
                return [refusal]
            return [self.begin_fresh((upload,))[0] for upload in uploads]
        return [
            self._create(path, ident, lease)
            for (path, _), (ident, _), lease in zip(uploads, wanted, leases, strict=True)
        ]

    def _create(self, path: str, ident: bytes, lease: Lease) -> Incoming | Refusal:
        try:
            staged = partials.create_own(self.tree.staging_fd, ident)
        except OSError as error:
            self._ledger.settle(lease, 0)
            return from_oserror(error, path)
        return Incoming(staged, lease, lease.total, ident)

    def begin_stream(self, source: Source, parts: Parts, restart: bool) -> Incoming:
        """A resumable upload, gone on with where something fitting is held."""
        assert source.size is not None
        path = b"/".join(parts)
        found = self._find(source, path)
        fitting, held = found.fitting, found.all
        try:
            self._refuse_leased(held)
            for staged in held if restart else found.spoiled:
                self._give_back(staged.ident, staged.on_disk)
            if restart:
                fitting = None
            elif fitting is not None:
                held.remove(fitting)
            elif found.others:
                raise _source_changed(found.others[0])
            return self._open_stream(source, path, fitting, found.free, source.size)
        finally:
            for staged in held:
                staged.close()

    def _find(self, source: Source, path: bytes) -> Found:
        try:
            return partials.find(self.tree.staging_fd, source, path)
        except OSError as error:
            raise from_oserror(error, source.path) from error

    def _refuse_leased(self, held: list[Staged]) -> None:
        """We hold their locks, so a lease on one of them is a dead process's, not reaped yet."""
        if held and self._ledger.leased(self.account).intersection(s.ident for s in held):
            raise Refusal("busy", "the server is still cleaning up after this upload; try again")

    def _open_stream(
        self, source: Source, path: bytes, staged: Staged | None, free: int | None, size: int
    ) -> Incoming:
        """`staged` is what is gone on with; it is closed where this fails."""
        fresh = staged is None
        try:
            staged = staged or self._create_partial(source, path, free)
            lease = self._ledger.reserve(self.account, staged.ident, size, staged.on_disk)
        except OSError as error:
            raise from_oserror(error, source.path) from error
        except Refusal:
            if staged is not None:
                if fresh:
                    self._drop_quietly(staged.ident)
                staged.close()
            raise
        incoming = Incoming(staged, lease, size, self._namer.upload())
        try:
            partials.cut(staged, source)
        except OSError as error:
            self.abandon(incoming)
            raise from_oserror(error, source.path) from error
        return incoming

    def _create_partial(self, source: Source, path: bytes, number: int | None) -> Staged:
        """A new partial.  Raises OSError, Refusal (busy).

        Whoever removes a partial ends its lease last, so a free name may be leased still: it is
        passed over, as two leases of one name could not be told apart.
        """
        leased: set[bytes] = set()
        while True:
            staged = partials.create(self.tree.staging_fd, source, path, number, leased)
            leased |= self._ledger.leased(self.account)
            if staged.ident not in leased:
                return staged
            self._drop_quietly(staged.ident)
            staged.close()

    def abandon(self, incoming: Incoming) -> None:
        """The upload ends without a name: a partial keeps what has arrived, the rest goes back."""
        staged = incoming.staged
        arrived = os.fstat(staged.fd).st_size
        kept = arrived if staged.resumable else 0
        trusted = True
        if not kept and not self._drop_quietly(staged.ident):
            kept, trusted = arrived, partials.spoil(staged)
        self._ledger.settle(incoming.lease, kept)
        if trusted:  # else we keep its lock: it is not to be resumed while we live
            staged.close()

    def discard(self, incoming: Incoming) -> None:
        """The upload ends without a name and nothing of it is kept."""
        self.abandon(replace(incoming, staged=replace(incoming.staged, resumable=False)))

    def publishing(self, incoming: Incoming, parts: Parts, digest: str | None) -> Ticket:
        """The ticket of an upload that is to be published."""
        staged = incoming.staged
        return self._teller.publishing(
            parts, staged.fd, (staged.ident, incoming.own), incoming.size, digest
        )

    def publish(
        self,
        incoming: Incoming,
        folder: int,
        name: bytes,
        may_replace: bool,
        ticket: Ticket = UNTOLD,
    ) -> bool:
        """Give a complete upload its name; True where a file was replaced.  Closes it.

        Where the name is taken and must not be, a partial stays as it is and may be resumed.
        """
        staged = incoming.staged
        kept: Callable[[], None] | None = None
        try:
            with self._ledger.moving(self.account):
                kept = self._let_go(incoming, ticket)
                try:
                    self.tree.put_in(staged.ident, folder, name, replace=False)
                except Refusal as refusal:
                    if refusal.code != "exists" or not may_replace:
                        raise
                    replaced = None
                else:
                    replaced = False
                    ticket.done(incoming.size, kept)
                    if staged.resumable:
                        self._drop_sidecar(staged.ident)
            if replaced is None:
                replaced = self._replace(incoming, folder, name, ticket, kept)
            return replaced
        except Refusal:
            if kept is not None:
                kept()
            if not staged.resumable:
                self._give_back(staged.ident, incoming.size)
            raise
        finally:
            staged.close()

    def _let_go(self, incoming: Incoming, ticket: Ticket) -> Callable[[], None] | None:
        """End an upload's lease; of a partial that is told when the answer is called.

        Until then a lease of nothing keeps it, should we die, from whoever would resume it.
        """
        if ticket is UNTOLD or not incoming.staged.resumable:
            self._ledger.drop(incoming.lease)
            return None
        return partial(self._ledger.drop, self._ledger.cover(incoming.lease, 0))

    def _replace(
        self,
        incoming: Incoming,
        folder: int,
        name: bytes,
        ticket: Ticket,
        kept: Callable[[], None] | None,
    ) -> bool:
        """From the exchange on, the old file is what is staged under the upload's name.

        A partial's name can be had by others, so a name of this process takes its place before.
        """
        ident = incoming.own
        if incoming.staged.resumable:
            try:
                partials.make_own(self.tree.staging_fd, incoming.staged.ident, ident)
            except OSError as error:
                raise from_oserror(error, "") from error
        try:
            with self._ledger.moving(self.account):
                old = self.tree.put_in(ident, folder, name, replace=True)
        except Refusal:
            if incoming.staged.resumable:
                self._give_back(ident, incoming.size)
            raise
        ticket.done(incoming.size, kept)
        if old is not None:
            self._give_back(ident, old)
        return old is not None

    def _drop_sidecar(self, ident: bytes) -> None:
        try:
            sidecar.drop(self.tree.staging_fd, ident)
        except OSError:
            pass  # without its data it describes nothing, and the keeper removes it

    # removals

    def _give_back(self, ident: bytes, size: int) -> None:
        """Unlink a staged object that is charged with its size.  Never fails: see `_unlink`."""
        try:
            lease = self._ledger.claim(self.account, ident, size)
        except Refusal:
            return
        self._unlink(lease, ident)

    def _unlink(self, lease: Lease, ident: bytes) -> None:
        """Give back what was removed, and that only.

        What cannot be unlinked stays charged until the keeper finds it left behind.
        """
        try:
            removed = partials.drop(self.tree.staging_fd, ident)
        except OSError:
            removed = False
        self._ledger.settle(lease, 0 if removed else lease.total)

    def _drop_quietly(self, ident: bytes) -> bool:
        """False where the object stays on disk."""
        try:
            partials.drop(self.tree.staging_fd, ident)
        except OSError:
            return False
        return True

    def removing(self, parts: Parts) -> Removal:
        """A file that is to be removed, with its ticket."""
        ident = self._namer.removal()
        return Removal(parts, ident, self._teller.removing(parts, ident))

    def remove_file(self, parts: Parts) -> None:
        """`remove` a file on its own."""
        removal = self.removing(parts)
        with self._teller.telling([removal.ticket]):
            self.remove(removal)

    def remove(self, removal: Removal) -> None:
        """Unlink a file and give its bytes back, once that is told."""
        parts, ident = removal.parts, removal.ident
        with self._ledger.moving(self.account):
            lease = self._ledger.claim(self.account, ident, 0)
            try:
                size = self.tree.take_out(parts, ident)
            except BaseException:
                self._ledger.drop(lease)
                raise
            lease = self._ledger.cover(lease, size)
        removal.ticket.done(size, partial(self._unlink, lease, ident))

    def removing_folder(self, parts: Parts) -> Ticket:
        """The ticket of a folder that is to be removed."""
        return self._teller.removing_folder(parts)

    def remove_folder(self, parts: Parts, ticket: Ticket = UNTOLD) -> None:
        """Remove an empty folder."""
        self.tree.remove_folder(parts)
        ticket.done()

    def moving(self, parts: Parts, to: Parts) -> Ticket:
        """The ticket of what is to be renamed."""
        return self._teller.moving(self.tree, parts, to)

    def move(self, parts: Parts, to: Parts, may_replace: bool, ticket: Ticket = UNTOLD) -> bool:
        """Rename a file or folder; True where a file was replaced."""
        ident = self._namer.removal()
        with self._ledger.moving(self.account):
            old = self.tree.move(parts, to, may_replace, ident)
        ticket.done()
        if old is not None:
            self._give_back(ident, old)
        return old is not None

    def remove_tree(self, parts: Parts) -> Iterator[tuple[int, int]]:
        """Remove a folder and all below it, depth first; yields (files, folders) so far."""
        files = folders = 0
        stack = [(parts, False)]
        while stack:
            folder, emptied = stack.pop()
            if emptied:
                ticket = self.removing_folder(folder)
                with self._teller.telling([ticket]):
                    self.remove_folder(folder, ticket)
                folders += 1
                yield files, folders
                continue
            stack.append((folder, True))
            for entries in self.tree.list(folder):
                below = [(entry.type, (*folder, to_bytes(entry.name))) for entry in entries]
                stack += [(path, False) for kind, path in below if kind == "folder"]
                removals = [self.removing(path) for kind, path in below if kind != "folder"]
                with self._teller.telling([removal.ticket for removal in removals]):
                    for removal in removals:
                        self.remove(removal)
                files += len(removals)
                yield files, folders


def _source_changed(staged: Staged) -> Refusal:
    return Refusal(
        "source-changed",
        f"{staged.on_disk} bytes of another version of this file are held from an interrupted "
        "upload; restart to drop them",
    )
