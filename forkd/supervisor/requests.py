"""What the control socket's requests mean.

Most are answered at once.  What children must answer first is asked in questions.py, and waiting
for sessions to end is done in drainage.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from forkd import reports
from forkd.controlmessages import (
    ChangeLogLevel,
    Check,
    ControlRequest,
    KickSession,
    KickSessions,
    LiftBan,
    ListAccounts,
    ListBans,
    Reload,
    ReplaceWorker,
    ServeAgain,
    Sessions,
    Status,
    Stop,
    StopServing,
    TellAccountChanged,
    Upgrade,
    VerifyQuota,
    Workers,
)
from forkd.messages import (
    AccountChanged,
    Answer,
    AskSessions,
    Inform,
    Kick,
    KickUser,
    LinkMessage,
    ListSessions,
    LogLevel,
    Rows,
    SessionPage,
    Verify,
)
from forkd.supervisor import drainage
from forkd.supervisor.control import Asker, Nobody
from forkd.supervisor.drainage import Drainage
from forkd.supervisor.orders import Orders
from forkd.supervisor.questions import Question, Questions, pages
from forkd.supervisor.reload import WORKERS_MAX
from forkd.units import format_count

KEEPER_TIMEOUT = 10.0
"""Seconds the keeper may be silent while it reads files."""


class Daemon(drainage.Workers, Protocol):
    """What requests need of the master."""

    def status(self) -> reports.Status: ...

    def reload(self, asker: Asker) -> None: ...

    def upgrade(self, asker: Asker) -> None: ...

    def check(self) -> reports.Checked:
        """Raises ValueError with a sentence."""

    def stop(self, now: bool, asker: Asker | None) -> None: ...

    def set_workers(self, count: int) -> int:
        """The number of workers there will be.  Raises ValueError with a sentence."""

    def set_log_level(self, level: LogLevel) -> None: ...

    def serving(self, role: str) -> list[int]:
        """The keys of those of this role that read their links."""


class Requests:
    """Answers requests by asking the daemon and its children."""

    def __init__(
        self, daemon: Daemon, orders: Orders, clock: Callable[[], float], tag: int = 1
    ) -> None:
        """`tag`: the first one that no question to a child has had."""
        self._daemon = daemon
        self._questions = Questions(daemon, clock, tag)
        self._drainage = Drainage(daemon, orders, clock)

    @property
    def next_tag(self) -> int:
        """The first one that no question to a child has had."""
        return self._questions.next_tag

    def handle(self, request: ControlRequest, asker: Asker) -> None:
        """Answer, or see to it that somebody will."""
        match request:
            case Status():
                asker.done(self._daemon.status())
            case Reload():
                self._daemon.reload(asker)
            case Upgrade():
                self._daemon.upgrade(asker)
            case Check():
                self._check(asker)
            case Stop(now=now):
                self._daemon.stop(now, asker)
            case Workers(count=count):
                self._set_workers(count, asker)
            case StopServing(timeout=timeout):
                self._drainage.close(timeout, asker)
            case ServeAgain():
                self._drainage.open(asker)
            case ReplaceWorker(slot=slot, timeout=timeout):
                self._drainage.replace(slot, timeout, asker)
            case ChangeLogLevel(level=level):
                self._daemon.set_log_level(level)
                asker.done(reports.LogLevel(level=level))
            case _:
                self._ask(request, asker)

    def _ask(self, request: ControlRequest, asker: Asker) -> None:
        """What children know or do."""
        match request:
            case TellAccountChanged(name=name):
                # one who is just being started may have let somebody in already
                workers = self._daemon.workers()
                for key in workers:
                    self._daemon.send(key, AccountChanged(name))
                asker.done(reports.Told(told=len(workers)))
            case Sessions(user=user, state=state):
                self._questions.ask(
                    *("worker", lambda tag: ListSessions(tag, user, state)),
                    *(asker, _list_sessions),
                )
            case KickSession(session=session):
                self._questions.ask("worker", lambda tag: Kick(tag, session), asker, _kicked)
            case KickSessions(user=whose):
                self._questions.ask("worker", lambda tag: KickUser(tag, whose), asker, _all_kicked)
            case VerifyQuota(user=user, fix=fix):
                self._ask_keeper(lambda tag: Verify(tag, user, fix), asker, _verified, None)
            case ListAccounts(name=name):
                self._ask_keeper(lambda tag: Inform(tag, "accounts", name), asker, _informed)
            case ListBans():
                self._ask_keeper(lambda tag: Inform(tag, "bans"), asker, _informed)
            case LiftBan(origin=origin):
                self._ask_keeper(lambda tag: Inform(tag, "lift", origin), asker, _informed)
            case _:
                asker.failed("bad-request", "forkd does not know how to do that")

    # what children ask and say

    def on_ask(self, key: int, asked: AskSessions) -> None:
        """A child wants to know of all sessions."""

        def tell(question: Question) -> None:
            found = pages(sorted(question.sessions, key=lambda session: session.since))
            for number, page in enumerate(found, 1):
                self._daemon.send(key, SessionPage(asked.tag, page, number < len(found)))

        self._questions.ask("worker", ListSessions, Nobody(), tell)

    def on_page(self, key: int, page: SessionPage) -> None:
        self._questions.on_page(key, page)

    def on_rows(self, key: int, rows: Rows) -> None:
        self._questions.on_rows(key, rows)

    def on_answer(self, key: int, answer: Answer) -> None:
        self._questions.on_answer(key, answer)

    def gone(self, key: int) -> None:
        """This child will answer nothing any more."""
        self._questions.gone(key)

    def ended(self, key: int) -> None:
        """This child's process is gone."""
        self._drainage.gone(key)

    def stopping(self) -> None:
        """The daemon is told to stop, here or by a signal."""
        self._drainage.stopping()

    # time

    def tick(self) -> None:
        """What is due now."""
        self._questions.tick()
        self._drainage.tick()

    def wake_at(self) -> float | None:
        """The next moment at which `tick` has something to do."""
        drained = self._drainage.wake_at()
        moments = [*self._questions.deadlines(), *([] if drained is None else [drained])]
        return min(moments, default=None)

    def _check(self, asker: Asker) -> None:
        try:
            asker.done(self._daemon.check())
        except ValueError as error:
            asker.failed("busy", str(error))

    def _set_workers(self, count: int, asker: Asker) -> None:
        if not 0 <= count <= WORKERS_MAX:
            asker.failed("bad-request", f"the number of workers is 0 to {WORKERS_MAX}")
            return
        try:
            asker.done(reports.Workers(workers=self._daemon.set_workers(count)))
        except ValueError as error:
            asker.failed("busy", str(error))

    def _ask_keeper(
        self,
        message: Callable[[int], LinkMessage],
        asker: Asker,
        finish: Callable[[Question], None],
        timeout: float | None = KEEPER_TIMEOUT,
    ) -> None:
        if self._daemon.serving("keeper"):
            self._questions.ask("keeper", message, asker, finish, timeout)
        else:
            asker.failed("busy", "the keeper, who knows, is just being started; try again")


def _list_sessions(question: Question) -> None:
    found = sorted(question.sessions, key=lambda session: session.since)
    question.asker.done(reports.SessionList(sessions=found, silent_workers=question.silent))


def _kicked(question: Question) -> None:
    count = _count_kicked(question)
    if count:
        question.asker.done(reports.Kicked(kicked=count))
    elif question.silent:
        silent = format_count(question.silent, "worker")
        question.asker.failed("busy", f"{silent} did not answer, the others have no such session")
    else:
        question.asker.failed("not-found", "there is no such session (any more)")


def _all_kicked(question: Question) -> None:
    count = _count_kicked(question)
    if question.silent:
        silent = format_count(question.silent, "worker")
        question.asker.failed(
            "busy", f"{silent} did not answer; of the others {count} sessions were ended"
        )
    else:
        question.asker.done(reports.Kicked(kicked=count))


def _count_kicked(question: Question) -> int:
    return sum(int(body.get("kicked", 0)) for body in question.bodies)


def _verified(question: Question) -> None:
    if question.silent:
        question.asker.failed("internal", "the keeper ended while it verified; try again")
    else:
        question.asker.done(question.bodies[0] if question.bodies else {})


def _informed(question: Question) -> None:
    if question.silent:
        question.asker.failed("busy", "the keeper did not answer; try again")
    elif question.failure:
        question.asker.failed("internal", question.failure)
    else:
        question.asker.done({"rows": question.rows})
