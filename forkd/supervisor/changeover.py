"""From one generation to the next: the start, and every reload.

    read and validate -> bind -> prepare the disk -> fork -> all ready -> settled

An upgrade (upgrade.py) is the same, once another version of this program has taken over.

Rules
  1. The first step that fails ends it; nothing that serves has been touched until `settled`.
  2. One changeover at a time.  The first one is the start: if it fails, the daemon ends.
  3. Whoever asked hears of every step, and in the end of the outcome; so does the service manager.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from forkd import __version__, reports
from forkd.config import Config
from forkd.config import Log as LogSettings
from forkd.errors import ConfigError, StartError
from forkd.log import Log
from forkd.scoreboard import MASTER_ROW, Scoreboard
from forkd.seat import BoundListener
from forkd.supervisor import preflight
from forkd.supervisor.control import Asker
from forkd.supervisor.fleet import Fleet
from forkd.supervisor.listeners import Listeners
from forkd.supervisor.preflight import Checked
from forkd.supervisor.reload import effective, spec_of, summary
from forkd.supervisor.roster import Action, Member
from forkd.supervisor.service import Service
from forkd.supervisor.world import LastReload, World, file_mtime
from forkd.units import format_count


@dataclass(slots=True)
class Change:
    """A changeover under way.  `begun` is seconds of CLOCK_MONOTONIC.

    `former` is the version of the generation that serves, where it is not this one.
    """

    world: World
    asker: Asker
    begun: float
    notes: list[str]
    former: str = ""
    generation: int = 0


class Changeover:
    """Knows the world of each generation, and carries the change to a new one.

    `serving` is the current generation's number, 0 before the start is done.  `prepare` starts the
    child that prepares the disk and reports to `prepared`.
    """

    def __init__(
        self,
        fleet: Fleet,
        listeners: Listeners,
        board: Scoreboard,
        log: Log,
        service: Service,
        first: World,
        prepare: Callable[[World], None],
        reopen_log: Callable[[LogSettings], None],
    ) -> None:
        self.worlds: dict[int, World] = {}
        self.last: LastReload | None = None
        self.serving = 0
        self.occupied = ""
        """What else is under way that no reload may come between."""
        self._first = first
        self._change: Change | None = None
        self._fleet = fleet
        self._listeners = listeners
        self._board = board
        self._log = log
        self._service = service
        self._prepare = prepare
        self._reopen_log = reopen_log

    @property
    def world(self) -> World:
        """What serves; at the start, what is about to."""
        return self.worlds.get(self.serving, self._first)

    @property
    def busy(self) -> bool:
        """Whether a changeover is under way, or none is possible any more."""
        return bool(self.obstacle)

    @property
    def obstacle(self) -> str:
        """Why no changeover can begin now; "" where one can."""
        if self._fleet.stopping:
            return "the daemon is stopping"
        if self._change is not None:
            return "an upgrade is under way" if self._change.former else "a reload is under way"
        return self.occupied

    def start(self, asker: Asker) -> None:
        """The first generation; its configuration is valid and its sockets are in use."""
        self._change = Change(self._first, asker, time.monotonic(), [])
        self._prepare(self._first)

    def reload(self, asker: Asker) -> None:
        """Begin a reload; it has failed already when it is not `busy` afterwards."""
        if self.busy:
            asker.failed("busy", self.obstacle)
            return
        begun, running = time.monotonic(), self.world
        self._service.reloading()
        source = running.config.source
        mtime = file_mtime(source)
        try:
            checked = _read(source)
        except ConfigError as error:
            self.refuse(asker, begun, "bad-config", error.problems)
            return
        asker.progress(f"checking {source or 'the built-in defaults'} ... ok")
        config = effective(running.config, checked.config)
        world = World(config, (), time.time(), mtime, checked.text)
        notes = summary(running.config, checked.config)
        self._begin(Change(world, asker, begun, notes), checked.warnings)

    def check(self) -> reports.Checked:
        """Would a reload be accepted?  Addresses are bound for a moment; nothing changes.

        Raises ValueError while that cannot be told.
        """
        if self.busy:
            raise ValueError(f"{self.obstacle}; try again")
        running = self.world
        source = running.config.source
        try:
            checked = _read(source)
            wanted = effective(running.config, checked.config)
            opened = self._listeners.open(wanted.listen.addresses, wanted.listen.backlog)
        except ConfigError as error:
            return reports.Checked(config=source, problems=error.problems)
        except StartError as error:
            return reports.Checked(config=source, problems=[str(error)])
        self._listeners.discard(opened)
        notes = summary(running.config, checked.config) + self._listeners.skipped
        notes += [f"warning: {warning}" for warning in checked.warnings]
        return reports.Checked(config=source, notes=notes)

    def resume(self, serving: int, world: World, last: LastReload | None) -> None:
        """Know what an earlier version of this program left serving."""
        self.serving, self.worlds[serving], self.last = serving, world, last

    def upgrade(self, world: World, asker: Asker, begun: float, former: str) -> None:
        """Begin the first generation of this version beside what the `former` one left."""
        warnings = [f"{each.key}: {each.reason}" for each in preflight.warnings(world.config)]
        self._begin(Change(world, asker, begun, [], former), warnings)

    def _begin(self, change: Change, warnings: list[str]) -> None:
        listen = change.world.config.listen
        try:
            opened = self._listeners.open(listen.addresses, listen.backlog)
        except StartError as error:
            self.refuse(change.asker, change.begun, "cannot-start", [str(error)], change.former)
            return
        change.world = replace(change.world, listeners=opened)
        change.notes += self._listeners.skipped
        change.notes += [f"warning: {warning}" for warning in warnings]
        for warning in warnings:
            self._log.warning("config", warning=warning)
        self._change = change
        self._prepare(change.world)

    def prepared(self, failure: str, now: float) -> list[Action]:
        """The disk is ready, or why not."""
        change = self._change
        if change is None:
            return []
        if not failure:
            try:
                actions = self._fleet.begin(spec_of(change.world.config), now)
                assert self._fleet.incoming
                change.generation = self._fleet.incoming.id
                self.worlds[change.generation] = change.world
                return actions
            except ValueError as error:
                failure = str(error)
        self.failed(failure)
        return []

    def settled(self) -> None:
        """The new generation serves."""
        change, self._change = self._change, None
        assert change
        self._listeners.adopt(change.world.listeners)
        took = time.monotonic() - change.begun
        told = self._told(change, took)
        if change.former:
            told = f"version {change.former} is replaced by {__version__}; {told}"
        if self.serving:
            self._count("ok", told, took)
            try:
                self._reopen_log(change.world.config.log)  # it may have been moved away
            except StartError as error:
                change.notes.append(str(error))
        self.serving = change.generation
        self._tell_manager()
        self._log.info("serving", generation=change.generation, took=round(took, 3))
        for line in (told, *change.notes):
            change.asker.progress(line)
        change.asker.done(
            reports.Reloaded(generation=change.generation, took=took, notes=change.notes)
        )

    def failed(self, failure: str) -> None:
        """The new generation was given up."""
        change, self._change = self._change, None
        if change is None:
            return
        self.worlds.pop(change.generation, None)
        self._listeners.discard(change.world.listeners)
        self.refuse(change.asker, change.begun, "cannot-start", [failure], change.former)

    def retired(self, generation: int) -> None:
        """Nobody of this generation runs any more."""
        self.worlds.pop(generation, None)

    def release(self, kept: tuple[BoundListener, ...]) -> None:
        """In a child: close the sockets that are not in use yet."""
        for listener in self._change.world.listeners if self._change else ():
            if listener not in kept:
                listener.socket.close()

    def refuse(
        self, asker: Asker, begun: float, code: str, problems: list[str], former: str = ""
    ) -> None:
        """Tell everybody that there will be no new generation, and who serves."""
        told = list(problems)
        if self.serving:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            self._count("failed", problems[0] + more, time.monotonic() - begun)
            self._log.error("reload-failed", problems=problems, still_serving=self.serving)
            if not self._fleet.stopping:
                told.append(self._who_serves(former))
            self._tell_manager()
        asker.failed(code, "\n".join(told))

    def _who_serves(self, former: str) -> str:
        if former:
            return (
                f"the master is of version {__version__} already; generation {self.serving}, of "
                f"version {former}, goes on serving"
            )
        return f"nothing was changed; generation {self.serving} goes on serving"

    def _tell_manager(self) -> None:
        """The service manager hears that a changeover is over, however it ended."""
        if not self._fleet.stopping:
            self._service.ready()

    def _count(self, outcome: str, message: str, took: float) -> None:
        self._board.rows[MASTER_ROW].add(f"reloads_total:{outcome}")
        self.last = LastReload(time.time(), outcome, message, took)

    def _told(self, change: Change, took: float) -> str:
        """'generation 4: 3 workers serving after 0.31 s; generation 3: 3 workers drain'."""
        counts: dict[int, list[Member]] = {}
        for member in self._fleet.members.values():
            if member.role == "worker":
                counts.setdefault(member.generation, []).append(member)
        new = counts.pop(change.generation, [])
        parts = [f"generation {change.generation}: {_workers(new)} serving after {took:.2f} s"]
        for generation, members in sorted(counts.items()):
            sessions = sum(self._board.rows[m.slot].get("sessions") for m in members)
            told = f"{_workers(members)} to drain, {format_count(sessions, 'session')}"
            name = f"generation {generation}" if generation > 0 else "given up"
            parts.append(f"{name}: {told}")
        return "; ".join(parts)


def _read(source: str) -> Checked:
    """The configuration as it is on the disk now.  Raises ConfigError."""
    return preflight.load(source) if source else Checked(Config(), [])


def _workers(members: list[Member]) -> str:
    return format_count(len(members), "worker")
