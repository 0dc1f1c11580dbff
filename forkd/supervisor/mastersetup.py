"""What is made before the master's loop, and handed to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from forkd.log import Log
from forkd.scoreboard import Scoreboard
from forkd.supervisor.control import Asker
from forkd.supervisor.estate import Estate
from forkd.supervisor.listeners import Listeners
from forkd.supervisor.notify import Notifier
from forkd.supervisor.pidfile import LockFile
from forkd.supervisor.program import Program
from forkd.supervisor.world import World


@dataclass(frozen=True, slots=True)
class Setup:
    """The first world and the things of the master that all generations share.

    `locks` are the files that say who runs here; `detached`: the pidfile is among them.  `estate`
    is what another version of this program left to this one.  `locked_slots` asks the kernel which
    slots somebody holds.  `first` hears how the start went.  `release` closes, in a child, what
    belongs to the start: lock files, pipes.
    """

    world: World
    listeners: Listeners
    board: Scoreboard
    log: Log
    notifier: Notifier
    control_path: str
    locked_slots: Callable[[], Iterable[int]]
    first: Asker
    program: Program
    locks: tuple[LockFile, ...]
    detached: bool
    estate: Estate | None
    release: Callable[[], None]
