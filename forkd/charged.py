"""The tree and the ledger as one: every change of an account's files, paid for.

The order of steps is what makes a kill harmless; see quota.py for the theory:
  upload   reserve, then write; drop the lease, then rename into the tree
  removal  lease of 0, rename into staging, cover the size, unlink, settle
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

from forkd import partials
from forkd.errors import Refusal, from_oserror
from forkd.names import to_bytes
from forkd.partials import Namer, Source, Staged
from forkd.quota import Lease, Ledger, Usage
from forkd.store import Parts, Tree


@dataclass(frozen=True, slots=True)
class Incoming:
    """An upload with its reservation.  `size` is the declared size in bytes."""

    staged: Staged
    lease: Lease
    size: int


class ChargedTree:
    """One account's files for one session.  Every method raises Refusal."""

    def __init__(self, tree: Tree, ledger: Ledger, account: int, namer: Namer) -> None:
        self.tree = tree
        self.account = account
        self._ledger = ledger
        self._namer = namer

    def close(self) -> None:
        self.tree.close()

    def usage(self) -> Usage:
        return self._ledger.usage(self.account)

    # uploads

    def begin_own(self, size: int, path: str) -> Incoming:
        """An upload that ends with this process if it does not end before."""
        ident = self._namer.upload()
        lease = self._ledger.reserve(self.account, ident, size, 0)
        try:
            staged = partials.create_own(self.tree.staging_fd, ident)
        except OSError as error:
            self._ledger.settle(lease, 0)
            raise from_oserror(error, path) from error
        return Incoming(staged, lease, size)

    def begin_stream(self, source: Source, parts: Parts, restart: bool) -> Incoming:
        """A resumable upload, gone on with where something fitting is held."""
        path = b"/".join(parts)
        try:
            found = partials.find(self.tree.staging_fd, source, path)
        except OSError as error:
            raise from_oserror(error, source.path) from error
        held = [*found.others, *((found.fitting,) if found.fitting else ())]
        try:
            self._refuse_leased(held)
            if restart:
                while held:
                    self._discard(held.pop())
                return self._open_stream(source, path, None, found.free)
            if found.fitting is None:
                if held:
                    raise _source_changed(held[0])
                return self._open_stream(source, path, None, found.free)
            held.pop()
            return self._open_stream(source, path, found.fitting, found.free)
        finally:
            for staged in held:
                staged.close()

    def _refuse_leased(self, held: list[Staged]) -> None:
        """We hold their locks, so a lease on one of them is a dead process's, not reaped yet."""
        if held and self._ledger.leased(self.account).intersection(s.ident for s in held):
            raise Refusal("busy", "the server is still cleaning up after this upload; try again")

    def _open_stream(
        self, source: Source, path: bytes, staged: Staged | None, free: int | None
    ) -> Incoming:
        folder = self.tree.staging_fd
        fresh = staged is None
        try:
            staged = staged or partials.create(folder, source, path, free)
            self._refuse_leased([staged])
            lease = self._ledger.reserve(self.account, staged.ident, source.size, staged.on_disk)
        except OSError as error:
            raise from_oserror(error, source.path) from error
        except Refusal:
            if staged is not None:
                if fresh:
                    partials.drop(folder, staged.ident)
                staged.close()
            raise
        incoming = Incoming(staged, lease, source.size)
        try:
            partials.cut(staged, source)
        except OSError as error:
            self.abandon(incoming)
            raise from_oserror(error, source.path) from error
        return incoming

    def abandon(self, incoming: Incoming) -> None:
        """The upload ends without a name: a partial keeps what has arrived, the rest goes back."""
        staged = incoming.staged
        kept = 0
        try:
            if staged.resumable:
                kept = os.fstat(staged.fd).st_size
            if not kept:
                partials.drop(self.tree.staging_fd, staged.ident)
        finally:
            self._ledger.settle(incoming.lease, kept)
            staged.close()

    def discard(self, incoming: Incoming) -> None:
        """The upload ends without a name and nothing of it is kept."""
        self.abandon(replace(incoming, staged=replace(incoming.staged, resumable=False)))

    def publish(self, incoming: Incoming, folder: int, name: bytes, may_replace: bool) -> bool:
        """Give a complete upload its name; True where a file was replaced.  Closes it.

        When it fails, a partial stays as it is, complete, and may be resumed.
        """
        staged, tree = incoming.staged, self.tree
        replaced: int | None = None
        try:
            with self._ledger.moving(self.account):
                self._ledger.drop(incoming.lease)
                replaced = self._name_it(staged, folder, name, may_replace)
        except Refusal:
            if not staged.resumable:
                self._discard_named(staged.ident, incoming.size)
            raise
        finally:
            staged.close()
        if replaced is not None:
            self._discard_named(staged.ident, replaced)
        else:
            partials.drop_sidecar(tree.staging_fd, staged.ident)
        return replaced is not None

    def _name_it(self, staged: Staged, folder: int, name: bytes, may_replace: bool) -> int | None:
        """From an exchange on, the old file has the partial's name: nobody may resume that."""
        try:
            return self.tree.put_in(staged.ident, folder, name, replace=False)
        except Refusal as refusal:
            if refusal.code != "exists" or not may_replace:
                raise
        partials.drop_sidecar(self.tree.staging_fd, staged.ident)
        return self.tree.put_in(staged.ident, folder, name, replace=True)

    # removals

    def _discard(self, staged: Staged) -> None:
        """Remove a partial we hold and give its bytes back."""
        self._discard_named(staged.ident, staged.on_disk)
        staged.close()

    def _discard_named(self, ident: bytes, size: int) -> None:
        """Unlink a staged object that is charged with its size."""
        lease = self._ledger.reserve(self.account, ident, size, size)
        partials.drop(self.tree.staging_fd, ident)
        self._ledger.settle(lease, 0)

    def remove_file(self, parts: Parts) -> None:
        """Unlink a file and give its bytes back."""
        ident = self._namer.removal()
        with self._ledger.moving(self.account):
            lease = self._ledger.reserve(self.account, ident, 0, 0)
            try:
                size = self.tree.take_out(parts, ident)
            except BaseException:
                self._ledger.settle(lease, 0)
                raise
            lease = self._ledger.cover(lease, size)
        partials.drop(self.tree.staging_fd, ident)
        self._ledger.settle(lease, 0)

    def move(self, parts: Parts, to: Parts, may_replace: bool) -> bool:
        """Rename a file or folder; True where a file was replaced."""
        ident = self._namer.removal()
        with self._ledger.moving(self.account):
            old = self.tree.move(parts, to, may_replace, ident)
        if old is not None:
            self._discard_named(ident, old)
        return old is not None

    def remove_tree(self, parts: Parts) -> Iterator[tuple[int, int]]:
        """Remove a folder and all below it, depth first; yields (files, folders) so far."""
        files = folders = 0
        stack = [(parts, False)]
        while stack:
            folder, emptied = stack.pop()
            if emptied:
                self.tree.remove_folder(folder)
                folders += 1
                yield files, folders
                continue
            stack.append((folder, True))
            for entries in self.tree.list(folder):
                for entry in entries:
                    below = (*folder, to_bytes(entry.name))
                    if entry.type == "folder":
                        stack.append((below, False))
                        continue
                    self.remove_file(below)
                    files += 1
                yield files, folders


def _source_changed(staged: Staged) -> Refusal:
    return Refusal(
        "source-changed",
        f"{staged.on_disk} bytes of another version of this file are held from an interrupted "
        "upload; restart to drop them",
    )
