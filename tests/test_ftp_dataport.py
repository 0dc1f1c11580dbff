"""Ports of passive data connections: any of the range, in an order that nobody can foretell."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from forkd.config import Log as LogSettings
from forkd.doors.ftp.dataport import DataPort
from forkd.ftp.replies import Negative
from forkd.listen import PortRange
from forkd.log import open_log

HOST = "127.0.0.1"


@pytest.fixture
def port() -> Iterator[DataPort]:
    with socket.create_server((HOST, 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        control, _ = listener.accept()
    with client, control:
        opened = DataPort(control, "1-2-3", open_log(LogSettings(), process="worker"))
        yield opened
        opened.close()


@pytest.fixture
def ports() -> PortRange:
    """A few in a row that nobody has, below those that the kernel gives away."""
    for first in range(20000, 30000, 8):
        found = PortRange(first, first + 7)
        held = taken(found)
        for sock in held:
            sock.close()
        if len(held) == len(found):
            return found
    pytest.skip("no ports are free")


def taken(ports: PortRange) -> list[socket.socket]:
    """Those that are free, bound and listening."""
    held = []
    for number in range(ports.first, ports.last + 1):
        try:
            held.append(socket.create_server((HOST, number), backlog=1))
        except OSError:
            continue
    return held


def test_every_port_of_the_range_is_used_and_none_besides(port: DataPort, ports: PortRange) -> None:
    seen = [port.listen(ports) for _ in range(200)]
    assert set(seen) == set(range(ports.first, ports.last + 1))
    assert seen[:100] != seen[100:]


def test_the_last_free_port_is_found_and_then_there_is_none(
    port: DataPort, ports: PortRange
) -> None:
    held = taken(ports)
    free = held.pop(3)
    number = free.getsockname()[1]
    free.close()
    try:
        assert port.listen(ports) == number
        with socket.create_connection((HOST, number)) as client:
            sock = port.take()
            assert sock is not None
            assert sock.getpeername() == client.getsockname()
            sock.close()
        with socket.create_server((HOST, number)), pytest.raises(Negative) as told:
            port.listen(ports)
        assert told.value.code == 425
    finally:
        for sock in held:
            sock.close()


def test_without_a_range_the_kernel_chooses(port: DataPort) -> None:
    assert port.listen(PortRange()) >= 1024


def test_the_addresses_are_those_of_the_control_connection(port: DataPort) -> None:
    assert (port.local_host, port.peer_host, port.protocol) == (HOST, HOST, 1)
