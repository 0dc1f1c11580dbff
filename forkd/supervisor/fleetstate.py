"""The state of the fleet, and what can be asked of it.  No I/O."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from forkd.scoreboard import SLOTS
from forkd.supervisor.respawn import Respawn
from forkd.supervisor.roster import Generation, Member, Post


@dataclass(slots=True)
class FleetState:
    """All children.  fleet.py changes it; an upgrade hands it over as it is (estate.py), so its
    fields are part of that form.
    """

    members: dict[int, Member] = field(default_factory=dict)
    respawn: Respawn = field(default_factory=Respawn)
    current: Generation | None = None
    incoming: Generation | None = None
    stopping: bool = False
    foreign: frozenset[int] = frozenset()
    free: list[int] = field(default_factory=lambda: list(range(1, SLOTS + 1)))
    next_key: int = 1
    next_generation: int = 1
    given_up: int = 0
    finished: bool = False

    def wanted(self, member: Member) -> bool:
        """Whether it holds a post of a generation that counts, or others still need it."""
        if member.role == "runner" and any(
            m.role == "worker" and m.generation == member.generation for m in self.members.values()
        ):
            return True
        post = (member.role, member.number)
        return any(
            member.generation == g.id and post in set(self.posts(g)) for g in self.counting()
        )

    def counting(self) -> list[Generation]:
        """The generations whose posts are to be filled."""
        return [g for g in (self.current, self.incoming) if g]

    def posts(self, generation: Generation) -> Iterator[Post]:
        """Of a generation, helpers first: they are what workers call."""
        if generation is self.current or self.current is None:
            yield ("keeper", 0)
        for role in generation.spec.helpers:
            yield (role, 0)
        for number in range(1, generation.spec.workers + 1):
            yield ("worker", number)

    def holder(self, generation: int, post: Post) -> Member | None:
        """Who fills this post."""
        for member in self.members.values():
            if (
                member.generation == generation
                and (member.role, member.number) == post
                and member.holds
            ):
                return member
        return None

    def of_role(self, role: str) -> list[Member]:
        """Of all generations."""
        return [m for m in self.members.values() if m.role == role]

    def watchdog(self) -> float:
        """Seconds that a loop may stand still; 0.0: for ever."""
        counting = self.counting()
        return counting[0].spec.watchdog if counting else 0.0

    def first_free(self) -> int:
        """The slot that nobody has had for longest; 0 for none."""
        return next((slot for slot in self.free if slot not in self.foreign), 0)

    def check_slots(self, needed: int) -> None:
        """Raises ValueError with a sentence where so many more are not free."""
        free = len(set(self.free) - self.foreign)
        if needed > free:
            raise ValueError(
                f"{needed} more workers need a slot each and {free} of {SLOTS} are free: workers "
                "of earlier generations still finish their transfers; try again later"
            )
