"""What one session tells the journal of an account's changes: the seam under charged.py."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from forkd.errors import Refusal, from_oserror
from forkd.events.journal import SILENT, UNTOLD, Identity, Journal, Ticket, Told
from forkd.events.records import Origin
from forkd.storage.names import show
from forkd.storage.tree import Parts, Tree


class Teller:
    """Makes tickets for changes; UNTOLD where no hook wants to know."""

    def __init__(self, journal: Journal, origin: Origin) -> None:
        self._journal = journal
        self._origin = origin

    @contextmanager
    def telling(self, tickets: Sequence[Ticket]) -> Iterator[None]:
        """For changes that are made outside of a round.  Entering raises Refusal."""
        try:
            self._journal.begin(tickets)
        except OSError as error:
            raise from_oserror(error, "") from error
        try:
            yield
        finally:
            self._journal.settle(tickets)

    def publishing(
        self, parts: Parts, fd: int, staged: tuple[bytes, ...], size: int, digest: str | None
    ) -> Ticket:
        """`fd` is the complete upload, `staged` its names in staging, `size` bytes."""
        if not self._journal.wants("published"):
            return UNTOLD
        return Told(
            *("published", self._origin, show(parts)),
            lambda: Identity(os.fstat(fd).st_ino, size=size),
            staged=tuple(dict.fromkeys(os.fsdecode(name) for name in staged)),
            digest=digest,
        )

    def removing(self, parts: Parts, ident: bytes) -> Ticket:
        """A file that goes into staging as `ident`."""
        if not self._journal.wants("removed"):
            return UNTOLD
        staged = (os.fsdecode(ident),)
        return Told("removed", self._origin, show(parts), lambda: Identity(0), staged=staged)

    def removing_folder(self, parts: Parts) -> Ticket:
        """An empty folder."""
        if not self._journal.wants("removed"):
            return UNTOLD
        return Told("removed", self._origin, show(parts), lambda: Identity(0, "folder"))

    def moving(self, tree: Tree, parts: Parts, to: Parts) -> Ticket:
        """A file or folder that gets another path."""
        if not self._journal.wants("renamed"):
            return UNTOLD

        def identify() -> Identity:
            try:
                inode, entry = tree.identify(parts)
            except Refusal:  # the rename itself will tell
                return Identity(0)
            if entry.type == "folder":
                return Identity(inode, "folder")
            return Identity(inode, size=entry.size)

        return Told("renamed", self._origin, show(to), identify, source=show(parts))


NOBODY = Teller(SILENT, Origin(0, "", "", "", ""))
