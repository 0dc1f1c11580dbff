"""Carries out what the fleet's policy asks for: forks, messages, kills, and what is told of it."""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Callable, Iterable

from forkd.log import Log
from forkd.messages import Drain
from forkd.scoreboard import MASTER_ROW, Scoreboard, State
from forkd.seat import ChildSeat
from forkd.supervisor.changeover import Changeover
from forkd.supervisor.children import Children
from forkd.supervisor.fleet import Fleet
from forkd.supervisor.orders import Orders
from forkd.supervisor.roster import (
    Action,
    Crashed,
    Finished,
    Kill,
    Retired,
    SendDrain,
    Settled,
    Spawn,
    label,
)
from forkd.supervisor.vitals import Vitals
from forkd.supervisor.world import World


class Acts:
    """`finished`: nobody runs any more, the master may leave."""

    def __init__(
        self,
        fleet: Fleet,
        children: Children,
        changeover: Changeover,
        orders: Orders,
        vitals: Vitals,
        board: Scoreboard,
        log: Log,
        settled: Callable[[], None],
    ) -> None:
        """`settled` hears of each new generation that serves."""
        self.finished = False
        self._fleet = fleet
        self._children = children
        self._changeover = changeover
        self._orders = orders
        self._vitals = vitals
        self._board = board
        self._log = log
        self._settled = settled

    def perform(self, actions: Iterable[Action]) -> None:
        """Carry them out, and what follows from that."""
        queue = deque(actions)
        while queue:
            queue.extend(self._perform_one(queue.popleft()))

    def fork(self, key: int, role: str, world: World, spawn: Spawn | None = None) -> None:
        """Start a child; without `spawn`, one that is no member.  Raises OSError."""
        served = world.listeners if role == "worker" else ()
        place = (spawn.slot, spawn.number, spawn.generation) if spawn else (0, 0, 0)
        orders = self._orders
        config = orders.config_for(place[2], world.config)

        def make_seat(link: socket.socket) -> ChildSeat:
            return ChildSeat(role, *place, config, self._board, link, served, orders.closed)

        self._children.fork(key, make_seat)

    def _perform_one(self, action: Action) -> list[Action]:
        row = self._board.rows[MASTER_ROW]
        match action:
            case Spawn():
                return self._spawn(action)
            case SendDrain(key=key, timeout=timeout):
                self._children.send(key, Drain(timeout))
            case Kill(key=key, why=why):
                self._log.warning("killed", process=self._fleet.members[key].label, why=why)
                self._children.kill(key)
            case Crashed():
                row.add("restarts_total")
                self._vitals.deaths[action.role, action.number] = action.reason
                self._log.error(
                    "died",
                    process=label((action.role, action.number)),
                    slot=action.slot,
                    reason=action.reason,
                    next_start_in=action.retry_in,
                )
            case Settled(failure=""):
                row.set("generation", action.generation)
                row.set("state", State.SERVING)
                self._changeover.settled()
                self._settled()
            case Settled(failure=failure):
                self._changeover.failed(failure)
            case Retired(generation=generation):
                self._changeover.retired(generation)
            case Finished():
                self.finished = True
        return []

    def _spawn(self, action: Spawn) -> list[Action]:
        try:
            world = self._changeover.worlds[action.generation]
            self.fork(action.key, action.role, world, action)
        except OSError as error:
            why = f"no process can be started: {error.strerror}"
            return self._fleet.exited(action.key, why, time.monotonic())
        return []
