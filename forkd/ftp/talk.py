"""What a handler of a command may use of its conversation."""

from __future__ import annotations

from typing import Protocol

from forkd.ftp.replies import Negative
from forkd.ftp.state import Policy, State


class Talk(Protocol):
    """What a handler may use of a Conversation."""

    state: State

    @property
    def policy(self) -> Policy: ...

    @property
    def has_commands(self) -> bool: ...

    def say(self, code: int, text: str | bytes) -> None: ...

    def say_lines(self, code: int, first: str, between: list[str | bytes], last: str) -> None: ...


def demand_log_in(talk: Talk) -> None:
    """Raises Negative (530)."""
    if not talk.state.logged_in:
        raise Negative(530, "log in with USER and PASS")
