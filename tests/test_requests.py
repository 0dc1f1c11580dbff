from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from forkd import reports
from forkd.controlmessages import TellAccountChanged
from forkd.messages import AccountChanged, LinkMessage, LogLevel
from forkd.supervisor.control import Asker
from forkd.supervisor.drainage import Load
from forkd.supervisor.orders import Orders
from forkd.supervisor.requests import Requests


class Daemon:
    """Three workers, the last of which is just being started."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, LinkMessage]] = []

    def workers(self) -> list[int]:
        return [1, 2, 3]

    def serving(self, role: str) -> list[int]:
        return [1, 2] if role == "worker" else []

    def send(self, key: int, message: LinkMessage) -> None:
        self.sent.append((key, message))

    def load(self, keys: Iterable[int]) -> Load:
        return Load(len(list(keys)), 0, 0, closed=False)

    def replace(self, slot: int, timeout: float | None) -> int:
        raise ValueError(f"no worker serves in slot {slot}")

    def status(self) -> reports.Status:
        raise NotImplementedError

    def check(self) -> reports.Checked:
        raise ValueError("a reload is under way")

    def reload(self, asker: Asker) -> None:
        asker.failed("busy", "a reload is under way")

    def upgrade(self, asker: Asker) -> None:
        asker.failed("busy", "a reload is under way")

    def stop(self, now: bool, asker: Asker | None) -> None: ...

    def set_workers(self, count: int) -> int:
        return count

    def set_log_level(self, level: LogLevel) -> None: ...


class Heard:
    """An asker."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []

    def progress(self, line: str) -> None: ...

    def done(self, body: Any) -> None:
        self.bodies.append(body)

    def failed(self, code: str, message: str) -> None:
        raise AssertionError(f"{code}: {message}")


def test_an_account_change_is_told_to_who_is_being_started_too() -> None:
    """It may have let the account in before we heard that it is ready."""
    daemon, asker = Daemon(), Heard()
    Requests(daemon, Orders(), lambda: 0.0).handle(TellAccountChanged("alice"), asker)
    assert daemon.sent == [(key, AccountChanged("alice")) for key in (1, 2, 3)]
    assert asker.bodies == [reports.Told(told=3)]
