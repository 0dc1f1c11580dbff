from __future__ import annotations

import os

import pytest

from forkd.errors import StartError
from forkd.listen import ListenAddress
from forkd.supervisor import estate
from forkd.supervisor.estate import (
    Estate,
    HeldChild,
    HeldClient,
    HeldListener,
    HeldLock,
    Settings,
)
from forkd.supervisor.fleet import Fleet
from forkd.supervisor.roster import Spec
from forkd.supervisor.world import LastReload


def a_fleet() -> Fleet:
    """With a former generation, one that was given up, a crash, and a lent slot."""
    fleet, now = Fleet(), 100.0
    for number in range(3):
        fleet.begin(Spec(2, ("runner", "exporter"), 5.0, 6.0, 7), now)
        if number == 1:
            fleet.exited(max(fleet.members), "status 1", now)
        else:
            for key in list(fleet.members):
                fleet.ready(key, now)
    crashed = next(m.key for m in fleet.members.values() if m.generation == 2 and m.slot)
    fleet.exited(crashed, "signal 9 (SIGKILL)", now)
    fleet.lend()
    fleet.foreign = frozenset({60, 61})
    return fleet


def an_estate() -> Estate:
    return Estate(
        version="1.2",
        settings=Settings("/etc/f.toml", "[server]\n", 3.5, {"server.user": "", "accounts.max": 7}),
        serving=2,
        loaded_at=1e9,
        last=LastReload(1e9, "ok", "done", 0.5),
        started=10.5,
        begun=99.0,
        tag=12,
        fleet=a_fleet(),
        children=(HeldChild(4, "worker", 3, 1, 999, 20, 1e9, "", (b"\x00one", b"two")),),
        listeners=(
            HeldListener(ListenAddress("inet", "127.0.0.1", 21, "ftp"), 21, inherited=True),
            HeldListener(ListenAddress("unix", "/run/s", 0), 22, file=(1, 2)),
        ),
        locks=(HeldLock("/var/lock", 23),),
        detached=True,
        control=24,
        clients=(HeldClient(25, b'{"op":', False), HeldClient(26, b"", True)),
        served=Settings("/etc/f.toml", "[log]\n", 2.5, {"server.user": "", "accounts.max": 7}),
        deaths={("worker", 2): "signal 9 (SIGKILL)"},
    )


def test_it_is_read_as_it_was_written() -> None:
    left = an_estate()
    fd = estate.write(left)
    assert not os.get_inheritable(fd)
    environ = {estate.VARIABLE: str(fd), "HOME": "/"}
    assert estate.take(environ) == left
    assert environ == {"HOME": "/"}
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    assert sorted(left.descriptors) == [20, 21, 22, 23, 24, 25, 26]


def test_a_fleet_goes_on_where_it_was() -> None:
    left = an_estate()
    read = estate.read(estate.write(left)).fleet
    assert read.tick(200.0, {}) == left.fleet.tick(200.0, {})
    assert read == left.fleet
    assert -1 in {member.generation for member in read.members.values()}


def test_what_was_not_left_to_us_is_not_taken() -> None:
    assert estate.take({}) is None
    assert estate.take({estate.VARIABLE: "none"}) is None


@pytest.mark.parametrize(
    "data", [b"", b"forkd estate 999\n\x80", b"forkd estate 1\n", b"forkd estate 1\n\x80"]
)
def test_another_form_needs_a_restart(data: bytes) -> None:
    fd = os.memfd_create("test")
    os.write(fd, data)
    with pytest.raises(StartError, match="restart forkd"):
        estate.read(fd)


def test_a_descriptor_that_is_none_is_told() -> None:
    with pytest.raises(StartError, match="restart forkd"):
        estate.take({estate.VARIABLE: "987654"})
