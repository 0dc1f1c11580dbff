"""The values of the fleet: posts, members, and the actions that its policy asks for.  No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

Post = tuple[str, int]


class MemberState(Enum):
    """STARTING -> READY -> DRAINING -> KILLED; each step may be left out, none is taken back."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    KILLED = "killed"


@dataclass(frozen=True, slots=True)
class Spec:
    """What a configuration asks for.

    `helpers` is of exporter, runner, dispatcher; the keeper is always.  At most `drainers`
    generations drain without a deadline.
    """

    workers: int
    helpers: tuple[str, ...] = ()
    watchdog: float = 30.0
    graceful: float = 30.0
    drainers: int = 4


@dataclass(frozen=True, slots=True)
class Generation:
    id: int
    spec: Spec


@dataclass(slots=True)
class Member:
    """A child process.  `deadline` is when its state must have ended, or None."""

    key: int
    role: str
    slot: int
    number: int
    generation: int
    state: MemberState
    started: float
    deadline: float | None
    ready_at: float | None = None
    told_to_leave: bool = False
    reason: str = ""

    @property
    def label(self) -> str:
        return label((self.role, self.number))

    @property
    def holds(self) -> bool:
        """Whether it fills its post."""
        return not self.told_to_leave and self.state in (MemberState.STARTING, MemberState.READY)


@dataclass(slots=True)
class Backoff:
    """How often a post failed early in a row, and when it is filled again."""

    failures: int
    retry_at: float
    reason: str


@dataclass(frozen=True, slots=True)
class Spawn:
    key: int
    role: str
    slot: int
    number: int
    generation: int


@dataclass(frozen=True, slots=True)
class SendDrain:
    """`timeout` in seconds as in messages.Drain."""

    key: int
    timeout: float | None


@dataclass(frozen=True, slots=True)
class Kill:
    key: int
    why: str


@dataclass(frozen=True, slots=True)
class Crashed:
    """A member ended that should not have.

    Its post is filled again after `retry_in` seconds; None: its generation is of the past.
    """

    role: str
    number: int
    slot: int
    reason: str
    retry_in: float | None


@dataclass(frozen=True, slots=True)
class Settled:
    """The incoming generation serves, or (`failure` says why) was given up."""

    generation: int
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Retired:
    """Nobody of this generation runs any more, and nobody will."""

    generation: int


@dataclass(frozen=True, slots=True)
class Finished:
    """Nobody runs any more: the master may leave."""


Action = Spawn | SendDrain | Kill | Crashed | Settled | Retired | Finished


def label(post: Post) -> str:
    """('worker', 2) -> 'worker 2'; helpers have no number."""
    role, number = post
    return f"{role} {number}" if role == "worker" else role
