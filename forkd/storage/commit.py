"""Making changes durable before they are acknowledged, in rounds that share the flushes.

A round takes the changes that wait and
  1. starts the write-back of all their data,
  2. flushes each file (after the first, the others' journal entries are on disk already),
  3. writes what it is about to change into the journal of events, flushed once (journal.py),
  4. applies each change, which gives files their names,
  5. flushes each folder that was touched, once, and those above it that this process has not
     flushed yet: another may have made them and died,
  6. writes into the journal what was changed,
  7. tells each change's owner, on the loop's thread.
One round is under way at a time; what comes meanwhile makes up the next.  With durability "full" a
round has one change; with "none" changes are applied at once and nothing is flushed.  Without hooks
there is no journal.

A change that fails fails alone: whatever is raised becomes its result.

A flush that failed is never repeated in hope: the kernel tells of a failed write once, and may have
dropped the data by then (fsync(2), EIO).  The change fails, and what it would have named goes.
"""

from __future__ import annotations

import errno
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from forkd import syscalls
from forkd.errors import Refusal, from_oserror
from forkd.events.journal import SILENT, Journal, Ticket
from forkd.serving.pool import Mailbox, Pool
from forkd.storage.tree import Parts, Tree

ROUND_MAX = 256
"""Changes in one round at most: nobody waits for a round without end."""

CROWD = 1024
"""So many changes wait that a session submits one at a time: each holds a lease and a file."""

KNOWN_MAX = 4096
"""Folders that a process remembers to have flushed."""

Known = set[tuple[int, int, Parts]]
"""(device, inode, path) of folders that are on the disk with all that is above them."""


@dataclass(frozen=True, slots=True)
class _Opened:
    """A folder of a round.  `needed` are the descriptors that must be flushed for it to stay."""

    fd: int
    needed: frozenset[int]
    key: tuple[int, int, Parts]


class Folders:
    """The folders of one round, each opened once.  `known` need nothing above them flushed."""

    def __init__(self, known: Known | None = None) -> None:
        self._known: Known = set() if known is None else known
        self._open: dict[tuple[int, Parts], _Opened] = {}
        self._roots: dict[int, Tree] = {}
        self.touched: set[int] = set()
        """What must be flushed for the changes since this was last replaced."""

    def get(self, tree: Tree, parts: Parts, parents: bool = False) -> int:
        """A descriptor of the folder, flushed at the end of the round.  Raises Refusal."""
        opened = self._open.get((id(tree), parts))
        if opened is None:
            made = False
            try:
                fd = tree.open_folder(parts, parents=False)
            except Refusal as refusal:
                if refusal.code != "not-found" or not parents:
                    raise
                fd = tree.open_folder(parts, parents=True)
                made = True
            opened = self._note(tree, parts, fd, made)
        self.touched |= opened.needed
        return opened.fd

    def _note(self, tree: Tree, parts: Parts, fd: int, made: bool) -> _Opened:
        """Own `fd`.  `made`: folders on the way to it are new, nobody knows which."""
        try:
            status = os.fstat(fd)
            key = (status.st_dev, status.st_ino, parts)
            needed = frozenset((fd,))
            if parts and (made or key not in self._known):
                needed |= self._above(tree, parts[:-1], made).needed
        except BaseException:
            os.close(fd)
            raise
        if not parts and key not in self._known:
            self._roots[fd] = tree
        self._open[id(tree), parts] = opened = _Opened(fd, needed, key)
        return opened

    def _above(self, tree: Tree, parts: Parts, made: bool) -> _Opened:
        opened = self._open.get((id(tree), parts))
        return opened or self._note(tree, parts, tree.open_folder(parts, parents=False), made)

    def flush(self) -> dict[int, OSError]:
        """fsync all; the descriptors for which that failed."""
        broken: dict[int, OSError] = {}
        for opened in self._open.values():
            try:
                os.fsync(opened.fd)
                if opened.fd in self._roots:
                    self._roots[opened.fd].flush_above()
            except OSError as error:
                broken[opened.fd] = error
        if broken or len(self._known) > KNOWN_MAX:
            self._known.clear()
        if not broken:
            self._known.update(opened.key for opened in self._open.values())
        return broken

    def close(self) -> None:
        for opened in self._open.values():
            os.close(opened.fd)
        self._open.clear()


class UnflushedFolders(Folders):
    """Those of a round that flushes nothing, so that what is above them does not matter."""

    def _note(self, tree: Tree, parts: Parts, fd: int, made: bool) -> _Opened:  # noqa: ARG002
        self._open[id(tree), parts] = opened = _Opened(fd, frozenset(), (0, 0, parts))
        return opened


Result = object
"""What `apply` answered, or the Refusal or other exception that it raised."""


class Change(Protocol):
    """What is to be made durable; `apply` and `fail` may be called on any thread."""

    @property
    def data(self) -> int | None:
        """A file to flush first."""

    @property
    def ticket(self) -> Ticket:
        """What tells of it, if `apply` says that it was made."""

    def apply(self, folders: Folders, /) -> object:
        """Make the change; what it touches is got from `folders`."""

    def fail(self) -> None:
        """Called instead of `apply` when data or intent could not be flushed."""

    def done(self, result: Result, /) -> None:
        """Take the result, on the loop's thread."""


class Committer(Protocol):
    """Takes changes in order; those of one session are applied in the order they came."""

    @property
    def idle(self) -> bool:
        """Nothing waits or is under way."""

    @property
    def crowded(self) -> bool:
        """Who has a change under way should wait for that before the next."""

    def submit(self, changes: Sequence[Change]) -> None:
        """On the loop's thread."""


Timed = Callable[[float], None]
"""Told of each change that is durable: the seconds since it was submitted; on the loop's thread."""


def make_committer(
    durability: Literal["full", "group", "none"],
    pool: Pool,
    mailbox: Mailbox,
    journal: Journal = SILENT,
    timed: Timed = lambda _: None,
) -> Committer:
    if durability == "none":
        return ImmediateCommitter(journal)
    most = ROUND_MAX if durability == "group" else 1
    return DurableCommitter(pool, mailbox, journal, most, timed)


class ImmediateCommitter:
    """Applies and forgets: the kernel writes when it likes."""

    idle = True
    crowded = False

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def submit(self, changes: Sequence[Change]) -> None:
        folders = UnflushedFolders()
        try:
            failures = _announce(changes, [None] * len(changes), self._journal)
            results = [
                _applied(change, folders) if failure is None else failure
                for change, failure in zip(changes, failures, strict=True)
            ]
        finally:
            folders.close()
            self._journal.settle([change.ticket for change in changes])
        for change, result in zip(changes, results, strict=True):
            change.done(result)


class DurableCommitter:
    """Rounds on a pool thread."""

    def __init__(
        self, pool: Pool, mailbox: Mailbox, journal: Journal, most: int, timed: Timed
    ) -> None:
        self._pool = pool
        self._mailbox = mailbox
        self._journal = journal
        self._most = most
        self._timed = timed
        self._waiting: deque[tuple[Change, float]] = deque()
        """With the time when each was submitted."""
        self._running = False
        self._known: Known = set()

    @property
    def idle(self) -> bool:
        return not self._running

    @property
    def crowded(self) -> bool:
        return len(self._waiting) >= CROWD

    def submit(self, changes: Sequence[Change]) -> None:
        now = time.monotonic()
        self._waiting.extend((change, now) for change in changes)
        if not self._running:
            self._start()

    def _start(self) -> None:
        count = min(len(self._waiting), self._most)
        batch = [self._waiting.popleft() for _ in range(count)]
        self._running = True
        self._pool.submit(lambda: self._round(batch))

    def _round(self, batch: list[tuple[Change, float]]) -> None:
        results: list[Result]
        try:
            results = run_round([change for change, _ in batch], self._journal, self._known)
        except Exception as error:
            results = [error] * len(batch)
        self._mailbox.post(lambda: self._finish(batch, results))

    def _finish(self, batch: list[tuple[Change, float]], results: list[Result]) -> None:
        self._running = False
        if self._waiting:
            self._start()
        now = time.monotonic()
        for (change, submitted), result in zip(batch, results, strict=True):
            if not isinstance(result, BaseException):
                self._timed(now - submitted)
            change.done(result)


def run_round(batch: list[Change], journal: Journal, known: Known) -> list[Result]:
    """See the module."""
    begun = [_begin(change) for change in batch]
    folders = Folders(known)
    results: list[Result] = []
    needed: list[set[int]] = []
    try:
        flushed = [_flush(change, told) for change, told in zip(batch, begun, strict=True)]
        failures = _announce(batch, flushed, journal)
        for change, failure in zip(batch, failures, strict=True):
            folders.touched = set()
            results.append(_applied(change, folders) if failure is None else failure)
            needed.append(folders.touched)
        broken = folders.flush()
    finally:
        folders.close()
        journal.settle([change.ticket for change in batch])
    for number, flushes in enumerate(needed):
        errors = [broken[fd] for fd in flushes if fd in broken]
        if errors and not isinstance(results[number], BaseException):
            results[number] = _unproven(errors[0])
    return results


_NOT_OFFERED = (errno.ENOSYS, errno.EINVAL, errno.EPERM)
"""What sync_file_range(2) answers where there is none, or where a sandbox forbids it."""


def _begin(change: Change) -> OSError | None:
    """Start the write-back.  Who hears of a failure here does not hear of it again."""
    if change.data is not None:
        try:
            syscalls.start_writeback(change.data)
        except OSError as error:
            return None if error.errno in _NOT_OFFERED else error
    return None


def _flush(change: Change, told: OSError | None) -> Exception | None:
    """`told` is what was heard when the write-back began."""
    if change.data is None:
        return None
    try:
        if told is not None:
            raise told
        os.fdatasync(change.data)
    except OSError as error:
        return _failed(change, error)
    return None


def _unproven(error: OSError) -> Refusal:
    """The names are changed, but nobody knows whether a power cut leaves them so."""
    code = from_oserror(error, "").code
    return Refusal(
        code,
        "the change was made, but the storage failed when it was to be kept "
        f"({errno.errorcode.get(error.errno or 0, 'unknown error')}); it may be undone by a crash, "
        "so repeat it",
    )


def _failed(change: Change, error: OSError) -> Exception:
    try:
        change.fail()
    except Exception as worse:
        return worse
    return from_oserror(error, "")


def _announce(
    batch: Sequence[Change], failures: list[Exception | None], journal: Journal
) -> list[Exception | None]:
    """Have the journal know of the changes that have not failed; what cannot be told fails."""
    ready = [change for change, failure in zip(batch, failures, strict=True) if failure is None]
    try:
        journal.begin([change.ticket for change in ready])
    except OSError as error:
        broken = error
    else:
        return failures
    return [
        failure or _failed(change, broken) for change, failure in zip(batch, failures, strict=True)
    ]


def _applied(change: Change, folders: Folders) -> Result:
    try:
        return change.apply(folders)
    except Exception as error:  # told to the owner, who knows what to do
        return error
