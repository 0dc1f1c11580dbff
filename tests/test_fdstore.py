from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from forkd.listen import ListenAddress, parse_listen
from forkd.seat import BoundListener
from forkd.supervisor.fdstore import SocketStore, store_name
from forkd.supervisor.inherited import Inherited
from forkd.supervisor.listeners import Listeners
from forkd.supervisor.notify import Notifier


class Manager:
    """What a service manager's socket was told of stored descriptors."""

    def __init__(self, sock: socket.socket, address: str) -> None:
        self._socket = sock
        self.notifier = Notifier(address)

    def told(self) -> list[str]:
        told = []
        with contextlib.suppress(BlockingIOError):
            while True:
                text, fds, _, _ = socket.recv_fds(self._socket, 4096, 4)
                for fd in fds:
                    socket.socket(fileno=fd).close()
                told.append(text.decode().replace("\n", " "))
        return told


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "n"))
        sock.setblocking(False)
        yield Manager(sock, str(tmp_path / "n"))


def unix(path: Path) -> ListenAddress:
    return parse_listen(f"unix:{path}")


def stored(path: Path) -> str:
    return f"FDSTORE=1 FDNAME={store_name(unix(path))}"


def dropped(path: Path) -> str:
    return f"FDSTOREREMOVE=1 FDNAME={store_name(unix(path))}"


def test_names_are_fit_for_the_manager() -> None:
    for text in ("0.0.0.0:21", "[::1]:3675", "unix:/run/ä b\x7f/s", f"unix:/{'é' * 50}"):
        name = store_name(parse_listen(text))
        assert name.isascii()
        assert name.isprintable()
        assert ":" not in name
        assert len(name) <= 255
    assert store_name(parse_listen("[::1]:36")) != store_name(parse_listen("[::]:136"))


def test_what_is_bound_is_left_with_the_manager(manager: Manager, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    listeners = Listeners(store=SocketStore(manager.notifier))
    listeners.adopt(listeners.open([unix(one), ListenAddress("inet", "127.0.0.1", 0)], 16))
    assert manager.told() == [stored(one)]
    listeners.adopt(listeners.open([unix(one), unix(two)], 16))
    assert manager.told() == [stored(two)]
    listeners.adopt(listeners.open([unix(two)], 16))
    assert manager.told() == [dropped(one)]
    listeners.close()
    assert manager.told() == []
    assert two.is_socket()  # clients wait there
    assert not one.exists()


def test_at_the_end_for_good_nothing_is_left(manager: Manager, tmp_path: Path) -> None:
    path = tmp_path / "one"
    listeners = Listeners(store=SocketStore(manager.notifier))
    listeners.adopt(listeners.open([unix(path)], 16))
    listeners.close(for_good=True)
    assert manager.told() == [stored(path), dropped(path)]
    assert not path.exists()


def kept(*paths: Path) -> Iterator[BoundListener]:
    for path in paths:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(path))
        sock.listen()
        yield BoundListener(unix(path), sock)


def test_what_was_kept_is_used_or_dropped(manager: Manager, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    found = tuple(kept(one, two))
    names = frozenset(store_name(listener.address) for listener in found)
    listeners = Listeners(
        Inherited(kept=found, left=names | {"kept-lost"}), SocketStore(manager.notifier)
    )
    assert manager.told() == ["FDSTOREREMOVE=1 FDNAME=kept-lost"]
    listeners.adopt(listeners.open([unix(one)], 16))
    assert manager.told() == [dropped(two)]
    assert not two.exists()
    assert [listener.socket for listener in listeners.bound] == [found[0].socket]
    assert listeners.given == ()
    listeners.close(for_good=True)
    assert not one.exists()


def test_a_start_that_fails_leaves_what_was_kept(manager: Manager, tmp_path: Path) -> None:
    path = tmp_path / "one"
    found = tuple(kept(path))
    names = frozenset({store_name(unix(path))})
    listeners = Listeners(Inherited(kept=found, left=names), SocketStore(manager.notifier))
    with pytest.raises(Exception, match="cannot listen"):
        listeners.open([unix(path), unix(tmp_path / "no" / "folder")], 16)
    listeners.close()
    assert path.is_socket()
    assert manager.told() == []


def test_a_given_socket_is_not_stored(manager: Manager, tmp_path: Path) -> None:
    (given,) = kept(tmp_path / "one")
    listeners = Listeners(Inherited(given=(given,)), SocketStore(manager.notifier))
    listeners.adopt(listeners.open([given.address], 16))
    assert listeners.given == listeners.bound
    assert manager.told() == []
    listeners.close(for_good=True)
    assert (tmp_path / "one").is_socket()  # its unit's
