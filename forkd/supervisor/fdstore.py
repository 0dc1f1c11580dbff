"""The listening sockets, left with the service manager: FDSTORE=1 in sd_notify(3).

The manager keeps them open while no process of ours does, and passes them to the next one
(inherited.py).  So a client that connects in between waits; nobody is refused.  A socket unit's
sockets are the manager's already.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from urllib.parse import quote

from forkd.listen import ListenAddress
from forkd.seat import BoundListener
from forkd.supervisor.inherited import KEPT, Inherited
from forkd.supervisor.notify import Notifier

_NAME_MAX = 255
"""Bytes of FDNAME=, printable ASCII without a colon."""


class SocketStore:
    """What is left with the manager, by name.  Without a manager nothing is."""

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self._names: set[str] = set()

    @property
    def exists(self) -> bool:
        """Whether somebody may be keeping the sockets; he does not tell."""
        return self._notifier.heard

    def begin(self, inherited: Inherited) -> None:
        """What an earlier process left; what cannot be reached any more is taken back."""
        self._names = {store_name(listener.address) for listener in inherited.kept}
        for name in inherited.left - self._names:
            self._notifier.forget(name)

    def resume(self, listeners: Iterable[BoundListener]) -> None:
        """These were left with it by the program before this one."""
        self._names = set(_by_name(listeners))

    def hold(self, listeners: Iterable[BoundListener]) -> None:
        """Leave exactly these with the manager, but for those at a port the kernel chose."""
        wanted = _by_name(listeners)
        for name in self._names - wanted.keys():
            self._notifier.forget(name)
        for name in wanted.keys() - self._names:
            self._notifier.store(name, wanted[name])
        self._names = set(wanted)


def _by_name(listeners: Iterable[BoundListener]) -> dict[str, socket.socket]:
    fixed = [each for each in listeners if each.address.port or each.address.family == "unix"]
    return {store_name(listener.address): listener.socket for listener in fixed}


def store_name(address: ListenAddress) -> str:
    """An address as FDNAME=; no two addresses have the same, but for very long paths."""
    return KEPT + quote(str(address), safe="/[]")[len(KEPT) - _NAME_MAX :]
