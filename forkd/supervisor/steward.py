"""The master's hands for what is asked at the control socket: it looks, counts and passes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

from forkd import reports
from forkd.controlmessages import LOOKING, ControlRequest
from forkd.log import Log
from forkd.messages import LinkMessage, LogLevel, SetLogLevel
from forkd.peercred import Caller, user_name
from forkd.scoreboard import Scoreboard, State
from forkd.supervisor.changeover import Changeover
from forkd.supervisor.children import Children
from forkd.supervisor.control import Asker
from forkd.supervisor.drainage import Load
from forkd.supervisor.fleet import Fleet
from forkd.supervisor.orders import Orders
from forkd.supervisor.reload import worker_count
from forkd.supervisor.roster import Action, MemberState
from forkd.supervisor.status import Witness

ACTIVE = (MemberState.READY, MemberState.DRAINING)


class Master(Protocol):
    """What only the master itself can do."""

    def reload(self, asker: Asker) -> None: ...

    def upgrade(self, asker: Asker) -> None: ...

    def stop(self, now: bool, asker: Asker | None) -> None: ...


class Steward:
    """See requests.Daemon.  `perform` carries out what the fleet decides."""

    def __init__(
        self,
        master: Master,
        fleet: Fleet,
        children: Children,
        board: Scoreboard,
        changeover: Changeover,
        witness: Witness,
        orders: Orders,
        perform: Callable[[Iterable[Action]], None],
        log: Log,
    ) -> None:
        self.reload = master.reload
        self.upgrade = master.upgrade
        self.stop = master.stop
        self._fleet = fleet
        self._children = children
        self._board = board
        self._changeover = changeover
        self._witness = witness
        self._orders = orders
        self._perform = perform
        self._log = log

    def note(self, caller: Caller, request: ControlRequest, denied: str) -> None:
        """Who asked for a change is in the log; "" in `denied`: and got it."""
        if isinstance(request, LOOKING):
            return
        fields = msgspec.to_builtins(request)
        what = fields.pop("op")
        details = [f"{name}={value}" for name, value in fields.items()]
        log, by, uid, pid = self._log, user_name(caller.uid), caller.uid, caller.pid
        if denied:
            log.warning("denied", what=what, by=by, uid=uid, pid=pid, details=details)
        else:
            log.info("asked", what=what, by=by, uid=uid, pid=pid, details=details)

    def status(self) -> reports.Status:
        return self._witness.status(self._changeover.world, self._changeover.last)

    def check(self) -> reports.Checked:
        return self._changeover.check()

    def set_workers(self, count: int) -> int:
        wanted = worker_count(count)
        self._perform(self._fleet.set_workers(wanted, time.monotonic()))
        self._log.info("workers", count=wanted)
        return wanted

    def set_log_level(self, level: LogLevel) -> None:
        if self._fleet.current:
            self._orders.set_level(level, self._fleet.current.id)
        self._log.set_level(level)
        for key in list(self._children.running):
            self.send(key, SetLogLevel(level))

    def replace(self, slot: int, timeout: float | None) -> int:
        key, actions = self._fleet.relieve(slot, time.monotonic(), timeout)
        self._perform(actions)
        return key

    def workers(self) -> list[int]:
        return [m.key for m in self._fleet.members.values() if m.role == "worker"]

    def load(self, keys: Iterable[int]) -> Load:
        members = [m for key in keys if (m := self._fleet.members.get(key))]
        sessions, transfers = (
            sum(self._board.rows[m.slot].get(name) for m in members)
            for name in ("sessions", "transfers")
        )
        states = {self._board.rows[m.slot].get("state") for m in members}
        return Load(len(members), sessions, transfers, closed=states <= {State.DRAINING})

    def serving(self, role: str) -> list[int]:
        states = (MemberState.READY,) if role == "keeper" else ACTIVE
        return [m.key for m in self._fleet.members.values() if m.role == role and m.state in states]

    def send(self, key: int, message: LinkMessage) -> None:
        self._children.send(key, message)
