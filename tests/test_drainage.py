from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from forkd import reports
from forkd.messages import CloseDoors, LinkMessage, OpenDoors
from forkd.supervisor.drainage import EVERY, Drainage, Load
from forkd.supervisor.orders import Orders


@dataclass
class Asker:
    told: list[str] = field(default_factory=list)
    body: Any = None
    code: str = ""

    def progress(self, line: str) -> None:
        self.told.append(line)

    def done(self, body: Any) -> None:
        self.body = body

    def failed(self, code: str, message: str) -> None:
        self.code = code


class Rig:
    """Two workers with three sessions each."""

    def __init__(self) -> None:
        self.now = 50.0
        self.heard = True
        self.sessions = {1: 3, 2: 3}
        self.sent: list[tuple[int, LinkMessage]] = []
        self.orders = Orders()
        self.drainage = Drainage(self, self.orders, lambda: self.now)

    def workers(self) -> list[int]:
        return list(self.sessions)

    def load(self, keys: Iterable[int]) -> Load:
        known = [key for key in keys if key in self.sessions]
        sessions = sum(self.sessions[key] for key in known)
        return Load(len(known), sessions, 1, closed=self.heard)

    def send(self, key: int, message: LinkMessage) -> None:
        self.sent.append((key, message))

    def replace(self, slot: int, timeout: float | None) -> int:
        if slot not in self.sessions:
            raise ValueError(f"no worker serves in slot {slot}")
        return slot

    def later(self) -> None:
        self.now += EVERY
        self.drainage.tick()


def test_draining_is_told_until_nobody_is_left() -> None:
    rig, asker = Rig(), Asker()
    rig.drainage.close(60.0, asker)
    assert rig.sent == [(1, CloseDoors(60.0)), (2, CloseDoors(60.0))]
    assert (rig.orders.closed, rig.orders.closed_until) == (True, 110.0)
    rig.later()
    rig.sessions[1] = 0
    rig.later()
    assert asker.body is None
    rig.sessions[2] = 0
    rig.later()
    assert asker.told == [
        "draining 2 workers: 6 sessions, 1 transfer",
        "draining 2 workers: 3 sessions, 1 transfer",
    ]
    assert asker.body == reports.Drained(sessions=6, took=3 * EVERY)
    assert rig.drainage.wake_at() is None
    assert rig.orders.closed


def test_a_count_is_believed_once_the_workers_have_heard() -> None:
    """A session that has just come is not on the scoreboard yet."""
    rig, asker = Rig(), Asker()
    rig.sessions, rig.heard = {1: 0, 2: 0}, False
    rig.drainage.close(None, asker)
    rig.later()
    assert asker.body is None
    rig.heard = True
    rig.later()
    assert asker.body == reports.Drained(sessions=0, took=2 * EVERY)


def test_undrain_ends_the_waiting() -> None:
    rig, waiting, opener = Rig(), Asker(), Asker()
    rig.drainage.close(None, waiting)
    rig.sent.clear()
    rig.drainage.open(opener)
    assert rig.sent == [(1, OpenDoors()), (2, OpenDoors())]
    assert (waiting.code, opener.body) == ("undrained", reports.Serving())
    assert not rig.orders.closed
    rig.sessions.update({1: 0, 2: 0})
    rig.later()
    assert waiting.body is None


def test_one_worker_is_waited_for_until_it_has_gone() -> None:
    rig, asker, wrong = Rig(), Asker(), Asker()
    rig.drainage.replace(2, None, asker)
    rig.drainage.replace(7, None, wrong)
    assert wrong.code == "not-found"
    rig.sessions[2] = 0
    rig.later()
    rig.drainage.gone(1)
    assert asker.body is None
    rig.drainage.gone(2)
    assert asker.body == reports.Drained(sessions=3, took=EVERY)
    assert not rig.orders.closed


def test_a_stop_is_told_to_who_waits() -> None:
    rig, asker = Rig(), Asker()
    rig.drainage.close(None, asker)
    rig.drainage.stopping()
    assert asker.code == "busy"
    assert rig.drainage.wake_at() is None
