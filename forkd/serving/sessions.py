"""The sessions of one loop: who is stepped when, and where its jobs run.

Rules
  1. A session is armed one-shot: while it is in a job or in the queue, no event comes for it.
  2. SHORT jobs run on the loop's thread, LONG ones in the pool, and HASH ones in a small pool of
     their own, or strangers who try passwords would have all memory and keep everybody waiting:
     `_run` decides, nobody else.
  3. A session that pauses has an alarm in a heap; of several, only the last one set counts.
  4. Nobody steps a session that is in a job; who is woken meanwhile is stepped afterwards.
"""

from __future__ import annotations

import heapq
import itertools
import select
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial

from forkd.log import Log
from forkd.serving.pool import Mailbox, Pool
from forkd.serving.session import (
    FOREVER,
    Again,
    Closed,
    Job,
    Outcome,
    Park,
    Pause,
    Session,
    Weight,
)

HASHERS = 2
"""Password hashes at a time; each keeps several processors busy by itself."""
HASHES_MAX = 64
"""Password hashes that run or wait; whoever comes then is told to come again."""
_GONE = select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP


class Sessions:
    """By descriptor; everything but `_work` is for the loop's thread."""

    def __init__(self, epoll: select.epoll, pool: Pool, mailbox: Mailbox, log: Log) -> None:
        self._epoll = epoll
        self._pool = pool
        self._hashers = Pool(HASHERS)
        self._mailbox = mailbox
        self._log = log
        self._sessions: dict[int, Session] = {}
        self._queue: deque[Session] = deque()
        self._alarms: list[tuple[float, int, Session]] = []
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        """A copy: sessions may end while one looks at them."""
        return iter(list(self._sessions.values()))

    @property
    def hashes_full(self) -> bool:
        """So many password hashes wait that the next one would be told too late."""
        return self._hashers.load >= HASHES_MAX

    def patience(self, most: float) -> float:
        """Seconds that the loop may wait for events: 0 when some are to be stepped."""
        if self._queue:
            return 0
        if not self._alarms:
            return most
        return max(0.0, min(most, self._alarms[0][0] - time.monotonic()))

    def open(self, session: Session) -> None:
        """Take up a new session.  Raises OSError: the kernel has no room to watch it."""
        self._epoll.register(session.fd, select.EPOLLONESHOT)
        self._sessions[session.fd] = session
        self._step(session)

    def on_event(self, fd: int, mask: int) -> bool:
        """Something happened on a descriptor; False when it is no session's."""
        session = self._sessions.get(fd)
        if session is None:
            return False
        if session.queued or session.in_job:
            return True
        if session.paused and mask & _GONE:
            self._close(session, "the client left")
        else:
            self._step(session)
        return True

    def ring(self) -> None:
        """Queue those whose pause is over."""
        now = time.monotonic()
        while self._alarms and self._alarms[0][0] <= now:
            at, _, session = heapq.heappop(self._alarms)
            if session.alarm == at:
                session.alarm = 0.0
                self.wake(session.fd, session.id)

    def step_queued(self) -> None:
        """Step those that are in the queue by now; who queues up again waits for the next turn."""
        for _ in range(len(self._queue)):
            session = self._queue.popleft()
            session.queued = False
            if session.in_job:
                session.woken = True
            elif self._sessions.get(session.fd) is session:
                self._step(session)

    def wake(self, fd: int, ident: str) -> None:
        """Step a session soon, or once its job is over."""
        session = self._sessions.get(fd)
        if session is None or session.id != ident:
            return
        if session.in_job:
            session.woken = True
        elif not session.queued:
            session.queued = True
            self._queue.append(session)

    def time_out(self, now: float) -> None:
        """End the waiting of all whose deadline, on the monotonic clock, is over."""
        for session in self:
            if now > session.deadline:
                self._time_out(session)

    def end(self, session: Session) -> None:
        """End the waiting of one, or end it once its job is over."""
        if session.in_job:
            session.door.kick()
            session.woken = True
        else:
            self._time_out(session)

    def _time_out(self, session: Session) -> None:
        if session.in_job or session.queued:
            return
        try:
            outcome = session.door.timed_out()
        except Exception as error:
            outcome = self._failed(session, error)
        self._run(session, outcome)

    def close_parked(self, reason: str) -> None:
        """Close all that are in no job."""
        for session in self:
            if not session.in_job:
                self._close(session, reason)

    def _step(self, session: Session) -> None:
        session.paused = False
        try:
            outcome = session.door.step()
        except Exception as error:
            outcome = self._failed(session, error)
        self._run(session, outcome)

    def _failed(self, session: Session, error: BaseException) -> Outcome:
        try:
            return session.door.failed(error)
        except ConnectionError as broken:
            return Closed(str(broken) or "the connection broke")
        except Exception as fault:
            self._log.unexpected("door-failed", fault, session=session.id)
            return Closed("a fault in the server")

    def _run(self, session: Session, outcome: Outcome) -> None:
        """Carry an outcome out; the one place that decides where a job runs."""
        while isinstance(outcome, Job):
            if outcome.weight is not Weight.SHORT:
                session.in_job = True
                pool = self._hashers if outcome.weight is Weight.HASH else self._pool
                pool.submit(partial(self._work, session, outcome.work))
                return
            try:
                outcome = outcome.work()
            except Exception as error:
                outcome = self._failed(session, error)
        match outcome:
            case Park():
                session.deadline = time.monotonic() + outcome.patience
                if outcome.wants:
                    mask = outcome.wants | select.EPOLLONESHOT
                    self._epoll.modify(session.fd, mask)
                if session.woken:
                    session.woken = False
                    self.wake(session.fd, session.id)
            case Pause():
                self._pause(session, outcome.until)
            case Again():
                session.woken = False
                self.wake(session.fd, session.id)
            case Closed():
                self._close(session, outcome.reason)

    def _pause(self, session: Session, until: float) -> None:
        session.deadline = FOREVER
        session.paused = True
        # nothing is read in a pause, so the kernel must tell of a peer that leaves
        self._epoll.modify(session.fd, select.EPOLLRDHUP | select.EPOLLONESHOT)
        if session.alarm != until:  # else it was woken in between, and its alarm still stands
            session.alarm = until
            heapq.heappush(self._alarms, (until, next(self._numbers), session))
        if session.woken:
            session.woken = False
            self.wake(session.fd, session.id)

    def _work(self, session: Session, work: Callable[[], Outcome]) -> None:
        """On a pool thread."""
        result: Outcome | BaseException
        try:
            result = work()
        except Exception as error:
            result = error
        self._mailbox.post(lambda: self._worked(session, result))

    def _worked(self, session: Session, result: Outcome | BaseException) -> None:
        session.in_job = False
        if isinstance(result, BaseException):
            result = self._failed(session, result)
        self._run(session, result)

    def _close(self, session: Session, reason: str) -> None:
        if self._sessions.pop(session.fd, None) is None:
            return
        try:
            session.door.close()
        except Exception as fault:
            self._log.unexpected("door-failed", fault, session=session.id)
        session.release()
        self._log.debug("closed", session=session.id, address=session.peer, reason=reason)
