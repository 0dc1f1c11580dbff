"""The sessions of a worker as the master asks for them: named, kicked, told.

However many there are, the loop goes on: a list is told in pages, a turn of the loop for each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from forkd.link import Link
from forkd.log import Log
from forkd.messages import (
    ListSessions,
    SessionInfo,
    SessionPage,
    encode,
)
from forkd.serving.session import Session
from forkd.serving.sessions import Sessions

PAGE_SESSIONS = 100
"""Looked at in one turn: some hundred microseconds."""
PAGE_BYTES = 48 * 1024
"""Sessions in one message, as JSON: it must fit in a packet."""
_FULL_PAUSE = 0.01
"""Seconds to wait for a master who does not read as fast as we tell."""


@dataclass(slots=True)
class _Call:
    """A list that is being told."""

    question: ListSessions
    left: deque[Session]

    def wants(self, info: SessionInfo) -> bool:
        return self.question.user in ("", info.user) and self.question.state in ("", info.state)


class Roll:
    """On the loop's thread only."""

    def __init__(self, sessions: Sessions, slot: int, link: Link, log: Log) -> None:
        self._sessions = sessions
        self._slot = slot
        self._link = link
        self._log = log
        self._calls: deque[_Call] = deque()

    def call(self, question: ListSessions) -> None:
        """Begin to tell who is here; `turn` goes on."""
        self._calls.append(_Call(question, deque(self._sessions)))

    def patience(self, otherwise: float) -> float:
        """Seconds the loop may sleep."""
        if not self._calls:
            return otherwise
        return _FULL_PAUSE if self._link.wants_write else 0.0

    def turn(self) -> None:
        """Tell the next page, if the master takes it."""
        if self._link.wants_write:
            self._link.flush()
        if not self._calls or self._link.wants_write:
            return
        call = self._calls[0]
        page = self._page(call)
        self._link.send(SessionPage(call.question.tag, page, bool(call.left)))
        if not call.left:
            self._calls.popleft()

    def kick(self, ident: str) -> int:
        """End this session; how many there were."""
        return self._tell(lambda session: session.id == ident, self._kick)

    def kick_user(self, name: str) -> int:
        """End the sessions of this user; how many there were."""
        return self._tell(lambda s: s.activity.user == name, self._kick)

    def kick_all(self) -> None:
        self._tell(lambda _: True, self._kick)

    def drain(self) -> None:
        """Let everybody end what is under way, and no more."""
        self._tell(lambda _: True, lambda session: session.door.drain())

    def account_changed(self, name: str) -> None:
        """Who is just logging in is looked up in the step that makes him known."""
        self._tell(lambda s: s.activity.user == name, lambda s: s.door.account_changed())

    def _kick(self, session: Session) -> None:
        session.door.kick()
        user = session.activity.user
        self._log.info("session-kicked", user=user, session=session.id, address=session.peer)

    def _tell(self, whom: Callable[[Session], bool], tell: Callable[[Session], None]) -> int:
        found = [session for session in self._sessions if whom(session)]
        for session in found:
            tell(session)
            self._sessions.wake(session.fd, session.id)
        return len(found)

    def _page(self, call: _Call) -> list[SessionInfo]:
        page: list[SessionInfo] = []
        size = 0
        for _ in range(min(PAGE_SESSIONS, len(call.left))):
            info = call.left[0].info(self._slot)
            own = len(encode(info)) if call.wants(info) else 0
            if size + own > PAGE_BYTES:
                break
            call.left.popleft()
            if own:
                page.append(info)
                size += own
        return page
