from __future__ import annotations

from forkd.supervisor.fleet import START_TIMEOUT, Fleet
from forkd.supervisor.pulse import Pulse, patience
from forkd.supervisor.roster import Spec

WATCHDOG = 10.0
STOOD = WATCHDOG + 1


def serving(workers: int = 2) -> Fleet:
    fleet = Fleet()
    fleet.begin(Spec(workers, watchdog=WATCHDOG), 0.0)
    for key in list(fleet.members):
        fleet.ready(key, 0.0)
    assert fleet.current
    return fleet


def slots(fleet: Fleet) -> list[int]:
    return [member.slot for member in fleet.members.values() if member.role == "worker"]


def test_one_worker_that_turns_is_progress() -> None:
    fleet = serving()
    one, other = slots(fleet)
    pulse = Pulse(0.0)
    for now in range(0, 1000, 10):
        assert pulse.beats(fleet, {one: float(now), other: 0.5}, float(now))


def test_when_none_turns_the_master_has_time_to_replace_them() -> None:
    fleet = serving()
    ages = dict.fromkeys(slots(fleet), STOOD)
    pulse = Pulse(0.0)
    assert pulse.beats(fleet, ages, WATCHDOG + START_TIMEOUT)
    assert not pulse.beats(fleet, ages, WATCHDOG + START_TIMEOUT + 1)
    assert patience(fleet) == WATCHDOG + START_TIMEOUT


def test_progress_that_comes_back_is_seen() -> None:
    fleet = serving()
    one, other = slots(fleet)
    pulse = Pulse(0.0)
    assert not pulse.beats(fleet, {one: STOOD, other: STOOD}, 100.0)
    assert pulse.beats(fleet, {one: STOOD, other: 0.1}, 101.0)


def test_workers_that_all_die_and_cannot_be_replaced_are_no_progress() -> None:
    fleet = serving()
    pulse = Pulse(0.0)
    for key in [m.key for m in fleet.members.values() if m.role == "worker"]:
        fleet.exited(key, "signal 9", 1.0)
    fleet.tick(1.2, {})  # their successors never get ready
    assert pulse.beats(fleet, {}, patience(fleet))
    assert not pulse.beats(fleet, {}, patience(fleet) + 1)


def test_a_worker_that_has_just_begun_is_progress() -> None:
    assert Pulse(0.0).beats(serving(), {}, 1000.0)


def test_draining_workers_are_progress() -> None:
    fleet = serving(workers=1)
    (slot,) = slots(fleet)
    fleet.begin(Spec(1, watchdog=WATCHDOG), 1.0)
    for member in [m for m in fleet.members.values() if m.generation == 2]:
        fleet.ready(member.key, 2.0)
    for member in [m for m in fleet.members.values() if m.role == "worker" and m.generation == 2]:
        fleet.exited(member.key, "signal 9", 3.0)
    assert Pulse(0.0).beats(fleet, {slot: 0.1}, 1000.0)


def test_start_and_stop_have_deadlines_of_their_own() -> None:
    starting = Fleet()
    assert Pulse(0.0).beats(starting, {}, 1000.0)
    starting.begin(Spec(1, watchdog=WATCHDOG), 0.0)
    assert Pulse(0.0).beats(starting, {}, 1000.0)
    stopping = serving()
    ages = dict.fromkeys(slots(stopping), STOOD)
    stopping.stop(0.0, 30.0)
    assert Pulse(0.0).beats(stopping, ages, 1000.0)
