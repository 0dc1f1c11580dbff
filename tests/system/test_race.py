"""The quota under a race: never a byte too many on the disk, and the last byte is usable."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from crowd import Crowd
from disk import Sampler, leases
from racer import LIMIT, Racer, use_the_last_byte
from rig import wait_for
from torture import Tell, scale

pytestmark = pytest.mark.torture

CLIENTS = scale(24, 64)


def test_no_race_gets_a_byte_beyond_the_quota(daemon_with, dice: random.Random, tell: Tell) -> None:
    daemon = daemon_with(server={"workers": "4"})
    assert daemon.ctl("user", "set", "alice", "--quota", str(LIMIT)).returncode == 0
    racers = [Racer(daemon, dice.random()) for _ in range(CLIENTS)]
    with Crowd() as crowd:
        for racer in racers:
            crowd.start(racer.log_in)
    with Sampler(daemon) as sampler, Crowd() as crowd:
        for racer in racers:
            crowd.start(racer.race, scale(12, 60))
    outcomes = sum((racer.outcomes for racer in racers), Counter())
    tell(**outcomes, samples=sampler.samples, most_bytes=sampler.most, limit=LIMIT)
    assert len({racer.slot for racer in racers}) > 1  # processes raced, not sessions of one
    assert outcomes["quota"]
    assert LIMIT // 2 < sampler.most <= LIMIT
    wait_for(lambda: not leases(daemon))
    use_the_last_byte(daemon)
