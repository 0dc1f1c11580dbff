"""What the control socket's requests mean.

Most are answered at once.  A question that children must answer first is kept here under a tag,
until the last of them has answered or died or its time is over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from forkd.messages import (
    AccountChanged,
    Answer,
    ControlRequest,
    Kick,
    KickSession,
    LinkMessage,
    ListSessions,
    Reload,
    SessionInfo,
    SessionPage,
    Sessions,
    Status,
    Stop,
    TellAccountChanged,
    Upgrade,
    Verify,
    VerifyQuota,
    Workers,
)
from forkd.supervisor.control import Asker
from forkd.supervisor.reload import WORKERS_MAX
from forkd.units import format_count

ANSWER_TIMEOUT = 2.0
"""Seconds a worker may take to answer; its sessions are left out then."""


class Daemon(Protocol):
    """What requests need of the master."""

    def status(self) -> dict[str, Any]: ...

    def reload(self, asker: Asker) -> None: ...

    def upgrade(self, asker: Asker) -> None: ...

    def stop(self, now: bool, asker: Asker | None) -> None: ...

    def set_workers(self, count: int) -> int:
        """The number of workers there will be.  Raises ValueError with a sentence."""

    def serving(self, role: str) -> list[int]:
        """The keys of those of this role that read their links."""

    def send(self, key: int, message: LinkMessage) -> None: ...


@dataclass(slots=True)
class Question:
    """What was asked of children; `waiting` are the keys that have not answered yet."""

    asker: Asker
    waiting: set[int]
    finish: Callable[[Question], None]
    deadline: float | None
    sessions: list[SessionInfo] = field(default_factory=list)
    body: dict[str, Any] = field(default_factory=dict)
    silent: int = 0


class Requests:
    """Answers requests by asking the daemon and its children."""

    def __init__(self, daemon: Daemon, clock: Callable[[], float], tag: int = 1) -> None:
        """`tag`: the first one that no question to a child has had."""
        self._daemon = daemon
        self._clock = clock
        self.next_tag = tag
        self._questions: dict[int, Question] = {}

    def handle(self, request: ControlRequest, asker: Asker) -> None:
        """Answer, or see to it that somebody will."""
        match request:
            case Status():
                asker.done(self._daemon.status())
            case Reload():
                self._daemon.reload(asker)
            case Upgrade():
                self._daemon.upgrade(asker)
            case Stop(now=now):
                self._daemon.stop(now, asker)
            case Workers(count=count):
                self._set_workers(count, asker)
            case TellAccountChanged(name=name):
                workers = self._daemon.serving("worker")
                for key in workers:
                    self._daemon.send(key, AccountChanged(name))
                asker.done({"told": len(workers)})
            case Sessions():
                self._ask("worker", ListSessions, asker, self._list_sessions)
            case KickSession(session=session):
                self._ask("worker", lambda tag: Kick(tag, session), asker, self._kicked)
            case VerifyQuota():
                self._verify(request, asker)

    def on_page(self, key: int, page: SessionPage) -> None:
        question = self._questions.get(page.tag)
        if question and key in question.waiting:
            question.sessions += page.sessions
            if not page.more:
                self._answered(page.tag, question, key)

    def on_answer(self, key: int, answer: Answer) -> None:
        question = self._questions.get(answer.tag)
        if question and key in question.waiting:
            # A worker that has no such session must not hide the one that had it.
            if not question.body.get("kicked"):
                question.body = answer.body
            self._answered(answer.tag, question, key)

    def gone(self, key: int) -> None:
        """This child will answer nothing any more."""
        for tag, question in list(self._questions.items()):
            if key in question.waiting:
                question.silent += 1
                self._answered(tag, question, key)

    def tick(self) -> None:
        """Give up waiting where the time is over."""
        now = self._clock()
        for tag, question in list(self._questions.items()):
            if question.deadline is not None and now >= question.deadline:
                question.silent += len(question.waiting)
                question.waiting.clear()
                self._finish(tag, question)

    def wake_at(self) -> float | None:
        """The next deadline."""
        deadlines = [q.deadline for q in self._questions.values() if q.deadline is not None]
        return min(deadlines, default=None)

    def _ask(
        self,
        role: str,
        message: Callable[[int], LinkMessage],
        asker: Asker,
        finish: Callable[[Question], None],
        timeout: float | None = ANSWER_TIMEOUT,
    ) -> None:
        tag = self.next_tag
        self.next_tag += 1
        keys = self._daemon.serving(role)
        deadline = None if timeout is None else self._clock() + timeout
        question = self._questions[tag] = Question(asker, set(keys), finish, deadline)
        for key in keys:
            self._daemon.send(key, message(tag))
        if not question.waiting:
            self._finish(tag, question)

    def _answered(self, tag: int, question: Question, key: int) -> None:
        question.waiting.discard(key)
        if not question.waiting:
            self._finish(tag, question)

    def _finish(self, tag: int, question: Question) -> None:
        if self._questions.pop(tag, None):
            question.finish(question)

    def _set_workers(self, count: int, asker: Asker) -> None:
        if not 0 <= count <= WORKERS_MAX:
            asker.failed("bad-request", f"the number of workers is 0 to {WORKERS_MAX}")
            return
        try:
            asker.done({"workers": self._daemon.set_workers(count)})
        except ValueError as error:
            asker.failed("busy", str(error))

    def _list_sessions(self, question: Question) -> None:
        found = sorted(question.sessions, key=lambda session: session.since)
        question.asker.done(
            {"sessions": msgspec.to_builtins(found), "silent_workers": question.silent}
        )

    def _kicked(self, question: Question) -> None:
        if question.body.get("kicked"):
            question.asker.done({"kicked": True})
        elif question.silent:
            silent = format_count(question.silent, "worker")
            question.asker.failed(
                "busy", f"{silent} did not answer, the others have no such session"
            )
        else:
            question.asker.failed("not-found", "there is no such session (any more)")

    def _verify(self, request: VerifyQuota, asker: Asker) -> None:
        if not self._daemon.serving("keeper"):
            asker.failed("busy", "the keeper, which verifies, is just being started; try again")
            return
        self._ask(
            *("keeper", lambda tag: Verify(tag, request.user, request.fix), asker, _verified),
            timeout=None,
        )


def _verified(question: Question) -> None:
    if question.silent:
        question.asker.failed("internal", "the keeper ended while it verified; try again")
    else:
        question.asker.done(question.body)
