from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from forkd.scoreboard import Scoreboard
from forkd.supervisor.fleet import Fleet
from forkd.supervisor.notify import Notifier
from forkd.supervisor.roster import Spec
from forkd.supervisor.service import STATUS_EVERY, Service


class Rig:
    """A service, its fleet and board, and what the manager hears."""

    def __init__(self, sock: socket.socket, address: str, board: Scoreboard) -> None:
        self._socket = sock
        self._address = address
        self.board = board
        self.fleet = Fleet()
        self.fleet.begin(Spec(1, watchdog=10.0), 0.0)

    def service(self, watchdog: float = 0.0) -> Service:
        return Service(Notifier(self._address, watchdog), self.fleet, self.board, 0.0)

    def get_ready(self) -> int:
        """The worker's slot."""
        for key in list(self.fleet.members):
            self.fleet.ready(key, 0.0)
        (slot,) = (m.slot for m in self.fleet.members.values() if m.role == "worker")
        return slot

    def told(self) -> list[str]:
        told = []
        with contextlib.suppress(BlockingIOError):
            while True:
                told.append(self._socket.recv(4096).decode())
        return told


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "n"))
        sock.setblocking(False)
        yield Rig(sock, str(tmp_path / "n"), Scoreboard.create(str(tmp_path / "board")))


def test_the_watchdog_is_fed_three_times_within_its_limit(rig: Rig) -> None:
    slot = rig.get_ready()
    service = rig.service(watchdog=30.0)
    service.ready()
    rig.told()
    fed = []
    for now in range(60):
        assert service.wake_at() is not None
        service.turn(float(now), {slot: 0.1})
        fed += [now] * rig.told().count("WATCHDOG=1")
    assert fed == [0, 10, 20, 30, 40, 50]


def test_without_progress_it_is_not_fed(rig: Rig) -> None:
    slot = rig.get_ready()
    service = rig.service(watchdog=3.0)
    service.turn(1000.0, {slot: 11.0})
    assert "WATCHDOG=1" not in rig.told()


def test_without_a_watchdog_nobody_is_fed(rig: Rig) -> None:
    slot = rig.get_ready()
    service = rig.service()
    service.ready()
    rig.told()
    service.turn(1000.0, {slot: 0.1})
    assert service.wake_at() is None
    assert rig.told() == []


def test_a_changed_status_is_told_now_and_then(rig: Rig) -> None:
    slot = rig.get_ready()
    service = rig.service()
    service.ready()
    (ready,) = rig.told()
    assert ready.endswith("STATUS=serving, generation 1: 1 worker, 0 sessions, 0 transfers")
    service.turn(0.0, {})
    rig.board.rows[slot].set("sessions", 2)
    rig.board.rows[slot].set("transfers", 1)
    service.turn(STATUS_EVERY / 2, {})
    assert rig.told() == []
    service.turn(STATUS_EVERY, {})
    assert rig.told() == ["STATUS=serving, generation 1: 1 worker, 2 sessions, 1 transfer"]
    service.turn(2 * STATUS_EVERY, {})
    assert rig.told() == []


def test_a_start_and_a_stop_tell_their_own_status(rig: Rig) -> None:
    service = rig.service(watchdog=3.0)
    service.turn(100.0, {})
    assert service.wake_at() is None
    assert rig.told() == []
    rig.get_ready()
    rig.fleet.stop(101.0, 45.0)
    service.stopping(45.0)
    service.turn(200.0, {})
    told, fed = rig.told()
    assert fed == "WATCHDOG=1"
    assert told == "STOPPING=1\nSTATUS=stopping within 45 s\nEXTEND_TIMEOUT_USEC=77000000"
