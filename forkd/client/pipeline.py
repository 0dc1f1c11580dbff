"""Many small requests over one connection, without waiting for each.

The window is bounded in requests and in bytes, those of the answers included.  When a connection
is lost, jobs without an answer start again on the next one, in their order; so a job must be
repeatable.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Protocol

from forkd.client.calls import Call
from forkd.client.connection import Connection
from forkd.client.errors import ClientError, LocalError, LostError, RemoteError
from forkd.client.retry import Backoff
from forkd.client.session import Session

MAX_CALLS = 512
MAX_BYTES = 16 << 20
_PUSH_BYTES = 128 * 1024
_PUSH_CALLS = 32


class Job(Protocol):
    """A small request and what becomes of its answer."""

    @property
    def weight(self) -> int:
        """Bytes that request and answer carry, about."""

    def start(self, connection: Connection) -> Call:
        """Make the request; again on another connection, if the first is lost.

        Raises LocalError.
        """

    def finish(self, call: Call, /) -> Iterable[Job]:
        """Take the answer; what else is to be done because of it."""

    def fail(self, error: ClientError) -> None:
        """The request was refused, or could not be made."""


def run_jobs(session: Session, jobs: Iterable[Job]) -> None:
    """Do all jobs.  A job's own failure goes to its `fail`; raises when the session fails."""
    source = iter(jobs)
    backoff = Backoff(session.settings.retry)
    while True:
        run = _Run(session, source)
        try:
            run.work()
            if not run.refused:
                return
            error: ClientError = run.refused[0][1]
        except ClientError as failure:
            session.recover()
            if not isinstance(failure, LostError):
                raise
            error = failure
        except BaseException:
            session.drop()
            raise
        if run.answered:
            backoff.progress()
        try:
            session.pause(backoff, error)
        except RemoteError:
            for job, refusal in run.refused:
                job.fail(refusal)
            run.refused.clear()
        source = chain(run.left_over(), source)


class _Run:
    """What happens between two pauses."""

    def __init__(self, session: Session, jobs: Iterator[Job]) -> None:
        self._session = session
        self._jobs = jobs
        self._more: deque[Job] = deque()
        self._flight: deque[tuple[Job, Call]] = deque()
        self._weight = 0
        self._unpushed = 0
        self.refused: list[tuple[Job, RemoteError]] = []
        self.answered = 0

    def work(self) -> None:
        """Until there is no job left that could go now."""
        while True:
            connection = self._session.connection()
            job = None if connection.leaving else self._next()
            if job is not None:
                self._start(job, connection)
            elif self._flight:
                self._pump(connection)
            elif not connection.leaving:
                return

    def left_over(self) -> Iterator[Job]:
        """The jobs to start again: those refused for the moment, then those without an answer."""
        refused = [job for job, _ in self.refused]
        return chain(refused, [job for job, _ in self._flight], self._more)

    def _next(self) -> Job | None:
        if self._more:
            return self._more.popleft()
        return next(self._jobs, None)

    def _start(self, job: Job, connection: Connection) -> None:
        try:
            call = job.start(connection)
        except LocalError as error:
            job.fail(error)
            return
        self._flight.append((job, call))
        self._weight += job.weight
        self._unpushed += 1
        if connection.queued > _PUSH_BYTES or self._unpushed >= _PUSH_CALLS:
            self._pump(connection)
        while len(self._flight) >= MAX_CALLS or self._weight > MAX_BYTES:
            self._pump(connection)

    def _pump(self, connection: Connection) -> None:
        self._unpushed = 0
        try:
            connection.pump()
        finally:
            while self._flight and self._flight[0][1].done:
                job, call = self._flight.popleft()
                self._weight -= job.weight
                self._settle(job, call)

    def _settle(self, job: Job, call: Call) -> None:
        error = call.error
        if isinstance(error, RemoteError) and error.repeatable:
            self.refused.append((job, error))
            return
        self.answered += 1
        if error is not None:
            job.fail(error)
            return
        try:
            self._more.extend(job.finish(call))
        except ClientError as failure:
            job.fail(failure)
