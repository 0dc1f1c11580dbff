"""Many files at once: a plan becomes jobs and transfers, and their ends a summary."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from functools import partial

from msgspec import Struct

from forkd.client.answers import Stored
from forkd.client.calls import Call
from forkd.client.connection import Connection
from forkd.client.copying import Copy
from forkd.client.crew import Transfer, Work, run_crew
from forkd.client.download import Fetch, SmallDownload
from forkd.client.errors import ClientError, LocalError, LostError, TrustError
from forkd.client.events import Finished, Planned
from forkd.client.partfile import PartFile
from forkd.client.pipeline import Job
from forkd.client.place import Outlet, place_of
from forkd.client.session import Session, StoppedError
from forkd.client.source import open_source, read_small
from forkd.client.stream import StreamUpload
from forkd.client.tree import File, Plan
from forkd.client.upload import (
    PutOptions,
    Report,
    SmallUpload,
    failure,
    inline_put,
    is_full,
    send_inline,
)
from forkd.protocol import INLINE_MAX
from forkd.verbs import Mkdir

_SESSION_FAILS = (LostError, TrustError, StoppedError)


class Summary(Struct):
    """How many files went well and how much they hold, and which ones failed.

    `skipped` were at their destination already; `left` were not tried, because the quota is full.
    `failed` has those too that the plan could not look into.
    """

    files: int = 0
    size: int = 0
    skipped: int = 0
    left: int = 0
    failed: list[Finished] = []
    first_error: ClientError | None = None


class _Batch:
    """Collects the ends of the files of one plan, from all threads."""

    def __init__(self, session: Session, plan: Plan) -> None:
        self.session = session
        self.work = Work((), ())
        self.summary = Summary(skipped=plan.skipped, failed=list(plan.failed))
        self._planned = len(plan.files) + len(plan.failed)
        self._lock = threading.Lock()
        for end in plan.failed:
            session.tell(end)
        session.tell(Planned(len(plan.files), plan.size, plan.skipped))

    def report(self, end: Finished, error: ClientError | None) -> None:
        """One file ended."""
        with self._lock:
            if error is None:
                self.summary.files += 1
                self.summary.size += end.size
            else:
                self.summary.failed.append(end)
                self.summary.first_error = self.summary.first_error or error
        if is_full(error):
            self.work.stop()
        self.session.tell(end)

    def add_large(self, transfer: Transfer) -> None:
        """A small file turned out to be a big one."""
        self.work.add_large(transfer)

    def guarded(self, file: File, transfer: Transfer) -> Transfer:
        """The transfer, its own failures reported; those of its session raised."""

        def run(session: Session) -> None:
            try:
                transfer(session)
            except _SESSION_FAILS:
                raise
            except ClientError as error:
                self.report(failure(file.remote, file.size, error), error)

        return run

    def finish(self, jobs: int) -> Summary:
        """Do the work."""
        run_crew(self.session, self.work, jobs)
        done = self.summary.files + len(self.summary.failed)
        self.summary.left = max(0, self._planned - done)
        return self.summary


def upload_plan(session: Session, plan: Plan, options: PutOptions, jobs: int) -> Summary:
    """Send all files of a plan over at most `jobs` connections.  Raises when no session is left.

    A file that fails does not hold up the others; a full quota does.
    """
    batch = _Batch(session, plan)
    small: list[Job] = [_MakeFolder(path, batch.report) for path in _empty_folders(plan)]
    large: list[Transfer] = []
    for file in plan.files:
        if file.size <= INLINE_MAX:
            small.append(SmallUpload(file.local, file.remote, file.size, options, batch.report))
        else:
            large.append(batch.guarded(file, _sender(batch, file, options)))
    batch.work = Work(small, large)
    return batch.finish(jobs)


def upload_file(session: Session, local: str, remote: str, options: PutOptions) -> Stored:
    """Send one file, whatever its size.  Raises ClientError."""
    with open_source(local) as source:
        if source.size > INLINE_MAX:
            return session.run(StreamUpload(session, source, remote, options))
    data, mtime = read_small(local)
    request = inline_put(remote, data, mtime, options)
    return session.run(lambda connection: send_inline(connection, request, data))


def download_plan(session: Session, plan: Plan, check: bool, jobs: int) -> Summary:
    """Get all files of a plan over at most `jobs` connections.  Raises when no session is left.

    A file that fails does not hold up the others.
    """
    batch = _Batch(session, plan)
    for folder in plan.folders:
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise LocalError.of(error, folder) from None
    small: list[Job] = []
    large: list[Transfer] = []
    for file in plan.files:
        transfer = batch.guarded(file, _getter(batch, file, check))
        if file.size <= INLINE_MAX:
            bigger = partial(batch.add_large, transfer)
            small.append(
                SmallDownload(file.remote, file.local, file.size, check, batch.report, bigger)
            )
        else:
            large.append(transfer)
    batch.work = Work(small, large)
    return batch.finish(jobs)


def download_file(session: Session, remote: str, local: str, check: bool) -> int:
    """Get one file, resuming what is held of it; its size in bytes.  Raises ClientError.

    A link is followed; a device or FIFO is written through, without a part beside it.
    """
    place = place_of(local)
    if place.stream:
        with Outlet(place.path) as outlet:
            return session.run(Copy(session, remote, outlet.write, check, session.tell))
    part = PartFile(place.path, str(session.url.at(remote)))
    try:
        size = session.run(Fetch(session, remote, part, check))
        part.publish()
        return size
    finally:
        part.close()


def _sender(batch: _Batch, file: File, options: PutOptions) -> Transfer:
    def send(session: Session) -> None:
        stored = upload_file(session, file.local, file.remote, options)
        batch.report(Finished(file.remote, stored.size, stored.digest or ""), None)

    return send


def _getter(batch: _Batch, file: File, check: bool) -> Transfer:
    def get(session: Session) -> None:
        size = download_file(session, file.remote, file.local, check)
        batch.report(Finished(file.remote, size), None)

    return get


def _empty_folders(plan: Plan) -> list[str]:
    """Remote folders that no file's path makes."""
    made: set[str] = set()
    for path in plan.folders + [file.remote for file in plan.files]:
        above = path.rpartition("/")[0]
        while above and above not in made:
            made.add(above)
            above = above.rpartition("/")[0]
    return [path for path in plan.folders if path and path not in made]


class _MakeFolder:
    """A folder of which nothing else is sent."""

    weight = 0

    def __init__(self, path: str, report: Report) -> None:
        self._path = path
        self._report = report

    def start(self, connection: Connection) -> Call:
        return connection.call(Mkdir(path=self._path, parents=True))

    def finish(self, _call: Call) -> Iterable[Job]:
        return ()

    def fail(self, error: ClientError) -> None:
        self._report(failure(self._path, 0, error), error)
