"""The master: one thread, one loop over signals, children, links and the control socket.

Rules
  1. It decides nothing about the fleet: events go to fleet.py, whose actions it carries out.
  2. It never waits for a peer, and never parses a byte from the network.
  3. It imports no session, door, wire or storage code: children do, after the fork.
"""

from __future__ import annotations

import os
import selectors
import signal
import time

from forkd.messages import (
    Answer,
    AskSessions,
    LinkMessage,
    Ready,
    Reap,
    Rows,
    SessionPage,
    Unable,
)
from forkd.scoreboard import MASTER_ROW, State
from forkd.seat import ChildSeat
from forkd.supervisor.acts import Acts
from forkd.supervisor.changeover import Changeover
from forkd.supervisor.children import Children
from forkd.supervisor.control import Asker, ControlServer, Nobody
from forkd.supervisor.estate import Estate, world_served
from forkd.supervisor.fleet import Fleet
from forkd.supervisor.leaving import START_TIMEOUT
from forkd.supervisor.logfiles import LogFiles
from forkd.supervisor.mastersetup import Setup
from forkd.supervisor.orders import Orders
from forkd.supervisor.processes import Process
from forkd.supervisor.requests import Requests
from forkd.supervisor.rights import operators
from forkd.supervisor.service import Service
from forkd.supervisor.signals import SignalPipe
from forkd.supervisor.slots import Slots
from forkd.supervisor.status import Witness
from forkd.supervisor.steward import Steward
from forkd.supervisor.stopping import Stopping
from forkd.supervisor.upgrade import TRIAL, Holdings, Upgrade
from forkd.supervisor.vitals import Vitals
from forkd.supervisor.world import World
from forkd.title import set_title

TICK = 1.0
"""Seconds between two looks at heartbeats and orphans."""
PREPARE = 0
"""The key of the child that prepares the disk; the fleet's keys begin at 1."""
ON_SIGNAL: dict[int, str] = {
    signal.SIGTERM: "stop",
    signal.SIGINT: "stop-now",
    signal.SIGQUIT: "stop-now",
    signal.SIGHUP: "reload",
    signal.SIGUSR1: "reopen",
    signal.SIGUSR2: "upgrade",
}
"""What a signal asks for; a second one while stopping always hastens."""
HASTE = 0.0
"""The drain time, in seconds, of a stop at once."""


class Master:
    """The daemon's first process.  `run` returns when the daemon has stopped."""

    def __init__(self, setup: Setup) -> None:
        """Raises StartError where the control socket cannot be made."""
        self._setup = setup
        self._log = setup.log
        self._board = setup.board
        self._selector = selectors.DefaultSelector()
        self._children = Children(self._selector, self, self._release)
        self._logfiles = LogFiles(setup.log, self._children)
        left = setup.estate
        self._fleet = left.fleet if left else Fleet()
        self._started = left.started if left else time.monotonic()
        self._service = Service(setup.notifier, self._fleet, setup.board, time.monotonic())
        self._slots = Slots(self._fleet, setup.board, setup.locked_slots, self._reap)
        self._changeover = Changeover(
            *(self._fleet, setup.listeners, setup.board, setup.log, self._service, setup.world),
            *(self._fork_prepare, self._logfiles.reopen),
        )
        self._orders = left.orders if left else Orders()
        self._vitals = Vitals(setup.board, left.deaths if left else {})
        self._acts = Acts(
            *(self._fleet, self._children, self._changeover, self._orders, self._vitals),
            *(setup.board, setup.log, self._admit),
        )
        witness = Witness(
            *(self._fleet, self._children.running, setup.board, self._vitals, self._orders),
            *(setup.listeners, self._started),
        )
        self._steward = Steward(
            *(self, self._fleet, self._children, setup.board, self._changeover),
            *(witness, self._orders, self._acts.perform, setup.log),
        )
        self._requests = Requests(
            *(self._steward, self._orders, time.monotonic, left.tag if left else 1)
        )
        self._control = ControlServer(
            *(setup.control_path, self._selector, self._requests.handle, self._steward.note),
            left.control if left else -1,
        )
        self._admit()
        self._signals = SignalPipe((*ON_SIGNAL, signal.SIGCHLD))
        self._selector.register(self._signals, selectors.EVENT_READ, self._on_signal)
        self._upgrade = Upgrade(
            Holdings(
                *(setup, self._fleet, self._slots, self._children, self._acts, self._changeover),
                *(self._requests, self._orders, self._vitals, self._control, self._signals),
                *(self._service, self._started),
            )
        )
        self._stopping = Stopping(self._fleet, setup.board)
        self._next_look = 0.0
        self._prepare_end = 0.0

    def run(self) -> None:
        """Serve until told to stop."""
        set_title(f"master {self._setup.world.config.source or '(built-in defaults)'}")
        row = self._board.rows[MASTER_ROW]
        if self._setup.estate:
            self._take_over(self._setup.estate)  # a fault in it leaves the workers to themselves
        try:
            if not self._setup.estate:
                self._begin()
            while not self._acts.finished:
                self._turn()
        finally:
            self._children.kill_all()
            row.clear_gauges()
            self._stopping.done()
            self._control.close()
            self._setup.listeners.close()
            self._signals.close()
            self._selector.close()
        self._log.info("stopped")

    def _begin(self) -> None:
        now_ms = time.time_ns() // 1_000_000
        self._board.rows[MASTER_ROW].take_seat(os.getpid(), 0, now_ms)
        self._look_for_orphans()
        self._changeover.start(self._setup.first)

    def _take_over(self, left: Estate) -> None:
        """Go on with what another version of this program left."""
        self._children.take_over(left.children)
        self._look_for_orphans()
        coming = self._setup.world
        self._changeover.resume(left.serving, world_served(left, coming), left.last)
        self._admit()
        asker = self._control.take_over(left.clients)
        self._changeover.upgrade(coming, asker, left.begun, left.version)
        self._control.resume()
        self._signals.let_go()

    def _look_for_orphans(self) -> None:
        orphans = self._slots.begin()
        if orphans:
            self._log.info("orphans", slots=sorted(orphans))

    # -- the loop

    def _turn(self) -> None:
        for key, mask in self._selector.select(self._patience()):
            try:
                key.data(mask)
            except Exception as error:  # one event's fault must not end the service of all
                self._log.unexpected("master-fault", error)
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + TICK
            self._look(now)
        self._requests.tick()
        beats = self._slots.beats(self._children.running)
        self._acts.perform(self._fleet.tick(now, beats))
        self._service.turn(now, beats)

    def _patience(self) -> float:
        moments = [self._next_look, self._fleet.wake_at(), self._requests.wake_at()]
        moments.append(self._service.wake_at())
        return max(0.0, min(m for m in moments if m is not None) - time.monotonic())

    def _look(self, now: float) -> None:
        """What is looked at once a TICK."""
        self._slots.look()
        self._vitals.look(now, [process.pid for process in self._children.running.values()])
        watchdog = float(self._changeover.world.config.server.watchdog_timeout)
        for pid in self._slots.end_standing(watchdog):
            self._log.warning("killed", process="orphan", pid=pid, why="its loop made no progress")
        if PREPARE in self._children.running and now >= self._prepare_end:
            self._children.kill(PREPARE)
        self._upgrade.look(now)
        self._stopping.tell()

    def _reap(self, slot: int) -> bool:
        """Tell the keeper; False when there is none that serves."""
        keepers = self._steward.serving("keeper")
        for key in keepers:
            self._children.send(key, Reap(slot))
        return bool(keepers)

    # -- events

    def _on_signal(self, _mask: int) -> None:
        for number in self._signals.read():
            what = ON_SIGNAL.get(number)
            if what:
                self._log.info("signal", name=signal.Signals(number).name)
            if what == "reload":
                self.reload(Nobody())
            elif what == "reopen":
                self._logfiles.reopen_again()
            elif what == "upgrade":
                self.upgrade(Nobody())
            elif what:
                self.stop(what == "stop-now" or self._fleet.stopping, None)

    def on_message(self, key: int, message: LinkMessage) -> None:
        match message:
            case Ready():
                self._on_ready(key)
            case Answer() if key == TRIAL:
                self._upgrade.answered(message)
            case Unable(reason=reason):
                self._children.running[key].unable = reason
                self._acts.perform(self._fleet.unable(key, reason, time.monotonic()))
            case SessionPage():
                self._requests.on_page(key, message)
            case Answer():
                self._requests.on_answer(key, message)
            case AskSessions():
                self._requests.on_ask(key, message)
            case Rows():
                self._requests.on_rows(key, message)
            case _:
                self._log.warning("odd-message", message=type(message).__name__)

    def _on_ready(self, key: int) -> None:
        member = self._fleet.members.get(key)
        if member is None:
            return
        self._log.info(
            "ready",
            process=member.label,
            pid=self._children.running[key].pid,
            slot=member.slot,
            generation=member.generation,
        )
        self._acts.perform(self._fleet.ready(key, time.monotonic()))
        self._slots.tell_keeper()

    def on_broken(self, key: int, why: str) -> None:
        self._requests.gone(key)
        if why:
            self._log.debug("link-broken", key=key, why=why)
        self._acts.perform(self._fleet.broken(key, time.monotonic()))

    def on_exit(self, key: int, process: Process, reason: str) -> None:
        now = time.monotonic()
        self._requests.gone(key)
        self._requests.ended(key)
        if key == PREPARE:
            failure = "" if reason == "status 0" else process.unable or f"preparing: {reason}"
            self._on_prepared(failure, now)
            return
        if key == TRIAL:
            self._upgrade.tried(process.unable, reason)
            return
        self._log.info("ended", process=process.title, pid=process.pid, how=reason)
        if process.slot:
            self._slots.vacate(process.slot)
        elif process.role == "keeper":
            self._slots.keeper_gone()
        self._acts.perform(self._fleet.exited(key, reason, now))

    def _on_prepared(self, failure: str, now: float) -> None:
        self._acts.perform(self._changeover.prepared(failure, now))
        if not self._changeover.busy and not self._changeover.serving:
            self._acts.perform(self._fleet.stop(now, HASTE))

    # -- children

    def _fork_prepare(self, world: World) -> None:
        self._prepare_end = time.monotonic() + START_TIMEOUT
        try:
            self._acts.fork(PREPARE, "prepare", world)
        except OSError as error:
            why = f"no process can be started: {error.strerror}"
            self._on_prepared(why, time.monotonic())

    def _release(self, seat: ChildSeat) -> None:
        """In a new child: close what is the master's."""
        self._selector.close()
        self._signals.release()
        self._control.release()
        self._setup.listeners.close_all_but(seat.listeners)
        self._changeover.release(seat.listeners)
        self._setup.release()

    def _admit(self) -> None:
        """Who may ask is what the configuration says that serves."""
        try:
            self._control.admit(operators(self._changeover.world.config))
        except OSError as error:
            self._log.error("operators", error=str(error))

    # -- what can be asked for, by signal too

    def reload(self, asker: Asker) -> None:
        self._changeover.reload(asker)

    def upgrade(self, asker: Asker) -> None:
        self._upgrade.begin(asker)

    def stop(self, now: bool, asker: Asker | None) -> None:
        self._requests.stopping()
        if asker:
            self._stopping.add(asker)
        graceful = float(self._changeover.world.config.server.graceful_timeout)
        timeout = HASTE if now else graceful
        self._log.info("stopping", timeout=timeout)
        self._service.stopping(timeout)
        self._board.rows[MASTER_ROW].set("state", State.DRAINING)
        self._upgrade.abandon()
        # The kernel refuses newcomers as soon as workers drain, unless a next start is expected.
        self._setup.listeners.close(for_good=asker is not None)
        actions = self._fleet.stop(time.monotonic(), timeout)
        self._acts.perform(actions)
        self._changeover.failed("the daemon is stopping")
