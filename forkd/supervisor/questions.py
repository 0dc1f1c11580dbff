"""Questions that children must answer first, kept under a tag until the last one has answered.

A child that died, or did not say anything for as long as it may be silent, is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from forkd.messages import (
    Answer,
    LinkMessage,
    Rows,
    SessionInfo,
    SessionPage,
    encode,
)
from forkd.supervisor.control import Asker

PAGE_BYTES = 48 * 1024
"""Sessions in one message to a child, as JSON: it must fit in a packet."""
ANSWER_TIMEOUT = 2.0
"""Seconds a child may be silent."""


class Children(Protocol):
    """Those who are asked."""

    def serving(self, role: str) -> list[int]:
        """The keys of those of this role that read their links."""

    def send(self, key: int, message: LinkMessage) -> None: ...


@dataclass(slots=True)
class Question:
    """What was asked of children; `waiting` are the keys that have not answered yet.

    `silent` counts those that never did.  `timeout` None: they may take any time.
    """

    asker: Asker
    waiting: set[int]
    finish: Callable[[Question], None]
    timeout: float | None
    deadline: float | None = None
    sessions: list[SessionInfo] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    failure: str = ""
    silent: int = 0


class Questions:
    """Asks children, and hears what they say."""

    def __init__(self, children: Children, clock: Callable[[], float], tag: int = 1) -> None:
        self._children = children
        self._clock = clock
        self.next_tag = tag
        self._open: dict[int, Question] = {}

    def ask(
        self,
        role: str,
        message: Callable[[int], LinkMessage],
        asker: Asker,
        finish: Callable[[Question], None],
        timeout: float | None = ANSWER_TIMEOUT,
    ) -> None:
        """Ask all of this role; `message` gets the tag, `finish` the question with the answers."""
        tag, self.next_tag = self.next_tag, self.next_tag + 1
        keys = self._children.serving(role)
        question = self._open[tag] = Question(asker, set(keys), finish, timeout)
        self._heard(question)
        for key in keys:
            self._children.send(key, message(tag))
        if not question.waiting:
            self._finish(tag, question)

    def on_page(self, key: int, page: SessionPage) -> None:
        if question := self._of(key, page.tag):
            question.sessions += page.sessions
            self._answered(page.tag, question, key, page.more)

    def on_rows(self, key: int, rows: Rows) -> None:
        if question := self._of(key, rows.tag):
            question.rows += rows.rows
            question.failure = question.failure or rows.failure
            self._answered(rows.tag, question, key, rows.more)

    def on_answer(self, key: int, answer: Answer) -> None:
        if question := self._of(key, answer.tag):
            question.bodies.append(answer.body)
            self._answered(answer.tag, question, key, False)

    def gone(self, key: int) -> None:
        """This child will answer nothing any more."""
        for tag, question in list(self._open.items()):
            if key in question.waiting:
                question.silent += 1
                self._answered(tag, question, key, False)

    def tick(self) -> None:
        """Give up waiting where the time is over."""
        now = self._clock()
        for tag, question in list(self._open.items()):
            if question.deadline is not None and now >= question.deadline:
                question.silent += len(question.waiting)
                question.waiting.clear()
                self._finish(tag, question)

    def deadlines(self) -> Iterable[float]:
        return (q.deadline for q in self._open.values() if q.deadline is not None)

    def _of(self, key: int, tag: int) -> Question | None:
        question = self._open.get(tag)
        return question if question and key in question.waiting else None

    def _heard(self, question: Question) -> None:
        if question.timeout is not None:
            question.deadline = self._clock() + question.timeout

    def _answered(self, tag: int, question: Question, key: int, more: bool) -> None:
        if more:
            self._heard(question)
            return
        question.waiting.discard(key)
        if not question.waiting:
            self._finish(tag, question)

    def _finish(self, tag: int, question: Question) -> None:
        if self._open.pop(tag, None):
            question.finish(question)


def pages(sessions: Iterable[SessionInfo]) -> list[list[SessionInfo]]:
    """At least one page, none too large for a packet."""
    found: list[list[SessionInfo]] = [[]]
    size = 0
    for session in sessions:
        own = len(encode(session))
        if size + own > PAGE_BYTES and found[-1]:
            found.append([])
            size = 0
        found[-1].append(session)
        size += own
    return found
