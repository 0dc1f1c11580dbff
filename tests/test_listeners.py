from __future__ import annotations

import dataclasses
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from forkd.errors import StartError
from forkd.listen import ListenAddress, parse_listen
from forkd.seat import BoundListener
from forkd.supervisor.estate import HeldListener
from forkd.supervisor.fdstore import SocketStore
from forkd.supervisor.inherited import Inherited, address_of
from forkd.supervisor.listeners import Listeners
from forkd.supervisor.notify import Notifier

ANY_PORT = ListenAddress("inet", "127.0.0.1", 0)


@pytest.fixture
def listeners() -> Iterator[Listeners]:
    listeners = Listeners()
    yield listeners
    listeners.close()


def unix(path: Path) -> ListenAddress:
    return parse_listen(f"unix:{path}")


def connect(address: ListenAddress) -> None:
    family = {"inet": socket.AF_INET, "inet6": socket.AF_INET6, "unix": socket.AF_UNIX}
    with socket.socket(family[address.family]) as sock:
        unix = address.family == "unix"
        sock.connect(address.host if unix else (address.host, address.port))


def adopt(listeners: Listeners, *addresses: ListenAddress) -> list[ListenAddress]:
    listeners.adopt(listeners.open(addresses, 16))
    return [address_of(listener.socket) for listener in listeners.bound]


def test_all_families_are_bound(listeners: Listeners, tmp_path: Path) -> None:
    path = tmp_path / "s"
    real = adopt(listeners, ANY_PORT, ListenAddress("inet6", "::1", 0), unix(path))
    for address in real:
        connect(address)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666


def test_an_address_can_pass_to_another_door(listeners: Listeners) -> None:
    (real,) = adopt(listeners, ANY_PORT)
    (before,) = listeners.bound
    adopt(listeners, dataclasses.replace(ANY_PORT, door="ftp"))
    (after,) = listeners.bound
    assert after.socket is before.socket
    assert after.address.door == "ftp"
    connect(real)


def test_ipv6_leaves_ipv4_to_its_own_listener(listeners: Listeners) -> None:
    (four,) = adopt(listeners, ListenAddress("inet", "0.0.0.0", 0))
    adopt(
        listeners,
        ListenAddress("inet", "0.0.0.0", 0),
        ListenAddress("inet6", "::", four.port),
    )
    connect(ListenAddress("inet6", "::1", four.port))


def test_a_taken_address_is_named_and_nothing_stays_bound(
    listeners: Listeners, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=rf"127\.0\.0\.1:{port}: address already in use"):
            listeners.open([unix(tmp_path / "s"), ListenAddress("inet", "127.0.0.1", port)], 16)
    assert not (tmp_path / "s").exists()
    assert listeners.bound == ()


def test_a_taken_address_is_waited_for(listeners: Listeners) -> None:
    script = (
        "import socket, sys, time\n"
        "s = socket.create_server(('127.0.0.1', 0))\n"
        "print(s.getsockname()[1], flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdin
        assert holder.stdout
        address = ListenAddress("inet", "127.0.0.1", int(holder.stdout.readline()))
        with pytest.raises(StartError):
            listeners.open([address], 16)
        holder.stdin.close()
        listeners.adopt(listeners.open([address], 16, patience=30))
    connect(address)


def test_what_is_in_the_way_is_waited_for_as_long_as_it_is(listeners: Listeners) -> None:
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as holder:
        address = ListenAddress("inet", "127.0.0.1", holder.getsockname()[1])

        def in_the_way() -> bool:
            asked.append(True)
            if len(asked) == 3:
                holder.close()
            return True

        listeners.adopt(listeners.open([address], 16, in_the_way=in_the_way))
    assert len(asked) == 3
    connect(address)


def test_a_stale_socket_is_replaced(listeners: Listeners, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    adopt(listeners, unix(path))
    connect(unix(path))


def test_a_socket_that_answers_is_left_alone(listeners: Listeners, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(StartError, match="already in use"):
            listeners.open([unix(path)], 16)
        connect(unix(path))


def test_a_file_in_the_way_is_left_alone(listeners: Listeners, tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("data")
    with pytest.raises(StartError, match="is no socket"):
        listeners.open([unix(path)], 16)
    assert path.read_text() == "data"


def test_what_stays_configured_stays_open(listeners: Listeners, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    before = adopt(listeners, ANY_PORT, unix(one))
    after = adopt(listeners, unix(two), ANY_PORT)
    assert after == [unix(two), before[0]]
    assert not one.exists()
    connect(before[0])


def test_a_set_that_is_given_up_leaves_those_in_use(listeners: Listeners, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    adopt(listeners, unix(one))
    listeners.discard(listeners.open([unix(one), unix(two)], 16))
    assert not two.exists()
    connect(unix(one))


def test_a_set_that_is_given_up_after_the_end_leaves_the_files(tmp_path: Path) -> None:
    """A stop amid a reload: clients wait there for the next start, the manager has the socket."""
    path = tmp_path / "s"
    listeners = Listeners(store=SocketStore(Notifier(str(tmp_path / "manager"))))
    adopt(listeners, unix(path))
    coming = listeners.open([unix(path), unix(tmp_path / "new")], 16)
    listeners.close()
    listeners.discard(coming)
    assert path.exists()
    assert not (tmp_path / "new").exists()


def test_only_our_own_file_is_removed_at_the_end(listeners: Listeners, tmp_path: Path) -> None:
    path = tmp_path / "s"
    adopt(listeners, unix(path))
    path.unlink()
    with socket.socket(socket.AF_UNIX) as successor:
        successor.bind(str(path))
        listeners.close()
        assert path.exists()


def test_another_program_holds_the_same_sockets(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.create_server(("127.0.0.1", 0)) as given:
        mine = socket.socket(fileno=os.dup(given.fileno()))
        before = Listeners(Inherited(given=(BoundListener(address_of(mine), mine),)))
        addresses = (dataclasses.replace(ANY_PORT, door="ftp"), unix(path))
        before.adopt(before.open(addresses, 16))
        held = [with_own_descriptor(each) for each in before.held()]
        after = Listeners.taken_over(held)
        assert [b.address for b in after.bound] == [b.address for b in before.bound]
        real = [address_of(b.socket) for b in after.bound]
        assert real == [address_of(b.socket) for b in before.bound]
        before.close_all_but(())  # as exec does: the files stay
        again = after.open(addresses[:1], 16)
        assert [address_of(b.socket) for b in again] == [real[0], address_of(given)]
        for address in real:
            connect(address)
        after.adopt(again)
        assert not path.exists()
        connect(real[0])
        after.close()
    with pytest.raises(ConnectionRefusedError):
        connect(real[0])


@pytest.mark.parametrize("door", ["", "native"])
def test_another_program_knows_the_door_that_a_socket_unit_names(door: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as given:
        mine = socket.socket(fileno=os.dup(given.fileno()))
        address = address_of(mine, door)
        before = Listeners(Inherited(given=(BoundListener(address, mine),)))
        before.adopt(before.open([dataclasses.replace(address, door="native")], 16))
        after = Listeners.taken_over([with_own_descriptor(each) for each in before.held()])
        before.close()
        other = [dataclasses.replace(address, door="ftp")]
        if door:
            with pytest.raises(StartError, match="a socket unit serves native"):
                after.open(other, 16)
        else:
            assert [each.address.door for each in after.open(other, 16)] == ["ftp"]
        after.close()


def with_own_descriptor(held: HeldListener) -> HeldListener:
    return msgspec.structs.replace(held, fd=os.dup(held.fd))
