"""What is made before the master's loop, and handed to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from forkd.log import Log
from forkd.scoreboard import Scoreboard
from forkd.supervisor.control import Asker
from forkd.supervisor.listeners import Listeners
from forkd.supervisor.notify import Notifier
from forkd.supervisor.status import World


@dataclass(frozen=True, slots=True)
class Setup:
    """The first world and the things of the master that all generations share.

    `locked_slots` asks the kernel which slots somebody holds.  `first` hears how the start went.
    `release` closes, in a child, what belongs to the start: lock files, pipes.
    """

    world: World
    listeners: Listeners
    board: Scoreboard
    log: Log
    notifier: Notifier
    control_path: str
    locked_slots: Callable[[], Iterable[int]]
    first: Asker
    release: Callable[[], None]
