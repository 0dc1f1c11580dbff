from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from forkd.scoreboard import SLOTS
from forkd.supervisor.fleet import Fleet
from forkd.supervisor.leaving import HELPER_DRAIN, KILL_GRACE, START_TIMEOUT
from forkd.supervisor.respawn import BACKOFF_MAX, BACKOFF_RESET
from forkd.supervisor.roster import (
    Action,
    Crashed,
    Finished,
    Kill,
    MemberState,
    Retired,
    SendDrain,
    Settled,
    Spawn,
    Spec,
)


class Rig:
    """A fleet, a clock, and the record of what it asked for."""

    def __init__(self, spec: Spec) -> None:
        self.fleet = Fleet()
        self.now = 1000.0
        self.log: list[Action] = []
        self.take(self.fleet.begin(spec, self.now))

    def take(self, actions: Iterable[Action]) -> list[Action]:
        fresh = list(actions)
        self.log += fresh
        return fresh

    def all_ready(self) -> list[Action]:
        fresh: list[Action] = []
        for key in list(self.fleet.members):
            fresh += self.take(self.fleet.ready(key, self.now))
        return fresh

    def reload(self, spec: Spec) -> list[Action]:
        return self.take(self.fleet.begin(spec, self.now))

    def exit(self, key: int, reason: str = "signal 9 (SIGKILL)") -> list[Action]:
        return self.take(self.fleet.exited(key, reason, self.now))

    def tick(self, seconds: float = 0.0, beats: dict[int, float] | None = None) -> list[Action]:
        self.now += seconds
        return self.take(self.fleet.tick(self.now, beats or {}))

    def keys(self, role: str, generation: int = 0) -> list[int]:
        return [
            m.key
            for m in self.fleet.members.values()
            if m.role == role and generation in (0, m.generation)
        ]


def of(kind: type, actions: Iterable[Action]) -> list:  # type: ignore[type-arg]
    return [action for action in actions if isinstance(action, kind)]


@pytest.fixture
def rig() -> Rig:
    rig = Rig(Spec(2, ("runner", "exporter")))
    rig.all_ready()
    return rig


def test_a_start_settles_when_all_are_ready() -> None:
    rig = Rig(Spec(2, ("exporter",)))
    spawned = of(Spawn, rig.log)
    assert [(s.role, s.slot, s.number) for s in spawned] == [
        ("keeper", 0, 0),
        ("exporter", 0, 0),
        ("worker", 1, 1),
        ("worker", 2, 2),
    ]
    for spawn in spawned[:-1]:
        assert rig.take(rig.fleet.ready(spawn.key, rig.now)) == []
    assert rig.take(rig.fleet.ready(spawned[-1].key, rig.now)) == [Settled(1)]


def test_a_start_that_fails_ends_the_daemon() -> None:
    rig = Rig(Spec(2))
    keeper, one, two = rig.fleet.members
    rig.take(rig.fleet.unable(one, "no moon", rig.now))
    actions = rig.exit(one, "status 1")
    assert Settled(1, "worker 1: no moon") in actions
    assert SendDrain(two, 0.0) in actions
    rig.exit(two)
    assert of(Finished, rig.exit(keeper)) == [Finished()]


def test_a_start_that_hangs_fails() -> None:
    rig = Rig(Spec(1))
    assert of(Kill, rig.tick(START_TIMEOUT - 1)) == []
    actions = rig.tick(1)
    assert {kill.key for kill in of(Kill, actions)} == set(rig.fleet.members)
    assert of(Settled, actions) == [Settled(1, "keeper: not ready after 30 s")]
    assert of(Spawn, actions) == []
    for key in list(rig.fleet.members):
        rig.exit(key)
    assert of(Finished, rig.log) == [Finished()]


def test_a_crashed_worker_is_replaced_after_a_pause(rig: Rig) -> None:
    key = rig.keys("worker")[0]
    assert rig.exit(key) == [Crashed("worker", 1, 1, "signal 9 (SIGKILL)", 0.1)]
    assert rig.fleet.wake_at() == pytest.approx(rig.now + 0.1)
    assert rig.tick(0.05) == []
    (spawn,) = rig.tick(0.06)
    assert isinstance(spawn, Spawn)
    assert (spawn.role, spawn.number, spawn.slot, spawn.generation) == ("worker", 1, 3, 1)


def test_the_pause_doubles_up_to_a_bound_and_a_long_life_resets_it(rig: Rig) -> None:
    pauses = []
    for _ in range(12):
        (key,) = (k for k in rig.keys("worker") if rig.fleet.members[k].number == 1)
        (crash,) = of(Crashed, rig.exit(key))
        pauses.append(crash.retry_in)
        rig.tick(crash.retry_in)
    assert pauses[:4] == [0.1, 0.2, 0.4, 0.8]
    assert pauses[-1] == BACKOFF_MAX
    rig.all_ready()
    rig.tick(BACKOFF_RESET)
    (key,) = (k for k in rig.keys("worker") if rig.fleet.members[k].number == 1)
    assert of(Crashed, rig.exit(key))[0].retry_in == 0.1
    assert rig.fleet.respawn.restarts["worker", 1] == 13


def test_the_slot_longest_free_is_taken_and_foreign_ones_are_left(rig: Rig) -> None:
    rig.fleet.foreign = frozenset({3, 4})
    rig.exit(rig.keys("worker")[0])
    assert of(Spawn, rig.tick(1))[0].slot == 5
    seen = set()
    for _ in range(SLOTS):
        key = rig.keys("worker")[-1]
        rig.exit(key)
        seen.add(of(Spawn, rig.tick(60))[0].slot)
    assert seen == set(range(1, SLOTS + 1)) - {2, 3, 4}


def test_a_reload_drains_the_old_only_when_all_new_are_ready(rig: Rig) -> None:
    old = set(rig.fleet.members)
    spawned = of(Spawn, rig.reload(Spec(3, ("runner", "exporter"))))
    assert [s.role for s in spawned] == ["runner", "exporter", "worker", "worker", "worker"]
    for spawn in spawned[:-1]:
        assert rig.take(rig.fleet.ready(spawn.key, rig.now)) == []
    actions = rig.take(rig.fleet.ready(spawned[-1].key, rig.now))
    assert actions[0] == Settled(2)
    drained = {a.key: a.timeout for a in of(SendDrain, actions)}
    roles = {rig.fleet.members[key].role: timeout for key, timeout in drained.items()}
    assert roles == {"worker": None, "keeper": HELPER_DRAIN, "exporter": HELPER_DRAIN}
    assert old - drained.keys() == set(rig.keys("runner", 1))


def test_a_runner_outlives_its_workers(rig: Rig) -> None:
    rig.reload(Spec(2, ("runner", "exporter")))
    rig.all_ready()
    (runner,) = rig.keys("runner", 1)
    one, two = rig.keys("worker", 1)
    assert SendDrain(runner, HELPER_DRAIN) not in rig.exit(one, "status 0")
    assert SendDrain(runner, HELPER_DRAIN) in rig.exit(two, "status 0")


def test_there_is_one_keeper_at_a_time(rig: Rig) -> None:
    rig.reload(Spec(2, ("runner", "exporter")))
    rig.all_ready()
    (keeper,) = rig.keys("keeper")
    assert rig.fleet.members[keeper].generation == 1
    (spawn,) = of(Spawn, rig.exit(keeper, "status 0"))
    assert (spawn.role, spawn.generation) == ("keeper", 2)
    assert of(Crashed, rig.log) == []


def test_an_old_generation_retires_when_its_last_member_is_gone(rig: Rig) -> None:
    rig.reload(Spec(1))
    rig.all_ready()
    last = [m.key for m in rig.fleet.members.values() if m.generation == 1]
    for key in last[:-1]:
        assert of(Retired, rig.exit(key, "status 0")) == []
    assert of(Retired, rig.exit(last[-1], "status 0")) == [Retired(1)]


def test_a_reload_that_fails_keeps_the_old(rig: Rig) -> None:
    old = set(rig.fleet.members)
    rig.reload(Spec(2, ("runner", "exporter")))
    new = set(rig.fleet.members) - old
    ready, failing = rig.keys("worker", 2)
    rig.take(rig.fleet.ready(ready, rig.now))
    actions = rig.exit(failing, "status 1")
    assert actions[0] == Settled(2, "worker 2: status 1")
    drains = {a.key: a.timeout for a in of(SendDrain, actions)}
    # The one that was ready may have a transfer already: it is not cut.  Its runner stays for it.
    assert drains.keys() == new - {failing} - set(rig.keys("runner", -1))
    assert drains[ready] is None
    assert all(rig.fleet.members[key].state is MemberState.READY for key in old)
    for key in [k for k in new if k in rig.fleet.members]:
        rig.exit(key, "status 0")
    assert Retired(2) in rig.log
    assert of(Crashed, rig.log) == []
    assert of(Settled, rig.reload(Spec(1))) == []


def test_a_reload_that_fails_uses_up_no_number(rig: Rig) -> None:
    for _ in range(2):
        rig.reload(Spec(2))
        ready, failing = rig.keys("worker", 2)
        rig.take(rig.fleet.ready(ready, rig.now))
        rig.exit(failing, "status 1")
    assert sorted({m.generation for m in rig.fleet.members.values()}) == [-2, -1, 1]
    rig.reload(Spec(2))
    rig.exit(rig.keys("worker", -1)[0], "status 0")  # what is left of them is none of its own
    rig.all_ready()
    assert Settled(2) in rig.log
    assert rig.fleet.current is not None
    assert rig.fleet.current.id == 2


def test_the_oldest_of_too_many_who_drain_get_a_deadline() -> None:
    spec = Spec(1, drainers=2, graceful=30.0)
    rig = Rig(spec)
    rig.all_ready()
    for _ in range(2):
        rig.reload(spec)
        rig.all_ready()
    assert all(m.deadline is None for m in rig.fleet.members.values() if m.role == "worker")
    rig.reload(spec)
    rig.all_ready()
    deadlines = {m.generation: m.deadline for m in rig.fleet.members.values() if m.role == "worker"}
    assert deadlines == {1: rig.now + 30.0 + KILL_GRACE, 2: None, 3: None, 4: None}
    (told,) = (a for a in of(SendDrain, rig.log) if a.timeout == 30.0)
    assert told.key == rig.keys("worker", 1)[0]
    assert of(SendDrain, rig.tick(10)) == []  # once is enough
    rig.tick(30.0 + KILL_GRACE - 10)
    killed = {kill.key for kill in of(Kill, rig.log)}
    assert killed & set(rig.keys("worker")) == {told.key}


def test_a_lent_slot_is_nobody_elses(rig: Rig) -> None:
    slot = rig.fleet.lend()
    rig.reload(Spec(4))
    assert slot not in {m.slot for m in rig.fleet.members.values()}
    rig.fleet.give_back(slot)
    assert rig.fleet.free.count(slot) == 1


def test_a_worker_that_crashes_during_a_reload_is_replaced_in_its_generation(rig: Rig) -> None:
    old = rig.keys("worker", 1)[0]
    rig.reload(Spec(2))
    assert of(Crashed, rig.exit(old))
    assert [s.generation for s in of(Spawn, rig.tick(1))] == [1]


def test_one_reload_at_a_time(rig: Rig) -> None:
    rig.reload(Spec(2))
    with pytest.raises(ValueError, match="under way"):
        rig.fleet.begin(Spec(2), rig.now)
    with pytest.raises(ValueError, match="under way"):
        rig.fleet.set_workers(3, rig.now)


def test_a_reload_without_free_slots_is_refused_and_changes_nothing(rig: Rig) -> None:
    rig.fleet.foreign = frozenset(range(3, SLOTS + 1))
    before = dict(rig.fleet.members)
    with pytest.raises(ValueError, match="2 more workers need a slot each and 0 of 64 are free"):
        rig.fleet.begin(Spec(2), rig.now)
    assert rig.fleet.members == before
    assert rig.fleet.incoming is None


def test_more_and_fewer_workers(rig: Rig) -> None:
    added = of(Spawn, rig.take(rig.fleet.set_workers(4, rig.now)))
    assert [s.number for s in added] == [3, 4]
    rig.all_ready()
    drained = of(SendDrain, rig.take(rig.fleet.set_workers(1, rig.now)))
    assert {rig.fleet.members[d.key].number for d in drained} == {2, 3, 4}
    assert {d.timeout for d in drained} == {None}
    # More again while they drain: others take the posts.
    assert [s.number for s in of(Spawn, rig.take(rig.fleet.set_workers(2, rig.now)))] == [2]
    for drain in drained:
        assert of(Crashed, rig.exit(drain.key, "status 0")) == []


def test_the_watchdog_kills_who_makes_no_progress(rig: Rig) -> None:
    one, two = (rig.fleet.members[key] for key in rig.keys("worker"))
    assert rig.tick(0, {one.slot: 29.0, two.slot: 0.1}) == []
    why = "its loop made no progress for 31.0 s"
    kill, crash = rig.tick(0, {one.slot: 31.0, two.slot: 0.1})
    assert kill == Kill(one.key, why)
    assert crash == Crashed("worker", 1, one.slot, why, 0.1)
    assert rig.tick(0, {one.slot: 32.0}) == []  # once is enough
    # It may be stuck in the kernel: another one takes its post meanwhile, in a slot of its own.
    (spawn,) = of(Spawn, rig.tick(0.1))
    assert spawn.slot not in (one.slot, two.slot)
    assert rig.exit(one.key) == []


def test_a_draining_worker_has_no_deadline_while_it_makes_progress(rig: Rig) -> None:
    rig.reload(Spec(2, ("runner", "exporter")))
    rig.all_ready()
    (key, _) = rig.keys("worker", 1)
    slot = rig.fleet.members[key].slot
    assert key not in {k.key for k in of(Kill, rig.tick(86400, {slot: 1.0}))}
    assert key in {k.key for k in of(Kill, rig.tick(0, {slot: 31.0}))}


def test_a_broken_link_ends_in_a_kill(rig: Rig) -> None:
    key = rig.keys("worker")[0]
    rig.take(rig.fleet.broken(key, rig.now))
    assert rig.tick(KILL_GRACE / 2) == []
    assert of(Kill, rig.tick(KILL_GRACE)) == [Kill(key, "its link to the master is broken")]
    assert len(of(Crashed, rig.log)) == 1


def test_stopping_drains_workers_first_then_helpers(rig: Rig) -> None:
    workers = rig.keys("worker")
    helpers = set(rig.fleet.members) - set(workers)
    actions = rig.take(rig.fleet.stop(rig.now, 30.0))
    assert actions == [SendDrain(key, 30.0) for key in workers]
    assert rig.exit(workers[0], "status 0") == []
    last = rig.exit(workers[1], "status 0")
    assert {a.key for a in of(SendDrain, last)} == helpers
    for key in list(helpers)[:-1]:
        assert rig.exit(key, "status 0") == []
    assert Finished() in rig.exit(list(helpers)[-1], "status 0")
    assert of(Crashed, rig.log) == []


def test_stopping_kills_at_the_deadline_and_a_second_stop_hastens(rig: Rig) -> None:
    workers = rig.keys("worker")
    rig.take(rig.fleet.stop(rig.now, 30.0))
    assert of(Kill, rig.tick(30.0)) == []
    rig.take(rig.fleet.stop(rig.now, 0.0))
    assert {k.key for k in of(Kill, rig.tick(KILL_GRACE))} == set(workers)


def test_stopping_gives_up_a_reload_and_limits_those_who_drain_already(rig: Rig) -> None:
    rig.reload(Spec(1))
    rig.all_ready()  # the old ones drain without a deadline now
    rig.reload(Spec(1))
    actions = rig.take(rig.fleet.stop(rig.now, 5.0))
    assert actions[0] == Settled(3, "the daemon is stopping")
    assert {a.key for a in of(SendDrain, actions)} == set(rig.keys("worker"))
    assert {k.key for k in of(Kill, rig.tick(5.0 + KILL_GRACE))} >= set(rig.keys("worker"))


def test_a_stop_while_starting_ends(rig: Rig) -> None:
    rig = Rig(Spec(1))
    rig.take(rig.fleet.stop(rig.now, 5.0))
    for key in [*rig.keys("worker"), *rig.keys("keeper")]:
        rig.exit(key, "status 0")
    assert rig.log[-1] == Finished() or rig.log[-2] == Finished()


class FleetMachine(RuleBasedStateMachine):
    """Whatever happens, in whatever order, these hold."""

    def __init__(self) -> None:
        super().__init__()
        self.rig = Rig(Spec(2, ("runner",)))
        self.rig.all_ready()
        self.was_current = 1

    def any_member(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(self.rig.fleet.members)))

    @precondition(lambda self: self.rig.fleet.members)
    @rule(data=st.data())
    def one_gets_ready(self, data: st.DataObject) -> None:
        self.rig.take(self.rig.fleet.ready(self.any_member(data), self.rig.now))

    @precondition(lambda self: self.rig.fleet.members)
    @rule(data=st.data())
    def one_exits(self, data: st.DataObject) -> None:
        self.rig.exit(self.any_member(data))

    @precondition(lambda self: self.rig.fleet.members)
    @rule(data=st.data())
    def one_is_broken(self, data: st.DataObject) -> None:
        self.rig.take(self.rig.fleet.broken(self.any_member(data), self.rig.now))

    @rule(workers=st.integers(1, 20), helpers=st.sampled_from([(), ("runner",), ("exporter",)]))
    def a_reload(self, workers: int, helpers: tuple[str, ...]) -> None:
        try:
            self.rig.reload(Spec(workers, helpers))
        except ValueError:
            pass

    @rule(workers=st.integers(1, 20))
    def another_number(self, workers: int) -> None:
        try:
            self.rig.take(self.rig.fleet.set_workers(workers, self.rig.now))
        except ValueError:
            pass

    @rule(seconds=st.sampled_from([0.1, 1.0, 40.0]), age=st.sampled_from([0.0, 100.0]))
    def time_passes(self, seconds: float, age: float) -> None:
        slots = [m.slot for m in self.rig.fleet.members.values() if m.slot]
        self.rig.tick(seconds, dict.fromkeys(slots[:1], age))

    @rule(foreign=st.frozensets(st.integers(1, SLOTS), max_size=3))
    def orphans(self, foreign: frozenset[int]) -> None:
        held = {m.slot for m in self.rig.fleet.members.values()}
        self.rig.fleet.foreign = foreign - held

    @invariant()
    def a_slot_has_one_member(self) -> None:
        slots = [m.slot for m in self.rig.fleet.members.values() if m.slot]
        assert len(slots) == len(set(slots))
        assert sorted([*slots, *self.rig.fleet.free]) == list(range(1, SLOTS + 1))

    @invariant()
    def a_post_has_one_holder(self) -> None:
        posts = [
            (m.generation, m.role, m.number) for m in self.rig.fleet.members.values() if m.holds
        ]
        assert len(posts) == len(set(posts))

    @invariant()
    def there_is_at_most_one_keeper(self) -> None:
        assert len(self.rig.keys("keeper")) <= 1

    @invariant()
    def the_current_generation_never_goes_backwards(self) -> None:
        assert self.rig.fleet.current
        assert self.rig.fleet.current.id >= self.was_current
        self.was_current = self.rig.fleet.current.id

    @invariant()
    def nobody_who_is_wanted_was_told_to_leave(self) -> None:
        """Every drain goes to one without a post, or without a generation that counts."""
        fleet = self.rig.fleet
        counting = {g.id for g in (fleet.current, fleet.incoming) if g}
        assert all(
            m.generation in counting or m.role == "runner"
            for m in fleet.members.values()
            if m.holds
        )

    def teardown(self) -> None:
        """It always settles: with healthy children every post is filled, and a stop ends."""
        rig = self.rig
        rig.fleet.foreign = frozenset()
        for _ in range(80):
            rig.tick(BACKOFF_MAX)
            rig.all_ready()
            for member in list(rig.fleet.members.values()):
                if member.told_to_leave or member.state is MemberState.KILLED:
                    rig.exit(member.key, "status 0")
            rig.all_ready()
        assert rig.fleet.current
        held = {
            (m.role, m.number)
            for m in rig.fleet.members.values()
            if m.holds and m.generation == rig.fleet.current.id
        }
        assert held == set(rig.fleet.posts(rig.fleet.current))
        rig.take(rig.fleet.stop(rig.now, 1.0))
        for key in [*rig.keys("worker"), *(k for k in rig.fleet.members)]:
            rig.exit(key, "status 0")
        assert rig.log.count(Finished()) == 1


TestFleetMachine = FleetMachine.TestCase
TestFleetMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_worker_is_relieved_by_another() -> None:
    rig = Rig(Spec(2))
    rig.all_ready()
    victim = next(m for m in rig.fleet.members.values() if m.slot == 1)
    key, actions = rig.fleet.relieve(1, rig.now, 5.0)
    rig.take(actions)
    assert key == victim.key
    drained, spawned = actions
    assert drained == SendDrain(key, 5.0)
    assert isinstance(spawned, Spawn)
    assert (spawned.role, spawned.number, spawned.slot) == ("worker", victim.number, 3)
    assert victim.deadline == rig.now + 5.0 + KILL_GRACE
    rig.all_ready()
    assert rig.exit(key, "status 0") == []
    assert rig.fleet.respawn.restarts == {}


def test_only_who_serves_in_the_current_generation_is_relieved() -> None:
    rig = Rig(Spec(1))
    with pytest.raises(ValueError, match="no worker serves in slot 9"):
        rig.fleet.relieve(9, rig.now, None)
    rig.all_ready()
    rig.reload(Spec(1))
    rig.all_ready()
    with pytest.raises(ValueError, match="no worker serves in slot 1"):
        rig.fleet.relieve(1, rig.now, None)
    rig.take(rig.fleet.stop(rig.now, 1.0))
    with pytest.raises(ValueError, match="stopping"):
        rig.fleet.relieve(2, rig.now, None)
