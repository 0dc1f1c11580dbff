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
  6. A generation that was given up gives its number back, and has one below zero from then on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from forkd.supervisor.fleetstate import FleetState
from forkd.supervisor.leaving import HELPER_DRAIN, KILL_GRACE, START_TIMEOUT, drain, drain_crowd
from forkd.supervisor.roster import (
    Action,
    Crashed,
    Finished,
    Generation,
    Kill,
    Member,
    MemberState,
    Post,
    Retired,
    Settled,
    Spawn,
    Spec,
)


@dataclass(slots=True)
class Fleet(FleetState):
    """The policy.  Ask its fields; change them by the methods only."""

    # -- what happens to it

    def begin(self, spec: Spec, now: float) -> list[Action]:
        """Start a generation: the first one, or the next one of a reload.

        Raises ValueError with a sentence where that is not possible now; nothing changed then.
        """
        if self.stopping:
            raise ValueError("the daemon is stopping")
        if self.incoming:
            raise ValueError("a reload is under way already")
        self.check_slots(spec.workers)
        self.incoming = Generation(self.next_generation, spec)
        self.next_generation += 1
        return self._reconcile(now)

    def set_workers(self, count: int, now: float) -> list[Action]:
        """Serve with this many workers.  Raises ValueError as `begin` does."""
        if self.stopping:
            raise ValueError("the daemon is stopping")
        if self.incoming or not self.current:
            raise ValueError("a reload is under way; repeat this when it is done")
        self.check_slots(count - self.current.spec.workers)
        spec = replace(self.current.spec, workers=count)
        self.current = Generation(self.current.id, spec)
        self.respawn.keep(set(self.posts(self.current)))
        return self._reconcile(now)

    def relieve(self, slot: int, now: float, timeout: float | None) -> tuple[int, list[Action]]:
        """The worker in this slot leaves, another one takes its post at once; its key.

        Raises ValueError as `begin` does, and where nobody of the current generation serves there.
        """
        if self.stopping:
            raise ValueError("the daemon is stopping")
        for member in self.members.values():
            if member.slot == slot and member.holds and self.wanted(member):
                self.check_slots(1)
                return member.key, drain(member, now, timeout) + self._reconcile(now)
        raise ValueError(f"no worker serves in slot {slot}")

    def stop(self, now: float, timeout: float) -> list[Action]:
        """Drain everybody within `timeout` seconds, workers before helpers; repeat to hasten."""
        actions: list[Action] = []
        repeated, self.stopping = self.stopping, True
        if self.incoming:
            actions.append(Settled(self.incoming.id, "the daemon is stopping"))
            self.incoming = None
        everybody = list(self.members.values()) if repeated else []
        for member in self.of_role("worker") or everybody:
            actions += drain(member, now, timeout)
        return actions + self._reconcile(now)

    def lend(self) -> int:
        """A slot for one who is no member; 0 when none is free.  `give_back` returns it."""
        slot = self.first_free()
        if slot:
            self.free.remove(slot)
        return slot

    def give_back(self, slot: int) -> None:
        """The lent slot is nobody's again."""
        self.free.append(slot)

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
            self.free.append(member.slot)
        reason = member.reason or reason
        actions: list[Action] = []
        if self.incoming and member.generation == self.incoming.id:
            actions += self._give_up(f"{member.label}: {reason}")
        elif not member.told_to_leave and not self.stopping:
            actions.append(self._crash(member, reason, now))
        actions += self._reconcile(now)
        ids = {m.generation for m in self.members.values()}
        if member.generation not in ids | {g.id for g in self.counting()}:
            actions.append(Retired(member.generation))
        return actions

    def tick(self, now: float, beats: Mapping[int, float]) -> list[Action]:
        """Look at deadlines, and at `beats`: seconds since the last turn of each slot's loop."""
        actions: list[Action] = []
        for member in list(self.members.values()):
            if member.deadline is not None and now >= member.deadline:
                actions += self._overdue(member, now)
            elif member.state in (MemberState.READY, MemberState.DRAINING):
                age, limit = beats.get(member.slot, 0.0), self.watchdog()
                if limit and age > limit:
                    actions += self._kill(member, f"its loop made no progress for {age:.1f} s", now)
        return actions + self._reconcile(now)

    def wake_at(self) -> float | None:
        """The next moment at which `tick` will have something to do, as far as known."""
        moments = [m.deadline for m in self.members.values() if m.deadline is not None]
        if not self.stopping and self.current:
            held = {(m.role, m.number) for m in self.members.values() if m.holds}
            moments += self.respawn.moments(held)
        return min(moments, default=None)

    # -- what follows from it

    def _reconcile(self, now: float) -> list[Action]:
        """Bring what runs closer to what should run."""
        if self.stopping:
            return self._wind_down(now)
        actions = self._settle()
        for member in list(self.members.values()):
            if member.holds and not self.wanted(member):
                timeout = None if member.role == "worker" else HELPER_DRAIN
                actions += drain(member, now, timeout)
        if self.current:
            ids = {generation.id for generation in self.counting()}
            former = (m for m in self.of_role("worker") if m.generation not in ids)
            actions += drain_crowd(former, self.current.spec, now)
        for generation in self.counting():
            for post in self.posts(generation):
                actions += self._fill(generation, post, now)
        return actions

    def _settle(self) -> list[Action]:
        if not self.incoming:
            return []
        for role, number in self.posts(self.incoming):
            holder = self.holder(self.incoming.id, (role, number))
            if holder is None or holder.state is not MemberState.READY:
                return []
        self.current, self.incoming = self.incoming, None
        self.respawn.backoffs.clear()
        return [Settled(self.current.id)]

    def _give_up(self, failure: str) -> list[Action]:
        assert self.incoming
        failed, self.incoming = self.incoming, None
        self.next_generation = failed.id
        self.given_up += 1
        for member in self.members.values():
            if member.generation == failed.id:
                member.generation = -self.given_up
        if self.current is None:
            self.stopping = True  # the start failed: there is nothing to go back to
        return [Settled(failed.id, failure)]

    def _fill(self, generation: Generation, post: Post, now: float) -> list[Action]:
        role, number = post
        if self.holder(generation.id, post):
            return []
        if role == "keeper" and self.of_role("keeper"):
            return []
        if generation is self.current and self.respawn.waits(post, now):
            return []
        slot = 0
        if role == "worker":
            slot = self.lend()
            if not slot:
                return []
        key = self.next_key
        self.next_key += 1
        self.members[key] = Member(
            *(key, role, slot, number, generation.id),
            *(MemberState.STARTING, now, now + START_TIMEOUT),
        )
        return [Spawn(key, role, slot, number, generation.id)]

    def _crash(self, member: Member, reason: str, now: float) -> Crashed:
        post = (member.role, member.number)
        if not self.wanted(member):  # an old generation's: nobody takes its place
            return Crashed(member.role, member.number, member.slot, reason, None)
        lived = 0.0 if member.ready_at is None else now - member.ready_at
        pause = self.respawn.crashed(post, lived, reason, now)
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

    def _wind_down(self, now: float) -> list[Action]:
        """Stopping: no helper is told to leave before the last worker is gone."""
        if not self.members:
            finished, self.finished = self.finished, True
            return [] if finished else [Finished()]
        workers = self.of_role("worker")
        actions: list[Action] = []
        for member in workers or list(self.members.values()):
            if not member.told_to_leave:
                actions += drain(member, now, 0.0 if workers else HELPER_DRAIN)
        return actions
