from __future__ import annotations

import pytest

from forkd.listen import (
    ListenAddress,
    PortRange,
    address_for,
    parse_listen,
    parse_masquerade,
    parse_ports,
)


@pytest.mark.parametrize(
    ("text", "address", "shown"),
    [
        ("0.0.0.0:3675", ListenAddress("inet", "0.0.0.0", 3675), "0.0.0.0:3675"),
        (":0", ListenAddress("inet", "0.0.0.0", 0), "0.0.0.0:0"),
        ("[::]:65535", ListenAddress("inet6", "::", 65535), "[::]:65535"),
        ("[0:0::1]:1", ListenAddress("inet6", "::1", 1), "[::1]:1"),
        ("unix:/run/x.sock", ListenAddress("unix", "/run/x.sock", 0), "unix:/run/x.sock"),
    ],
)
def test_addresses(text: str, address: ListenAddress, shown: str) -> None:
    parsed = parse_listen(text)
    assert parsed == address
    assert str(parsed) == shown
    assert parse_listen(str(parsed)) == parsed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3675",
        "localhost:3675",
        "1.2.3.4",
        "1.2.3.4:",
        "1.2.3.4:65536",
        "1.2.3.4:-1",
        "1.2.3:1",
        "::1:3675",
        "[::1]",
        "[1.2.3.4]:1",
        "[::1:1",
        "unix:",
        "unix:relative.sock",
        "unix:/" + "x" * 107,
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError):
        parse_listen(text)


def test_the_longest_path_of_a_unix_socket() -> None:
    path = "/" + "x" * 106
    assert parse_listen(f"unix:{path}").host == path


def test_port_ranges() -> None:
    assert parse_ports("50000-50009") == PortRange(50000, 50009)
    assert len(parse_ports("50000 - 50009")) == 10
    assert parse_ports("") == PortRange()


@pytest.mark.parametrize("text", ["50000", "1-50000", "50009-50000", "60000-70000", "a-b", 50000])
def test_what_is_no_port_range(text: object) -> None:
    with pytest.raises(ValueError, match="not a range of ports"):
        parse_ports(text)


def test_the_narrowest_network_tells_the_address() -> None:
    known = tuple(
        parse_masquerade(text)
        for text in ("203.0.113.7", "192.168.1.2 for 192.168.0.0/16", "own for 192.168.5.0/24")
    )
    assert address_for("8.8.8.8", known) == "203.0.113.7"
    assert address_for("192.168.1.77", known) == "192.168.1.2"
    assert address_for("192.168.5.77", known) is None
    assert address_for("::1", known) is None
    assert address_for("8.8.8.8", ()) is None


@pytest.mark.parametrize("text", ["", "example.org", "1.2.3.4 for x", "1.2.3.4 for 10.0.0.1/8"])
def test_what_is_no_masquerade(text: str) -> None:
    with pytest.raises(ValueError, match="is not an IPv4 address"):
        parse_masquerade(text)
