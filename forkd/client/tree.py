"""Whole folders: what is there, here and on the server, and what has to be moved.

A plan is made before the first byte moves, so that progress has an end.  Symbolic links and special
files are left out and told; with `follow`, links are followed, and loops are told apart by the
folders on the way down.  What should be moved and cannot be looked at has failed: the plan says so.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from functools import partial

from msgspec import Struct

from forkd.client.errors import ClientError, LocalError, ProtocolError, RemoteError, printable
from forkd.client.events import Finished, Listener, Note
from forkd.client.listing import ListJob, stat_path
from forkd.client.names import join, safe_name, to_remote
from forkd.client.pipeline import run_jobs
from forkd.client.session import Session
from forkd.client.upload import failure
from forkd.verbs import Entry

MAX_DEPTH = 200
SAME_TIME = 2e-6
"""Seconds that two modification times may differ and be the same: what a float loses."""


class File(Struct, frozen=True):
    """A file to be moved.  `size` in bytes and `mtime` in seconds are those of its source."""

    local: str
    remote: str
    size: int
    mtime: float


class Plan(Struct):
    """What is to be done.  `folders` are the remote or local folders that the files need.

    `failed` is what could not be looked at, told as if it had been tried.
    """

    files: list[File] = []
    folders: list[str] = []
    skipped: int = 0
    failed: list[Finished] = []

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def add(self, other: Plan) -> None:
        """Do all of the other plan too."""
        self.files += other.files
        self.folders += other.folders
        self.skipped += other.skipped
        self.failed += other.failed


def plan_upload(top: str, remote: str, follow: bool, tell: Listener) -> Plan:
    """Everything below the local folder `top`, to be put below `remote`.  Raises LocalError."""
    plan = Plan()
    todo: list[tuple[str, str, tuple[tuple[int, int], ...]]] = [(top, remote, ())]
    first = True
    while todo:
        folder, target, above = todo.pop()
        try:
            here = os.stat(folder)
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            if first:
                raise LocalError.of(error, folder) from None
            plan.failed.append(failure(to_remote(folder), 0, LocalError.of(error, folder)))
            continue
        first = False
        identity = (here.st_dev, here.st_ino)
        if identity in above:
            tell(Note(f"{printable(folder)}: a link that leads into itself; left out", "link"))
            continue
        plan.folders.append(target)
        below: list[tuple[str, str, tuple[tuple[int, int], ...]]] = []
        for entry in entries:
            path = join(target, to_remote(entry.name))
            if _is_folder(entry, follow):
                below.append((entry.path, path, (*above, identity)))
            else:
                _add_local(plan, entry, path, follow, tell)
        todo.extend(reversed(below))
    return plan


def _is_folder(entry: os.DirEntry[str], follow: bool) -> bool:
    try:
        return entry.is_dir(follow_symlinks=follow)
    except OSError:
        return False


def _add_local(
    plan: Plan, entry: os.DirEntry[str], path: str, follow: bool, tell: Listener
) -> None:
    try:
        info = entry.stat(follow_symlinks=follow)
    except OSError as error:
        plan.failed.append(failure(to_remote(entry.path), 0, LocalError.of(error, entry.path)))
        return
    if stat.S_ISREG(info.st_mode):
        plan.files.append(File(entry.path, path, info.st_size, info.st_mtime_ns / 1e9))
    elif stat.S_ISLNK(info.st_mode):
        tell(Note(f"{printable(entry.path)}: a symbolic link; left out (-L follows links)", "link"))
    else:
        tell(Note(f"{printable(entry.path)}: not a file; left out", "special"))


class _RemoteWalk:
    """Lists a remote folder and all below it, folder by folder, each listing leading to others."""

    def __init__(self, follow: bool, tell: Listener) -> None:
        self.plan = Plan()
        self.links: list[tuple[str, str]] = []
        self._follow = follow
        self._tell = tell

    def look(self, remote: str, local: str, depth: int) -> ListJob:
        """The job that lists one folder."""

        def missing(error: ClientError) -> None:
            if depth == 0:
                raise error
            self.plan.failed.append(failure(remote, 0, error))

        return ListJob(remote, lambda entries: self._found(remote, local, depth, entries), missing)

    def _found(
        self, remote: str, local: str, depth: int, entries: list[Entry]
    ) -> Iterable[ListJob]:
        self.plan.folders.append(local)
        below = []
        for entry in sorted(entries, key=lambda entry: entry.name):
            path = join(remote, entry.name)
            try:
                target = os.path.join(local, safe_name(entry.name))
            except ProtocolError as error:
                self.plan.failed.append(failure(path, 0, error))
                continue
            if entry.type == "folder" and depth < MAX_DEPTH:
                below.append(self.look(path, target, depth + 1))
            else:
                self._add(entry, path, target)
        return below

    def _add(self, entry: Entry, path: str, target: str) -> None:
        if entry.type == "file":
            self.plan.files.append(File(target, path, entry.size, entry.mtime))
        elif entry.type == "link" and self._follow:
            self.links.append((path, target))
        elif entry.type == "link":
            shown = printable(path)
            self._tell(Note(f"{shown}: a symbolic link; left out (-L follows links)", "link"))
        elif entry.type == "folder":
            error = LocalError(f"more than {MAX_DEPTH} folders deep")
            self.plan.failed.append(failure(path, 0, error))
        else:
            self._tell(Note(f"{printable(path)}: not a file; left out", "special"))


def plan_download(session: Session, remote: str, local: str, follow: bool) -> Plan:
    """Everything below the remote folder, to be got below the local one.

    Names that would lead out of the local folder have failed.  Of links, those to files are
    followed; those to folders could go round for ever.  Raises what `list` raises for the folder
    itself.
    """
    walk = _RemoteWalk(follow, session.tell)
    run_jobs(session, [walk.look(remote, local, 0)])
    plan = walk.plan
    for path, target in walk.links:
        try:
            entry = session.run(partial(stat_path, path=path))
        except RemoteError as error:
            plan.failed.append(failure(path, 0, error))
            continue
        if entry.type == "file":
            plan.files.append(File(target, path, entry.size, entry.mtime))
        else:
            session.tell(Note(f"{printable(path)}: a link to a folder; left out", "link"))
    return plan


def skip_stored(session: Session, plan: Plan) -> Plan:
    """The plan of an upload without the files that are on the server with same size and mtime."""
    stored: dict[str, Entry] = {}

    def look(folder: str) -> ListJob:
        def found(entries: list[Entry]) -> Iterable[ListJob]:
            stored.update((join(folder, e.name), e) for e in entries if e.type == "file")
            return ()

        return ListJob(folder, found, missing)

    def missing(error: ClientError) -> None:
        """A folder that is not there, or that may not be listed, saves nothing."""

    folders = {file.remote.rpartition("/")[0] for file in plan.files}
    run_jobs(session, [look(folder) for folder in sorted(folders)])
    return _without(plan, lambda file: _same(stored.get(file.remote), file))


def skip_present(plan: Plan) -> Plan:
    """The plan of a download without the files that are here with the same size and mtime."""

    def present(file: File) -> bool:
        try:
            info = os.stat(file.local)
        except OSError:
            return False
        time = info.st_mtime_ns / 1e9
        return _same(
            Entry("", "file" if stat.S_ISREG(info.st_mode) else "", info.st_size, time), file
        )

    return _without(plan, present)


def _same(entry: Entry | None, file: File) -> bool:
    return (
        entry is not None
        and entry.type == "file"
        and entry.size == file.size
        and abs(entry.mtime - file.mtime) < SAME_TIME
    )


def _without(plan: Plan, there: Callable[[File], bool]) -> Plan:
    files = [file for file in plan.files if not there(file)]
    return Plan(files, plan.folders, len(plan.files) - len(files), plan.failed)
