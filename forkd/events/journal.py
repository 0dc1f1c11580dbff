"""The journal of one process: what it is about to change, and what it has changed.

Rules
  1. The intent of a change is written before the change is made; where replies promise durability
     it is also on the disk by then.  One write and one flush serve all changes of a round.
  2. That it was made is written before its reply, and before anything destroys what tells it from
     the disk (recovery.py): such things are handed to `Ticket.done` and wait.
  3. A change whose intent cannot be written is refused.  An outcome that cannot be written is kept,
     with what waits for it, and until it is written no change is begun.

Without hooks there is SILENT: it makes no ticket, writes nothing and waits for nothing.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from forkd.events import files
from forkd.events.files import LIVE, NEW, Stem
from forkd.events.records import Done, Header, Intent, Kind, Origin, Record, Undone, line_of

SEGMENT = 8 * 1024 * 1024
"""Bytes after which a process goes on in a new file."""

_Call = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Identity:
    """What is at a path; `size` in bytes where it counts."""

    inode: int
    type: Literal["file", "folder"] = "file"
    size: int | None = None


class Ticket:
    """One change on its way through the journal.  This one is told to nobody."""

    __slots__ = ()

    def done(self, size: int | None = None, then: _Call | None = None) -> None:
        """The change is made; `then` is called when that is in the journal."""
        del size
        if then is not None:
            then()


UNTOLD = Ticket()


class Told(Ticket):
    """A change that is told.

    `identify` answers with what is changed, just before it is changed.
    """

    __slots__ = ("at", "details", "id", "identify", "kind", "origin", "path", "size", "then")

    def __init__(
        self,
        kind: Kind,
        origin: Origin,
        path: str,
        identify: Callable[[], Identity],
        *,
        staged: tuple[str, ...] = (),
        digest: str | None = None,
        source: str | None = None,
    ) -> None:
        self.kind: Kind = kind
        self.origin = origin
        self.path = path
        self.identify = identify
        self.details = (staged, digest, source)
        self.size: int | None = None
        self.id = ""
        self.at: int | None = None
        self.then: _Call | None = None

    def done(self, size: int | None = None, then: _Call | None = None) -> None:
        self.at = time.monotonic_ns()
        self.size = size
        self.then = then

    def intent(self, ident: str, at: int, now: float) -> Intent:
        self.id = ident
        what = self.identify()
        staged, digest, source = self.details
        return Intent(
            *(ident, self.kind, self.origin, self.path, now, at),
            *(what.type, staged, what.inode, what.size, digest, source),
        )

    def outcome(self) -> Record:
        if self.at is None:
            return Undone(self.id)
        return Done(self.id, self.at, self.size)


class Journal(Protocol):
    """Where a process tells what it changes.  `begin` and `settle` enclose the changes."""

    def wants(self, kind: Kind) -> bool:
        """Whether anybody is to be told of such changes."""

    def begin(self, tickets: Sequence[Ticket]) -> None:
        """Changes are about to be made.  Raises OSError; then none of them may be made."""

    def settle(self, tickets: Sequence[Ticket]) -> None:
        """Tell which of them were made; those that are not done were not.  Never fails."""

    def catch_up(self) -> int:
        """Write what could not be written; the number of changes told since the last call."""


class Silent:
    """The journal of a server without hooks."""

    def wants(self, kind: Kind) -> bool:  # noqa: ARG002
        return False

    def begin(self, tickets: Sequence[Ticket]) -> None:
        pass

    def settle(self, tickets: Sequence[Ticket]) -> None:
        pass

    def catch_up(self) -> int:
        return 0


SILENT = Silent()


class FileJournal:
    """See Journal.  For all threads of one process, which holds the slot."""

    def __init__(
        self, folder: str, slot: int, born: int, boot: str, kinds: Iterable[str], durable: bool
    ) -> None:
        """`durable`: intents are on the disk before `begin` returns.  Raises OSError."""
        self._folder = folder
        self._boot = boot
        self._kinds = frozenset(kinds)
        self._durable = durable
        self._lock = threading.Lock()
        self._open = 0
        self._owed = b""
        self._waiting: list[_Call] = []
        """What waits for an outcome that is owed."""
        self._number = 0
        self._told = 0
        self._stem = Stem(born, slot, 0)
        self._fd, self._size = self._create(self._stem)

    def wants(self, kind: Kind) -> bool:
        return kind in self._kinds

    def begin(self, tickets: Sequence[Ticket]) -> None:
        told = [ticket for ticket in tickets if isinstance(ticket, Told)]
        if not told:
            return
        with self._lock:
            self._pay()
            self._make_room()
            at, now = time.monotonic_ns(), time.time()
            prefix = f"{self._stem.slot}.{self._stem.born}-"
            first = self._number + 1
            self._number += len(told)
            lines = [
                line_of(ticket.intent(f"{prefix}{number}", at, now))
                for number, ticket in enumerate(told, first)
            ]
            try:
                self._append(b"".join(lines))
            except OSError:
                for ticket in told:
                    ticket.id = ""
                raise
            self._open += len(told)
            fd = self._fd
        if self._durable:
            try:
                os.fdatasync(fd)
            except OSError:
                self.settle(told)
                raise

    def settle(self, tickets: Sequence[Ticket]) -> None:
        told = [ticket for ticket in tickets if isinstance(ticket, Told) and ticket.id]
        if not told:
            return
        with self._lock:
            self._owed += b"".join(line_of(ticket.outcome()) for ticket in told)
            self._waiting += [ticket.then for ticket in told if ticket.then is not None]
            self._open -= len(told)
            self._told += sum(ticket.at is not None for ticket in told)
        for ticket in told:
            ticket.id = ""
        self._pay_if_possible()

    def catch_up(self) -> int:
        self._pay_if_possible()
        with self._lock:
            told, self._told = self._told, 0
        return told

    def _pay_if_possible(self) -> None:
        with self._lock:
            try:
                self._pay()
            except OSError:
                return
            waiting, self._waiting = self._waiting, []
        for call in waiting:
            call()

    def _pay(self) -> None:
        """Write the outcomes that are owed.  Raises OSError."""
        if self._owed:
            self._append(self._owed)
            self._owed = b""

    def _make_room(self) -> None:
        """Raises OSError."""
        if self._size >= SEGMENT and not self._open:
            former, ended = self._fd, self._stem
            stem = Stem(ended.born, ended.slot, ended.number + 1)
            self._fd, self._size = self._create(stem)
            self._stem = stem
            os.close(former)
            files.end(self._folder, ended)

    def _create(self, stem: Stem) -> tuple[int, int]:
        """A journal with its header, which is seen whole; its descriptor and size in bytes."""
        header = line_of(Header(self._boot))
        path = os.path.join(self._folder, str(stem))
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        fd = os.open(path + NEW, flags, 0o600)
        try:
            if os.write(fd, header) != len(header):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
            if self._durable:
                os.fdatasync(fd)
            os.rename(path + NEW, path + LIVE)
            if self._durable:
                _flush_folder(self._folder)
        except BaseException:
            os.close(fd)
            raise
        return fd, len(header)

    def _append(self, lines: bytes) -> None:
        """Write all or nothing.  Raises OSError."""
        left = memoryview(lines)
        try:
            while left:
                left = left[os.write(self._fd, left) :]
        except OSError:
            os.ftruncate(self._fd, self._size)
            raise
        self._size += len(lines)


def _flush_folder(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
