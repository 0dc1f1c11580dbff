"""What the master hands to a child it forks: its whole world, nothing else is looked up."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from forkd.config import Config
from forkd.listen import ListenAddress
from forkd.scoreboard import Scoreboard


@dataclass(frozen=True, slots=True)
class BoundListener:
    """A listening socket and the address it was configured as."""

    address: ListenAddress
    socket: socket.socket


@dataclass(frozen=True, slots=True)
class ChildSeat:
    """`slot` is 1..SLOTS for workers and 0 for helpers; `number` is shown in the process title."""

    role: str  # worker, exporter, keeper, runner, dispatcher
    slot: int
    number: int
    generation: int
    config: Config
    board: Scoreboard
    link: socket.socket
    listeners: tuple[BoundListener, ...]
    closed: bool = False
    """A worker is to turn newcomers away, until it hears OpenDoors."""
