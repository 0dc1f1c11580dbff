from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from forkd.messages import (
    Answer,
    LinkMessage,
    ListSessions,
    Rows,
    SessionInfo,
    SessionPage,
)
from forkd.supervisor.questions import ANSWER_TIMEOUT, Question, Questions


@dataclass
class Rig:
    """Two workers, a clock, and an asker who is told nothing by Questions itself."""

    now: float = 100.0
    sent: list[tuple[int, LinkMessage]] = field(default_factory=list)
    finished: list[Question] = field(default_factory=list)
    keys: tuple[int, ...] = (1, 2)

    def __post_init__(self) -> None:
        self.questions = Questions(self, lambda: self.now)

    def serving(self, role: str) -> list[int]:
        return list(self.keys) if role == "worker" else []

    def send(self, key: int, message: LinkMessage) -> None:
        self.sent.append((key, message))

    def progress(self, line: str) -> None: ...

    def done(self, body: Any) -> None: ...

    def failed(self, code: str, message: str) -> None: ...

    def ask(self, role: str = "worker", timeout: float | None = ANSWER_TIMEOUT) -> int:
        self.questions.ask(role, lambda tag: ListSessions(tag), self, self.finished.append, timeout)
        return self.sent[-1][1].tag if self.sent else 0  # type: ignore[union-attr]


def info(name: str) -> SessionInfo:
    return SessionInfo(name, 1, "u", "p", "", "native", "idle", 1.0)


def test_all_are_asked_and_waited_for() -> None:
    rig = Rig()
    tag = rig.ask()
    assert rig.sent == [(1, ListSessions(tag)), (2, ListSessions(tag))]
    rig.questions.on_page(1, SessionPage(tag, [info("a")], True))
    rig.questions.on_page(2, SessionPage(tag, [info("b")], False))
    assert not rig.finished
    rig.questions.on_page(1, SessionPage(tag, [info("c")], False))
    (question,) = rig.finished
    assert [session.id for session in question.sessions] == ["a", "b", "c"]
    assert question.silent == 0


def test_nobody_to_ask_is_an_answer() -> None:
    rig = Rig(keys=())
    rig.ask()
    assert [question.silent for question in rig.finished] == [0]


def test_who_goes_on_telling_has_time_and_who_is_silent_has_not() -> None:
    rig = Rig()
    tag = rig.ask()
    for _ in range(5):
        rig.now += ANSWER_TIMEOUT * 0.9
        rig.questions.on_rows(1, Rows(tag, [{"n": 1}], True))
        rig.questions.tick()
        assert not rig.finished
    assert list(rig.questions.deadlines()) == [rig.now + ANSWER_TIMEOUT]
    rig.questions.on_rows(1, Rows(tag, [], False))
    rig.now += ANSWER_TIMEOUT
    rig.questions.tick()
    (question,) = rig.finished
    assert (len(question.rows), question.silent) == (5, 1)


def test_the_dead_and_strangers_answer_nothing() -> None:
    rig = Rig()
    tag = rig.ask(timeout=None)
    rig.questions.on_answer(3, Answer(tag, {"kicked": 1}))
    rig.questions.on_answer(1, Answer(tag + 1, {"kicked": 1}))
    rig.questions.gone(1)
    rig.now += 1e9
    rig.questions.tick()
    rig.questions.on_answer(2, Answer(tag, {"kicked": 2}))
    rig.questions.on_answer(2, Answer(tag, {"kicked": 2}))
    (question,) = rig.finished
    assert (question.bodies, question.silent) == ([{"kicked": 2}], 1)


def test_one_failure_is_the_failure_of_all() -> None:
    rig = Rig()
    tag = rig.ask()
    rig.questions.on_rows(1, Rows(tag, [], False, "no disk"))
    rig.questions.on_rows(2, Rows(tag, [{"n": 1}], False))
    assert rig.finished[0].failure == "no disk"
