"""Going on as the version that is installed now: the side of the version that leaves.

    read the configuration -> trial -> exec | the new program: takeover.py -> changeover.py

Rules
  1. The process stays the same: its pid, its children, its descriptors.  So the service manager's
     main process, the pidfile and the locks stay true, and no worker is told anything.
  2. Before the trial (trial.py) has succeeded nothing is touched.  After exec, the old generation
     serves until a whole new one is ready.
  3. Between the two nothing may be lost: signals wait, what children and forkctl write stays in
     their sockets.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from forkd import __version__
from forkd import config as configuration
from forkd.errors import ConfigError
from forkd.messages import Answer, Try
from forkd.supervisor import estate
from forkd.supervisor.acts import Acts
from forkd.supervisor.changeover import Changeover
from forkd.supervisor.children import Children
from forkd.supervisor.control import Asker, ControlServer
from forkd.supervisor.estate import Estate, HeldChild, HeldLock, Settings
from forkd.supervisor.fleet import Fleet
from forkd.supervisor.mastersetup import Setup
from forkd.supervisor.orders import Orders
from forkd.supervisor.reload import kept
from forkd.supervisor.requests import Requests
from forkd.supervisor.service import Service
from forkd.supervisor.signals import SignalPipe
from forkd.supervisor.slots import Slots
from forkd.supervisor.vitals import Vitals
from forkd.supervisor.world import file_mtime

TRIAL = -1
"""The key of the trial's child; the fleet's keys begin at 1."""
TRIAL_END = 30.0
"""Seconds until a trial that stands still is ended; it has limits of its own before that."""

_ASK_AGAIN = "an upgrade came in between: what was ordered holds; to hear how far it is, ask again"


@dataclass(frozen=True, slots=True)
class Holdings:
    """What the master has and its successor gets.  `started` is seconds of CLOCK_MONOTONIC."""

    setup: Setup
    fleet: Fleet
    slots: Slots
    children: Children
    acts: Acts
    changeover: Changeover
    requests: Requests
    orders: Orders
    vitals: Vitals
    control: ControlServer
    signals: SignalPipe
    service: Service
    started: float


@dataclass(slots=True)
class Attempt:
    """An upgrade under way."""

    asker: Asker
    begun: float
    settings: Settings
    slot: int
    version: str = ""


class Upgrade:
    """One at a time; the changeover knows that it is occupied."""

    def __init__(self, holdings: Holdings) -> None:
        self._have = holdings
        self._attempt: Attempt | None = None

    def begin(self, asker: Asker) -> None:
        """Start the trial."""
        have, changeover = self._have, self._have.changeover
        if changeover.busy:
            asker.failed("busy", changeover.obstacle)
            return
        have.service.reloading()
        begun, source = time.monotonic(), changeover.world.config.source
        mtime = file_mtime(source)
        slot = have.fleet.lend()
        try:
            if not slot:
                raise ConfigError(["no slot is free to try a worker in; try again later"])
            text = configuration.read(source) if source else ""
            settings = Settings(source, text, mtime, kept(changeover.world.config))
            self._attempt = Attempt(asker, begun, settings, slot)
            self._start_trial(self._attempt)
        except ConfigError as error:
            self._end(asker, begun, slot, error.problems)
        except OSError as error:
            self._end(asker, begun, slot, [f"no trial can be started: {error.strerror}"])
        else:
            changeover.occupied = "an upgrade is under way"
            asker.progress("trying the installed version ...")
            have.setup.log.info("upgrade", command=have.setup.program.command)

    def abandon(self) -> None:
        """The daemon is stopping."""
        attempt, self._attempt = self._attempt, None
        if attempt:
            self._have.children.kill(TRIAL)
            attempt.asker.failed("cannot-start", "the daemon is stopping")

    def look(self, now: float) -> None:
        """End a trial that stands still."""
        if self._attempt and now >= self._attempt.begun + TRIAL_END:
            self._have.children.kill(TRIAL)

    def answered(self, answer: Answer) -> None:
        """The installed version can take over."""
        if self._attempt:
            self._attempt.version = str(answer.body.get("version", ""))

    def tried(self, unable: str, how: str) -> None:
        """The trial is over: go on as the new program, or as before."""
        have, attempt, self._attempt = self._have, self._attempt, None
        if attempt is None:
            return
        have.changeover.occupied = ""
        have.fleet.give_back(attempt.slot)
        have.slots.vacate(attempt.slot)
        if not attempt.version:
            why = unable or f"its trial ended with {how}"
            self._refuse(attempt.asker, attempt.begun, why.splitlines())
        else:
            attempt.asker.progress(f"version {attempt.version} can take over from {__version__}")
            why = self._become(attempt)
            self._refuse(attempt.asker, attempt.begun, [why])

    def _start_trial(self, attempt: Attempt) -> None:
        have, command = self._have, list(self._have.setup.program.command)
        document = estate.write(self._estate(attempt, trial=attempt.slot))
        try:
            have.acts.fork(TRIAL, "trial", have.changeover.world)
            have.children.send(TRIAL, Try(command, document))
        finally:
            os.close(document)  # the child has it too

    def _become(self, attempt: Attempt) -> str:
        """Execute the new program; why that was not possible."""
        have = self._have
        have.signals.hold()
        try:
            clients = have.control.hand_over(attempt.asker, "busy", _ASK_AGAIN)
            left = self._estate(attempt, control=have.control.fileno(), clients=clients)
            have.setup.log.info("becoming", version=attempt.version)
            with _inheritable(estate.write(left), *left.descriptors) as document:
                have.setup.program.execute(**{estate.VARIABLE: str(document)})
        except OSError as error:
            return f"{have.setup.program.command[0]}: {error.strerror}"
        finally:
            have.signals.let_go()

    def _estate(self, attempt: Attempt, **more: Any) -> Estate:
        have, changeover = self._have, self._have.changeover
        world = changeover.world
        served = Settings(
            *(world.config.source, world.text, world.file_mtime, attempt.settings.kept)
        )
        return Estate(
            version=__version__,
            settings=attempt.settings,
            served=served,
            serving=changeover.serving,
            loaded_at=world.loaded_at,
            last=changeover.last,
            started=have.started,
            begun=attempt.begun,
            tag=have.requests.next_tag,
            fleet=have.fleet,
            children=tuple(self._held_children()),
            listeners=have.setup.listeners.held(),
            locks=tuple(HeldLock(lock.path, lock.fileno()) for lock in have.setup.locks),
            detached=have.setup.detached,
            orders=have.orders,
            deaths=have.vitals.deaths,
            **more,
        )

    def _held_children(self) -> Iterator[HeldChild]:
        for key, child in self._have.children.running.items():
            if key != TRIAL:
                yield HeldChild(
                    *(key, child.role, child.slot, child.number, child.pid),
                    *(child.link.fileno(), child.started, child.unable, child.link.unsent),
                )

    def _refuse(self, asker: Asker, begun: float, problems: list[str]) -> None:
        first, *rest = problems
        told = [f"the installed version cannot take over: {first}", *rest]
        self._have.changeover.refuse(asker, begun, "cannot-start", told)

    def _end(self, asker: Asker, begun: float, slot: int, problems: list[str]) -> None:
        self._attempt = None
        if slot:
            self._have.fleet.give_back(slot)
        self._have.changeover.refuse(asker, begun, "cannot-start", problems)


@contextmanager
def _inheritable(document: int, *descriptors: int) -> Iterator[int]:
    """Let these survive exec; undone where there was none."""
    every = (document, *descriptors)
    try:
        for fd in every:
            os.set_inheritable(fd, True)
        yield document
    finally:
        for fd in every:
            os.set_inheritable(fd, False)
        os.close(document)
