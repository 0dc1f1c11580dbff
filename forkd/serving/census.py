"""The sessions of all workers, as a door may ask for them: the master knows whom to ask."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from forkd.link import Link
from forkd.messages import AskSessions, SessionInfo, SessionPage

Told = Callable[[list[SessionInfo]], None]


class Census:
    """On the loop's thread only."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._tags = itertools.count(1)
        self._asked: dict[int, tuple[list[SessionInfo], Told]] = {}

    def ask(self, told: Told) -> Callable[[], None]:
        """`told` hears of all sessions some time later, unless the answer, `forget`, is called.

        A worker whose master is gone is never answered.
        """
        tag = next(self._tags)
        self._asked[tag] = ([], told)
        self._link.send(AskSessions(tag))
        return lambda: self._forget(tag)

    def on_page(self, page: SessionPage) -> None:
        """A part of an answer came."""
        if page.tag not in self._asked:
            return
        found, told = self._asked[page.tag]
        found += page.sessions
        if not page.more:
            self._forget(page.tag)
            told(found)

    def _forget(self, tag: int) -> None:
        self._asked.pop(tag, None)
