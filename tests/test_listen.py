from __future__ import annotations

import pytest

from forkd.listen import ListenAddress, parse_listen


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
