"""What a worker knows of a session, and what a session's door answers to a step.

A door does a bounded piece of work in `step()` and says how to go on:
  Park    wait for the socket, for a wake-up, or for the deadline; costs no thread
  Pause   wait for a time, whatever the socket does; a wake-up ends it early
  Job     do this, on a thread if it may take long; its result is an outcome again
  Again   step once more, after the other sessions had their turn
  Closed  the end
Nobody steps a session that is in a job.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from forkd.messages import SessionInfo

FOREVER = math.inf


class Weight(Enum):
    """What a job takes; sessions.py decides where each kind runs."""

    SHORT = "a stat, a small file"
    LONG = "bulk transfer, flush, long listing"
    HASH = "a password hash: long, and 64 MiB of memory"


@dataclass(frozen=True, slots=True)
class Park:
    """Wait for `wants` (READABLE, WRITABLE, LEAVING) at most `patience` seconds.

    A peer that is gone is told with any of them; with 0 there is only a wake-up.

    FOREVER is for what is sure to come and not the peer's to hurry: the flush of a disk.
    """

    wants: int
    patience: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait until `until`, in seconds of CLOCK_MONOTONIC.  Who is woken before may pause again."""

    until: float


@dataclass(frozen=True, slots=True)
class Job:
    """Work that answers with the next outcome.  It may raise; the door's `failed` answers then."""

    work: Callable[[], Outcome]
    weight: Weight


@dataclass(frozen=True, slots=True)
class Closed:
    """The session is over."""

    reason: str


@dataclass(frozen=True, slots=True)
class Again:
    """More can be done at once, but it is the others' turn."""


AGAIN = Again()
Outcome = Park | Pause | Job | Again | Closed


class Door(Protocol):
    """A protocol's side of a session.  One thread at a time calls it."""

    name: str

    def step(self) -> Outcome:
        """Do what can be done now."""

    def failed(self, error: BaseException) -> Outcome:
        """A step or job raised: tell the peer what it may know, and go on or close."""

    def timed_out(self) -> Outcome:
        """The patience of the last Park is used up."""

    def drain(self) -> None:
        """The worker leaves: tell the peer, take no new work.  The next `step` acts on it."""

    def kick(self) -> None:
        """An administrator ends this session.  The next `step` acts on it."""

    def account_changed(self) -> None:
        """The session's account was changed or removed.  The next `step` acts on it."""

    def close(self) -> None:
        """Give back everything and close the connection."""


@dataclass(slots=True)
class Activity:
    """What a session is doing, for forkctl; written by its door, read by anybody."""

    user: str = ""
    state: str = "login"
    path: str = ""
    moved: int = 0
    size: int = 0
    tls: str = ""
    transferring: bool = False
    bytes_up: int = 0
    bytes_down: int = 0
    """Content of all its files."""


@dataclass(slots=True, eq=False)
class Session:
    """One connection of a worker.  Only the loop's thread changes it."""

    id: str
    peer: str
    since: float
    fd: int
    door: Door
    activity: Activity
    release: Callable[[], None] = lambda: None
    """Give back what the connection was counted by."""
    deadline: float = 0.0
    alarm: float = 0.0
    """When the alarm that counts goes off; 0.0 for none."""
    in_job: bool = False
    paused: bool = False
    queued: bool = False
    """It will be stepped in this turn of the loop."""
    woken: bool = False
    """It is to be stepped once its job is over."""

    def info(self, slot: int) -> SessionInfo:
        """As forkctl shows it."""
        now = self.activity
        return SessionInfo(
            id=self.id,
            slot=slot,
            user=now.user,
            peer=self.peer,
            tls=now.tls,
            door=self.door.name,
            state=now.state,
            since=self.since,
            path=now.path,
            moved=now.moved,
            size=now.size,
            bytes_up=now.bytes_up,
            bytes_down=now.bytes_down,
        )
