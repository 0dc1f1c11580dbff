"""Several connections at once: a queue of small jobs, a queue of big transfers, a few workers.

The calling thread is the first worker: it takes the small jobs, pipelined on its connection, then
big ones.  Each further worker has a thread and a connection of its own, takes big transfers, then
helps with the small jobs.  The first error of a session stops all, and is raised.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from forkd.client.errors import ClientError, RemoteError
from forkd.client.pipeline import Job, run_jobs
from forkd.client.session import Session, StoppedError

Transfer = Callable[[Session], None]
"""A big transfer; it reports its own failure and raises only when its session failed."""


class Work:
    """What is to be done, for several threads."""

    def __init__(self, small: Iterable[Job], large: Iterable[Transfer]) -> None:
        self._lock = threading.Lock()
        self._small = deque(small)
        self._large = deque(large)

    def add_large(self, transfer: Transfer) -> None:
        """A small job turned out to be a big one."""
        with self._lock:
            self._large.append(transfer)

    def small(self) -> Iterator[Job]:
        """Small jobs until there are none."""
        while True:
            with self._lock:
                if not self._small:
                    return
                job = self._small.popleft()
            yield job

    def large(self) -> Iterator[Transfer]:
        """Big transfers until there are none."""
        while True:
            with self._lock:
                if not self._large:
                    return
                transfer = self._large.popleft()
            yield transfer

    def stop(self) -> None:
        """Give out nothing more."""
        with self._lock:
            self._small.clear()
            self._large.clear()

    def helpers(self, jobs: int) -> int:
        """How many workers beside the first one are of use."""
        with self._lock:
            return max(0, min(jobs, len(self._large) + bool(self._small)) - 1)


def run_crew(session: Session, work: Work, jobs: int) -> None:
    """Do all work over at most `jobs` connections.  Raises the first session's error."""
    session.connection()  # before others come: password, pin and address are settled once
    crew = _Crew(work, [session.sibling() for _ in range(work.helpers(jobs))])
    crew.start()
    try:
        _small_first(session, work)
        crew.join()
    except BaseException as error:
        work.stop()
        crew.abandon()
        if isinstance(error, ClientError) and crew.error is not None:
            raise crew.error from None
        raise
    if crew.error is not None:
        raise crew.error


class _Crew:
    def __init__(self, work: Work, sessions: list[Session]) -> None:
        self._work = work
        self._sessions = sessions
        self._threads = [
            threading.Thread(target=self._run, args=(session,), daemon=True) for session in sessions
        ]
        self._lock = threading.Lock()
        self.error: BaseException | None = None

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def abandon(self) -> None:
        """End the helpers' transfers and wait for their threads."""
        for session in self._sessions:
            session.stop()
        self.join()

    def _run(self, session: Session) -> None:
        if _is_one_too_many(session):
            return  # the others do its work
        try:
            _large_first(session, self._work)
        except StoppedError:
            pass  # by `abandon`: somebody else's error is on its way
        except BaseException as error:
            self._work.stop()
            with self._lock:
                self.error = self.error or error
        finally:
            session.drop()


def _is_one_too_many(session: Session) -> bool:
    """Whether the server takes no further connection of ours; other failures are for `run`."""
    try:
        session.connection()
    except RemoteError as error:
        return error.code == "too-many"
    except ClientError:
        pass
    return False


def _small_first(session: Session, work: Work) -> None:
    run_jobs(session, work.small())
    for transfer in work.large():
        transfer(session)


def _large_first(session: Session, work: Work) -> None:
    for transfer in work.large():
        transfer(session)
    run_jobs(session, work.small())
    for transfer in work.large():  # small jobs may have turned out to be big ones
        transfer(session)
