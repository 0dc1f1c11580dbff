"""Making changes durable before they are acknowledged, in rounds that share the flushes.

A round takes the changes that wait and
  1. starts the write-back of all their data,
  2. flushes each file (after the first, the others' journal entries are on disk already),
  3. applies each change, which gives files their names,
  4. flushes each folder that was touched, once,
  5. tells each change's owner, on the loop's thread.
One round is under way at a time; what comes meanwhile makes up the next.  With durability "full" a
round has one change; with "none" changes are applied at once and nothing is flushed.

A change that fails fails alone: whatever is raised becomes its result.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from typing import Literal, Protocol

from forkd import syscalls
from forkd.errors import Refusal, from_oserror
from forkd.serving.pool import Mailbox, Pool
from forkd.storage.tree import Parts, Tree

ROUND_MAX = 256
"""Changes in one round at most: nobody waits for a round without end."""

CROWD = 1024
"""So many changes wait that a session submits one at a time: each holds a lease and a file."""


class Folders:
    """The folders of one round, each opened once."""

    def __init__(self) -> None:
        self._open: dict[tuple[int, Parts], int] = {}

    def get(self, tree: Tree, parts: Parts, parents: bool = False) -> int:
        """A descriptor of the folder, flushed at the end of the round.  Raises Refusal."""
        key = (id(tree), parts)
        fd = self._open.get(key)
        if fd is None:
            try:
                fd = tree.open_folder(parts, parents=False)
            except Refusal as refusal:
                if refusal.code != "not-found" or not parents:
                    raise
                fd = tree.open_folder(parts, parents=True)
                for depth in range(len(parts)):
                    self.get(tree, parts[:depth])
            self._open[key] = fd
        return fd

    def flush(self) -> OSError | None:
        """fsync all; the first error, if any."""
        failure: OSError | None = None
        for fd in self._open.values():
            try:
                os.fsync(fd)
            except OSError as error:
                failure = failure or error
        return failure

    def close(self) -> None:
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()


Result = object
"""What `apply` answered, or the Refusal or other exception that it raised."""


class Change(Protocol):
    """What is to be made durable; `apply` and `fail` may be called on any thread."""

    @property
    def data(self) -> int | None:
        """A file to flush first."""

    def apply(self, folders: Folders, /) -> object:
        """Make the change; what it touches is got from `folders`."""

    def fail(self) -> None:
        """Called instead of `apply` when the data could not be flushed."""

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


def make_committer(
    durability: Literal["full", "group", "none"], pool: Pool, mailbox: Mailbox
) -> Committer:
    if durability == "none":
        return ImmediateCommitter()
    return DurableCommitter(pool, mailbox, ROUND_MAX if durability == "group" else 1)


class ImmediateCommitter:
    """Applies and forgets: the kernel writes when it likes."""

    idle = True
    crowded = False

    def submit(self, changes: Sequence[Change]) -> None:
        folders = Folders()
        try:
            results = [_applied(change, folders) for change in changes]
        finally:
            folders.close()
        for change, result in zip(changes, results, strict=True):
            change.done(result)


class DurableCommitter:
    """Rounds on a pool thread."""

    def __init__(self, pool: Pool, mailbox: Mailbox, most: int) -> None:
        self._pool = pool
        self._mailbox = mailbox
        self._most = most
        self._waiting: deque[Change] = deque()
        self._running = False

    @property
    def idle(self) -> bool:
        return not self._running

    @property
    def crowded(self) -> bool:
        return len(self._waiting) >= CROWD

    def submit(self, changes: Sequence[Change]) -> None:
        self._waiting.extend(changes)
        if not self._running:
            self._start()

    def _start(self) -> None:
        count = min(len(self._waiting), self._most)
        batch = [self._waiting.popleft() for _ in range(count)]
        self._running = True
        self._pool.submit(lambda: self._round(batch))

    def _round(self, batch: list[Change]) -> None:
        results: list[Result]
        try:
            results = run_round(batch)
        except Exception as error:
            results = [error] * len(batch)
        self._mailbox.post(lambda: self._finish(batch, results))

    def _finish(self, batch: list[Change], results: list[Result]) -> None:
        self._running = False
        if self._waiting:
            self._start()
        for change, result in zip(batch, results, strict=True):
            change.done(result)


def run_round(batch: list[Change]) -> list[Result]:
    """See the module."""
    for change in batch:
        if change.data is not None:
            try:
                syscalls.start_writeback(change.data)
            except OSError:
                pass  # the flush below tells
    folders = Folders()
    try:
        flushed = [_flush(change) for change in batch]
        results = [
            _applied(change, folders) if failure is None else failure
            for change, failure in zip(batch, flushed, strict=True)
        ]
        broken = folders.flush()
    finally:
        folders.close()
    if broken is not None:
        refusal = from_oserror(broken, "")
        return [r if isinstance(r, BaseException) else refusal for r in results]
    return results


def _flush(change: Change) -> Exception | None:
    if change.data is None:
        return None
    try:
        os.fdatasync(change.data)
    except OSError as error:
        try:
            change.fail()
        except Exception as worse:
            return worse
        return from_oserror(error, "")
    return None


def _applied(change: Change, folders: Folders) -> Result:
    try:
        return change.apply(folders)
    except Exception as error:  # told to the owner, who knows what to do
        return error
