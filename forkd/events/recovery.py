"""Deciding what a dead process left open in its journal: were these changes made?

Whoever holds the dead process's slot decides, before the slot is reaped and before the next process
sits in it.  The disk tells, by names that nobody else uses until then:

    an upload    lies in staging as "s..." of its process, or as a partial that a lease of its
                 process keeps from everybody else (charged.py); it was published if neither name
                 has its inode any more.  After an exchange the name has the old file's inode.
    a removal    puts the file into staging as "t..." of its process; what is there was removed.
                 It is unlinked only after Done is written.

A kill -9 comes                              left behind                    so it is
    while a journal is made                  a file that is no journal      removed
    while the intents are written            a torn line, cut off           never told
    after the intents, before the rename     the upload in staging          undone
    after the rename or exchange             no such inode in staging       done
    after Done is written, before the reply  a decided change               told; the client asks
                                                                            again, and that is told
                                                                            as another change
    in the middle of a recovery              some outcomes more             decided once more
    removal: before the rename               no "t..." object               undone
    removal: after it, before Done           the "t..." object              done, of its size
    move: before the rename                  the inode at its old path      undone
    move: after it                           the inode at its new path      done

What is left in doubt.  A file that was to be moved and is at neither path: if something else is at
the old path it was replaced there, so it was not moved; if nothing is, it counts as moved.  That
can be wrong only where another session changed one of the two names in the milliseconds between
the kill and the recovery.  Folders are removed without a trace: gone is removed.

After a power cut the intents of durable changes are on the disk, the outcomes of the last moments
perhaps not.  An upload is decided as above: a rename that was lost left the object in staging.  A
removed file may have left staging by then: gone from its path is removed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from forkd import syscalls
from forkd.events import files
from forkd.events.files import LIVE, Stem
from forkd.events.records import Done, Header, Intent, Undone, line_of, record_of
from forkd.storage.names import to_bytes
from forkd.storage.store import STAGING


def recover(folder: str, slot: int, storage: str, boot: str) -> int:
    """Decide the journals in `folder` of the dead processes of a slot that the caller holds.

    Answers with how many changes were open.  `storage` is storage.path, `boot` the present boot.
    Raises OSError, also where the storage is not there; then nothing may be reaped.
    """
    files.drop_unmade(folder, slot)
    count = 0
    for stem, live in files.journals(folder).items():
        if live and stem.slot == slot:
            count += _decide(folder, stem, storage, boot)
    return count


def _decide(folder: str, stem: Stem, storage: str, boot: str) -> int:
    path = os.path.join(folder, str(stem) + LIVE)
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        header, left, whole = _open_changes(fd)
        os.ftruncate(fd, whole)
        if left:
            os.stat(os.path.join(storage, STAGING))  # without that, the disk is not there
            outcomes = [_outcome(intent, storage, header == boot) for intent in left]
            os.lseek(fd, whole, os.SEEK_SET)
            lines = memoryview(b"".join(line_of(outcome) for outcome in outcomes))
            while lines:
                lines = lines[os.write(fd, lines) :]
        os.fdatasync(fd)
    finally:
        os.close(fd)
    files.end(folder, stem)
    return len(left)


def _open_changes(fd: int) -> tuple[str, list[Intent], int]:
    """The boot that the journal is of, its open changes, and how many bytes of it are whole."""
    boot, whole = "", 0
    left: dict[str, Intent] = {}
    with open(fd, "rb", closefd=False) as lines:
        for line in lines:
            record = record_of(line[:-1]) if line.endswith(b"\n") else None
            if record is None:
                break
            whole += len(line)
            match record:
                case Header():
                    boot = record.boot
                case Intent():
                    left[record.id] = record
                case Done() | Undone():
                    left.pop(record.id, None)
    return boot, list(left.values()), whole


def _outcome(intent: Intent, storage: str, same_boot: bool) -> Done | Undone:
    with _folders(intent, storage) as (staging, home):
        size = intent.size
        match intent.kind:
            case "published":
                made = not any(_has(staging, name, intent.inode) for name in intent.staged)
            case "removed" if intent.type == "folder":
                made = _at(home, intent.path) is None
            case "removed":
                found = _staged(staging, intent.staged)
                size = found.st_size if found and stat.S_ISREG(found.st_mode) else None
                made = found is not None or (not same_boot and _at(home, intent.path) is None)
            case "renamed":
                made = _was_moved(home, intent)
        return Done(intent.id, intent.at, size) if made else Undone(intent.id)


def _was_moved(home: int | None, intent: Intent) -> bool:
    here = _at(home, intent.path)
    if here is not None and here.st_ino == intent.inode:
        return True
    return _at(home, intent.source or "") is None


@contextmanager
def _folders(intent: Intent, storage: str) -> Iterator[tuple[int | None, int | None]]:
    """The account's staging folder and its home, None where there is none (any more)."""
    opened: list[int | None] = []
    try:
        for parts in ((STAGING, str(intent.origin.account)), (intent.origin.home,)):
            try:
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
                opened.append(os.open(os.path.join(storage, *parts), flags))
            except FileNotFoundError:
                opened.append(None)
        yield opened[0], opened[1]
    finally:
        for fd in opened:
            if fd is not None:
                os.close(fd)


def _staged(folder: int | None, names: tuple[str, ...]) -> os.stat_result | None:
    for name in names:
        try:
            if folder is not None:
                return os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            continue
    return None


def _has(folder: int | None, name: str, inode: int) -> bool:
    found = _staged(folder, (name,))
    return found is not None and found.st_ino == inode


def _at(home: int | None, path: str) -> os.stat_result | None:
    """What is at a path of the account now, links not followed; None for nothing."""
    if home is None:
        return None
    name = to_bytes(path).strip(b"/")
    try:
        fd = syscalls.open_beneath(home, name, os.O_PATH | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)
