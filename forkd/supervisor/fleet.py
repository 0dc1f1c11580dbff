"""Who should run: slots, generations, back-off, drain order.  No I/O and no clock.

Every method takes the time as `now` (seconds of any monotonic clock) and answers with the actions
that the master carries out.

Rules
  1. A generation is one configuration's set of posts: worker 1..N and its helpers.  At most two
     count: the current one, and an incoming one that must get ready whole.
  2. All of the incoming are ready: it becomes the current one, and the former is drained.  One of
     them fails: all of them are drained, and the current one never noticed.
  3. What runs but holds no post of a generation that counts is drained.  What holds a post and
     ends is replaced, after a pause that doubles with every early death.
  4. A runner outlives the workers of its generation, who call it.  There is one keeper at a time,
     of the current generation: its row and its repairs have one writer.
  5. Nothing is both wanted and drained: a member that is told to leave leaves, and its end is no
     crash.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from forkd.scoreboard import SLOTS
from forkd.supervisor.roster import (
    Action,
    Backoff,
    Crashed,
    Finished,
    Generation,
    Kill,
    Member,
    MemberState,
    Post,
    Retired,
    SendDrain,
    Settled,
    Spawn,
    Spec,
)

START_TIMEOUT = 30.0
"""Seconds a child may take to report that it serves."""
KILL_GRACE = 2.0
"""Seconds between the end of a drain's time, or the order to leave at once, and SIGKILL."""
HELPER_DRAIN = 5.0
"""Seconds a helper may take to leave."""
BACKOFF_FIRST = 0.1
BACKOFF_MAX = 30.0
BACKOFF_RESET = 60.0
"""A member that served this many seconds is no part of a crash loop."""


@dataclass(slots=True)
class Fleet:
    """The state of all children.  Ask `members` and `backoffs`; change it by the methods only."""

    members: dict[int, Member] = field(default_factory=dict)
    backoffs: dict[Post, Backoff] = field(default_factory=dict)
    restarts: dict[Post, int] = field(default_factory=dict)
    current: Generation | None = None
    incoming: Generation | None = None
    stopping: bool = False
    foreign: frozenset[int] = frozenset()
    _free: deque[int] = field(default_factory=lambda: deque(range(1, SLOTS + 1)))
    _next_key: int = 1
    _next_generation: int = 1
    _finished: bool = False

    # -- what happens to it

    def begin(self, spec: Spec, now: float) -> list[Action]:
        """Start a generation: the first one, or the next one of a reload.

        Raises ValueError with a sentence where that is not possible now; nothing changed then.
        """
        if self.stopping:
            raise ValueError("the daemon is stopping")
        if self.incoming:
            raise ValueError("a reload is under way already")
        self._check_slots(spec.workers)
        self.incoming = Generation(self._next_generation, spec)
        self._next_generation += 1
        return self._reconcile(now)

    def set_workers(self, count: int, now: float) -> list[Action]:
        """Serve with this many workers.  Raises ValueError as `begin` does."""
        if self.stopping:
            raise ValueError("the daemon is stopping")
        if self.incoming or not self.current:
            raise ValueError("a reload is under way; repeat this when it is done")
        self._check_slots(count - self.current.spec.workers)
        spec = replace(self.current.spec, workers=count)
        self.current = Generation(self.current.id, spec)
        for post in [p for p in self.backoffs if p not in set(self._posts(self.current))]:
            del self.backoffs[post]
        return self._reconcile(now)

    def stop(self, now: float, timeout: float) -> list[Action]:
        """Drain everybody within `timeout` seconds, workers before helpers; repeat to hasten."""
        actions: list[Action] = []
        repeated, self.stopping = self.stopping, True
        if self.incoming:
            actions.append(Settled(self.incoming.id, "the daemon is stopping"))
            self.incoming = None
        everybody = list(self.members.values()) if repeated else []
        for member in self._of_role("worker") or everybody:
            actions += self._drain(member, now, timeout)
        return actions + self._reconcile(now)

    def ready(self, key: int, now: float) -> list[Action]:
        """A child reported that it serves."""
        member = self.members.get(key)
        if member is None or member.state is not MemberState.STARTING:
            return []
        member.state, member.ready_at = MemberState.READY, now
        if member.told_to_leave:
            member.state = MemberState.DRAINING
        if not self.stopping:
            member.deadline = None
        return self._reconcile(now)

    def unable(self, key: int, reason: str, now: float) -> list[Action]:
        """A child reported that it cannot start; it is about to end."""
        member = self.members.get(key)
        if member is None:
            return []
        member.reason = reason
        if member.state is MemberState.STARTING:
            member.deadline = now + KILL_GRACE
        return []

    def broken(self, key: int, now: float) -> list[Action]:
        """A child's link does not work any more: it cannot be steered, so it must end soon."""
        member = self.members.get(key)
        if member and member.state is not MemberState.KILLED:
            end = now + KILL_GRACE
            member.deadline = min(member.deadline or end, end)
        return []

    def exited(self, key: int, reason: str, now: float) -> list[Action]:
        """A child's process is gone; `reason` as in 'signal 9' or 'status 1'."""
        member = self.members.pop(key, None)
        if member is None:
            return []
        if member.slot:
            self._free.append(member.slot)
        reason = member.reason or reason
        actions: list[Action] = []
        if self.incoming and member.generation == self.incoming.id:
            actions += self._give_up(f"{member.label}: {reason}")
        elif not member.told_to_leave and not self.stopping:
            actions.append(self._crash(member, reason, now))
        actions += self._reconcile(now)
        ids = {m.generation for m in self.members.values()}
        if member.generation not in ids | {g.id for g in self._counting()}:
            actions.append(Retired(member.generation))
        return actions

    def tick(self, now: float, beats: Mapping[int, float]) -> list[Action]:
        """Look at deadlines, and at `beats`: seconds since the last turn of each slot's loop."""
        actions: list[Action] = []
        for member in list(self.members.values()):
            if member.deadline is not None and now >= member.deadline:
                actions += self._overdue(member, now)
            elif member.state in (MemberState.READY, MemberState.DRAINING):
                age, limit = beats.get(member.slot, 0.0), self._watchdog()
                if limit and age > limit:
                    actions += self._kill(member, f"its loop made no progress for {age:.1f} s", now)
        return actions + self._reconcile(now)

    def wake_at(self) -> float | None:
        """The next moment at which `tick` will have something to do, as far as known."""
        moments = [m.deadline for m in self.members.values() if m.deadline is not None]
        if not self.stopping and self.current:
            held = {(m.role, m.number) for m in self.members.values() if m.holds}
            moments += [b.retry_at for post, b in self.backoffs.items() if post not in held]
        return min(moments, default=None)

    # -- what follows from it

    def _reconcile(self, now: float) -> list[Action]:
        """Bring what runs closer to what should run."""
        if self.stopping:
            return self._wind_down(now)
        actions = self._settle()
        for member in list(self.members.values()):
            if member.holds and not self._wanted(member):
                timeout = None if member.role == "worker" else HELPER_DRAIN
                actions += self._drain(member, now, timeout)
        for generation in self._counting():
            for post in self._posts(generation):
                actions += self._fill(generation, post, now)
        return actions

    def _settle(self) -> list[Action]:
        if not self.incoming:
            return []
        for role, number in self._posts(self.incoming):
            holder = self._holder(self.incoming.id, (role, number))
            if holder is None or holder.state is not MemberState.READY:
                return []
        self.current, self.incoming = self.incoming, None
        self.backoffs.clear()
        return [Settled(self.current.id)]

    def _give_up(self, failure: str) -> list[Action]:
        assert self.incoming
        failed, self.incoming = self.incoming, None
        if self.current is None:
            self.stopping = True  # the start failed: there is nothing to go back to
        return [Settled(failed.id, failure)]

    def _fill(self, generation: Generation, post: Post, now: float) -> list[Action]:
        role, number = post
        if self._holder(generation.id, post):
            return []
        if role == "keeper" and self._of_role("keeper"):
            return []
        backoff = self.backoffs.get(post)
        if generation is self.current and backoff and now < backoff.retry_at:
            return []
        slot = 0
        if role == "worker":
            free = next((s for s in self._free if s not in self.foreign), None)
            if free is None:
                return []
            self._free.remove(free)
            slot = free
        key = self._next_key
        self._next_key += 1
        self.members[key] = Member(
            *(key, role, slot, number, generation.id),
            *(MemberState.STARTING, now, now + START_TIMEOUT),
        )
        return [Spawn(key, role, slot, number, generation.id)]

    def _crash(self, member: Member, reason: str, now: float) -> Crashed:
        post = (member.role, member.number)
        if not self._wanted(member):  # an old generation's: nobody takes its place
            return Crashed(member.role, member.number, member.slot, reason, None)
        lived = 0.0 if member.ready_at is None else now - member.ready_at
        before = self.backoffs.get(post)
        failures = 1 + (before.failures if before and lived < BACKOFF_RESET else 0)
        pause = min(BACKOFF_MAX, BACKOFF_FIRST * 2.0 ** (failures - 1))
        self.backoffs[post] = Backoff(failures, now + pause, reason)
        self.restarts[post] = self.restarts.get(post, 0) + 1
        return Crashed(member.role, member.number, member.slot, reason, pause)

    def _overdue(self, member: Member, now: float) -> list[Action]:
        if member.told_to_leave:
            return self._kill(member, "told to leave and did not in time", now)
        if member.state is MemberState.STARTING:
            return self._kill(member, f"not ready after {START_TIMEOUT:.0f} s", now)
        return self._kill(member, "its link to the master is broken", now)

    def _kill(self, member: Member, why: str, now: float) -> list[Action]:
        """Its post is free from now on: a process may take long to die."""
        if member.state is MemberState.KILLED:
            return []
        expected, member.told_to_leave = member.told_to_leave, True
        member.state, member.deadline = MemberState.KILLED, None
        member.reason = member.reason or why
        actions: list[Action] = [Kill(member.key, why)]
        if self.incoming and member.generation == self.incoming.id:
            actions += self._give_up(f"{member.label}: {member.reason}")
        elif not expected and not self.stopping:
            actions.append(self._crash(member, member.reason, now))
        return actions

    def _drain(self, member: Member, now: float, timeout: float | None) -> list[Action]:
        if member.state is MemberState.KILLED:
            return []
        deadline = None if timeout is None else now + timeout + KILL_GRACE
        if member.state is MemberState.STARTING:
            # It may never come to read its link.
            deadline = min(now + START_TIMEOUT, deadline or float("inf"))
        elif member.told_to_leave and member.deadline is not None:
            deadline = min(member.deadline, deadline or float("inf"))
        member.told_to_leave, member.deadline = True, deadline
        if member.state is MemberState.READY:
            member.state = MemberState.DRAINING
        return [SendDrain(member.key, timeout)]

    def _wind_down(self, now: float) -> list[Action]:
        """Stopping: no helper is told to leave before the last worker is gone."""
        if not self.members:
            finished, self._finished = self._finished, True
            return [] if finished else [Finished()]
        workers = self._of_role("worker")
        actions: list[Action] = []
        for member in workers or list(self.members.values()):
            if not member.told_to_leave:
                actions += self._drain(member, now, 0.0 if workers else HELPER_DRAIN)
        return actions

    # -- questions

    def _wanted(self, member: Member) -> bool:
        if member.role == "runner" and any(
            m.role == "worker" and m.generation == member.generation for m in self.members.values()
        ):
            return True
        post = (member.role, member.number)
        return any(
            member.generation == g.id and post in set(self._posts(g)) for g in self._counting()
        )

    def _counting(self) -> list[Generation]:
        return [g for g in (self.current, self.incoming) if g]

    def _posts(self, generation: Generation) -> Iterator[Post]:
        """Helpers first: they are what workers call."""
        if generation is self.current or self.current is None:
            yield ("keeper", 0)
        for role in generation.spec.helpers:
            yield (role, 0)
        for number in range(1, generation.spec.workers + 1):
            yield ("worker", number)

    def _holder(self, generation: int, post: Post) -> Member | None:
        for member in self.members.values():
            if (
                member.generation == generation
                and (member.role, member.number) == post
                and member.holds
            ):
                return member
        return None

    def _of_role(self, role: str) -> list[Member]:
        return [m for m in self.members.values() if m.role == role]

    def _watchdog(self) -> float:
        counting = self._counting()
        return counting[0].spec.watchdog if counting else 0.0

    def _check_slots(self, needed: int) -> None:
        free = len(set(self._free) - self.foreign)
        if needed > free:
            raise ValueError(
                f"{needed} more workers need a slot each and {free} of {SLOTS} are free: workers "
                "of earlier generations still finish their transfers; try again later"
            )
