"""From a valid configuration to a serving master.

    as root, if so started:   folders, lock, pidfile, listeners, log file
    (detach)
    as the serving user:      scoreboard, control socket, then the master's loop

What can fail because of the machine or another daemon fails before detaching.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from forkd.config import Config
from forkd.errors import StartError
from forkd.ledger.file import locked_slots, mark_clean
from forkd.log import Log, open_log
from forkd.master import Master
from forkd.scoreboard import Scoreboard
from forkd.supervisor.estate import Estate
from forkd.supervisor.fdstore import SocketStore
from forkd.supervisor.image import keep_image
from forkd.supervisor.inherited import inherited_sockets
from forkd.supervisor.listeners import Listeners
from forkd.supervisor.mastersetup import Setup
from forkd.supervisor.notify import Notifier
from forkd.supervisor.orphans import InTheWay
from forkd.supervisor.pidfile import LockFile, PidFile
from forkd.supervisor.privileges import Identity, become, check_writable, identity, make_folders
from forkd.supervisor.program import Program
from forkd.supervisor.world import World

BIND_PATIENCE = 5.0
"""Seconds to wait for orphans of a killed daemon to let go of an address."""
FILES_WANTED = 1 << 20
"""Descriptors a process may have: each session takes one to three."""
UMASK = 0o027


class FirstAsker:
    """Hears how the start goes; `failure` stays "" when all is well."""

    def __init__(self, on_ready: Callable[[], None]) -> None:
        self.failure = ""
        self._on_ready = on_ready

    def progress(self, line: str) -> None:
        """The log tells the same."""

    def done(self, body: Any) -> None:  # noqa: ARG002
        self._on_ready()

    def failed(self, code: str, message: str) -> None:  # noqa: ARG002
        self.failure = message


@dataclass(frozen=True, slots=True)
class Ground:
    """What is held before detaching; with an `estate`, what another version left."""

    config: Config
    mtime: float
    text: str
    listeners: Listeners
    log: Log
    locks: tuple[LockFile, ...]
    pidfile: PidFile | None
    owner: Identity | None
    notifier: Notifier
    program: Program
    estate: Estate | None = None

    @property
    def descriptors(self) -> list[int]:
        """What must stay open over detaching."""
        held = [listener.socket.fileno() for listener in self.listeners.bound]
        held += [lock.fileno() for lock in self.locks]
        return held + self.log.descriptors


def take_ground(config: Config, mtime: float, text: str, pidfile: bool) -> Ground:
    """Make, lock, open and bind what the daemon needs; with `pidfile`, server.pidfile too.

    `mtime` and `text` are the configuration file's.

    Raises StartError and AlreadyRunningError; then nothing is left bound or locked.
    """
    program = Program.of_this_process()
    notifier = Notifier.from_environment(os.environ)
    inherited = inherited_sockets(os.environ)
    owner = identity(config)
    make_folders(config, owner)
    with ExitStack() as undo:
        lock = LockFile.acquire(os.path.join(config.server.state_dir, "forkd.lock"))
        undo.callback(lock.close)
        pid_lock = LockFile.acquire(config.server.pidfile_path) if pidfile else None
        if pid_lock:
            undo.callback(PidFile(pid_lock).discard)
        listeners = Listeners(inherited, SocketStore(notifier))
        undo.callback(listeners.close)
        orphans = _orphans(config)
        listeners.adopt(
            listeners.open(config.listen.addresses, config.listen.backlog, BIND_PATIENCE, orphans)
        )
        log = open_log(config.log, process="master")
        for pid in orphans.ended:
            log.warning("killed", process="orphan", pid=pid, why="it kept an address in use")
        locks = (lock, pid_lock) if pid_lock else (lock,)
        if owner:
            for fd in [*(held.fileno() for held in locks), *log.descriptors]:
                os.fchown(fd, owner.uid, owner.gid)
        undo.pop_all()
    return Ground(
        *(config, mtime, text, listeners, log, locks),
        *(PidFile(pid_lock) if pid_lock else None, owner, notifier, program),
    )


def _orphans(config: Config) -> InTheWay:
    """What a killed daemon left may stand in the way of our addresses."""
    ledger = os.path.join(config.server.state_dir, "ledger")
    try:
        board = Scoreboard.existing(os.path.join(config.server.runtime_dir, "scoreboard"))
    except OSError:
        board = None  # told when it is needed
    return InTheWay(board, lambda: locked_slots(ledger), float(config.server.watchdog_timeout))


def serve(
    ground: Ground, on_ready: Callable[[], None], release: Callable[[], None] = lambda: None
) -> str:
    """Serve until told to stop; the answer is why it could not start, or "".

    `on_ready` is called once all workers serve; `release` in every child, to close what the caller
    has open.  Raises StartError.
    """
    config, log = ground.config, ground.log
    keep_image()  # while it can be read: the serving user may see less
    try:
        os.umask(UMASK)
        raise_file_limit()
        if not ground.owner and os.geteuid() == 0 and not ground.estate:
            log.warning("root", hint="set server.user, so that no process of forkd is root")
        become(ground.owner)
        check_writable(config)
        ground.locks[0].write_pid()
        for reason in ground.listeners.skipped:
            log.warning("listener-skipped", reason=reason)
        first = FirstAsker(on_ready)
        master = Master(_setup(ground, first, release))
        master.run()
        mark_clean(os.path.join(config.server.state_dir, "ledger"))
        if first.failure:
            log.error("cannot-start", reason=first.failure)
        return first.failure
    finally:
        ground.listeners.close()
        ground.locks[0].close()  # a pidfile's is let go when the file is removed
        if ground.estate and ground.pidfile:
            ground.pidfile.discard()  # else who detached does it


def raise_file_limit() -> None:
    """Allow as many descriptors as this process may allow itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_WANTED if hard == resource.RLIM_INFINITY else min(hard, FILES_WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _setup(ground: Ground, first: FirstAsker, release: Callable[[], None]) -> Setup:
    config, runtime = ground.config, ground.config.server.runtime_dir
    ledger = os.path.join(config.server.state_dir, "ledger")
    scoreboard = os.path.join(runtime, "scoreboard")
    try:
        board = Scoreboard.create(scoreboard)
    except OSError as error:
        raise StartError(f"{scoreboard}: {error.strerror}") from None

    def release_all() -> None:
        for lock in ground.locks:
            lock.close()
        ground.log.close()
        release()

    return Setup(
        world=World(config, ground.listeners.bound, time.time(), ground.mtime, ground.text),
        listeners=ground.listeners,
        board=board,
        log=ground.log,
        notifier=ground.notifier,
        control_path=os.path.join(runtime, "control.sock"),
        locked_slots=lambda: locked_slots(ledger),
        first=first,
        program=ground.program,
        locks=ground.locks,
        detached=ground.pidfile is not None,
        estate=ground.estate,
        release=release_all,
    )
