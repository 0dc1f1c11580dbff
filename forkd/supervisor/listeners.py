"""The listening sockets: bound by the master, or inherited from a service manager.

Rules
  1. All addresses are bound or none is: a failure closes what was opened for it.
  2. A socket lives on over a reload as long as its address is configured.
  3. A unix socket's file is taken away only where nobody answers behind it, and removed at the end
     only if it is still ours.
  4. A configured address is served by the inherited socket that is bound to exactly it, where
     there is one.  Given sockets (inherited.py) serve always, at no configured address too; kept
     ones serve only what the configuration names.
  5. What is bound here is left with the service manager, where there is one (fdstore.py).  Then the
     sockets' files stay at the end: clients wait at them for the next start.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from forkd.errors import StartError
from forkd.listen import ListenAddress
from forkd.seat import BoundListener
from forkd.supervisor.estate import HeldListener
from forkd.supervisor.fdstore import SocketStore
from forkd.supervisor.inherited import NOTHING_INHERITED, Inherited
from forkd.supervisor.notify import Notifier

_FAMILIES = {"inet": socket.AF_INET, "inet6": socket.AF_INET6, "unix": socket.AF_UNIX}
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


class Listeners:
    """The sockets in use (`bound`), and how the next set of them is made."""

    def __init__(
        self, inherited: Inherited = NOTHING_INHERITED, store: SocketStore | None = None
    ) -> None:
        self.bound: tuple[BoundListener, ...] = ()
        self.skipped: list[str] = []
        self._store = store or SocketStore(Notifier())
        self._store.begin(inherited)
        self._given = inherited.given
        self._kept = inherited.kept
        self._files = {
            listener.address.host: _identity(listener.address.host)
            for listener in self._kept
            if listener.address.family == "unix"
        }

    @property
    def given(self) -> tuple[BoundListener, ...]:
        """Those in use that a socket unit gave."""
        sockets = {listener.socket for listener in self._given}
        return tuple(listener for listener in self.bound if listener.socket in sockets)

    def open(
        self,
        addresses: Sequence[ListenAddress],
        backlog: int,
        patience: float = 0.0,
        in_the_way: Callable[[], bool] = lambda: False,
    ) -> tuple[BoundListener, ...]:
        """Sockets for all addresses: those in use, inherited ones, and new ones for the rest.

        While an address is in use, waits up to `patience` seconds for orphans of a killed daemon
        to let go of it, and longer while `in_the_way` says that there is one that will.

        Raises StartError naming the address.  Then `adopt` or `discard` them.
        """
        end = time.monotonic() + patience
        known = {each.address: each for each in (*self._kept, *self.bound, *self._given)}
        result: list[BoundListener] = []
        self.skipped = []
        try:
            for address in addresses:
                listener = known.get(address) or self._bind(address, end, in_the_way)
                if listener:
                    result.append(BoundListener(address, listener.socket))
                    self._refuse_another_door(address)
        except StartError:
            self.discard(result)
            raise
        served = {listener.socket for listener in result}
        result += [_with_door(each) for each in self._given if each.socket not in served]
        if not result:
            raise StartError("; ".join(self.skipped))
        for listener in result:
            listener.socket.listen(backlog)
        return tuple(result)

    def held(self) -> tuple[HeldListener, ...]:
        """All of them, for the program that takes this one's place."""
        used = {listener.socket for listener in self.bound}
        doors = {listener.socket: listener.address.door for listener in self._given}
        return tuple(
            HeldListener(
                each.address,
                each.socket.fileno(),
                each.socket in doors,
                self._files.get(each.address.host) if each.address.family == "unix" else None,
                doors.get(each.socket, ""),
            )
            for each in (*self.bound, *(g for g in self._given if g.socket not in used))
        )

    @classmethod
    def taken_over(
        cls, held: Iterable[HeldListener], store: SocketStore | None = None
    ) -> Listeners:
        """Those that the program before this one held; all are in use."""
        listeners = cls(store=store)
        for each in held:
            listener = BoundListener(each.address, socket.socket(fileno=each.fd))
            listener.socket.setblocking(False)
            listeners.bound += (listener,)
            if each.inherited:
                address = replace(each.address, door=each.given_door)
                listeners._given += (BoundListener(address, listener.socket),)
            if each.file:
                listeners._files[each.address.host] = each.file
        given = {listener.socket for listener in listeners._given}
        listeners._store.resume(each for each in listeners.bound if each.socket not in given)
        return listeners

    def adopt(self, listeners: tuple[BoundListener, ...]) -> None:
        """Use this set from now on; close what is not in it."""
        before = (*self.bound, *self._kept)
        self.bound, self._kept = listeners, ()
        given = {listener.socket for listener in self._given}
        self._store.hold(each for each in listeners if each.socket not in given)
        self.discard(before)

    def discard(self, listeners: Iterable[BoundListener]) -> None:
        """Close those that are not in use, and remove their files.

        Nothing is left to do for those that `close` has closed: clients may wait at their files.
        """
        used = {listener.socket for listener in self._all()}
        for listener in listeners:
            if listener.socket not in used and listener.socket.fileno() >= 0:
                self._remove_file(listener.address)
                listener.socket.close()

    def close(self, for_good: bool = False) -> None:
        """Close all of them.  Their files go too, unless clients may wait there for the next start.

        `for_good`: none is expected, nobody shall wait.
        """
        if for_good:
            self._store.hold(())
        for listener in self._all():
            if for_good or not self._store.exists:
                self._remove_file(listener.address)
            listener.socket.close()
        self.bound = self._given = self._kept = ()

    def close_all_but(self, served: tuple[BoundListener, ...]) -> None:
        """For a child: close the sockets it does not serve, and leave the files alone."""
        kept = {listener.socket for listener in served}
        for listener in self._all():
            if listener.socket not in kept:
                listener.socket.close()

    def _all(self) -> tuple[BoundListener, ...]:
        return (*self.bound, *self._given, *self._kept)

    def _refuse_another_door(self, address: ListenAddress) -> None:
        for given in self._given:
            if given.address == address and given.address.door not in ("", address.door):
                raise StartError(
                    f"listen.{address.door} names {address}, where a socket unit serves "
                    f"{given.address.door} (its FileDescriptorName=): change one of them"
                )

    def _bind(
        self, address: ListenAddress, end: float, in_the_way: Callable[[], bool]
    ) -> BoundListener | None:
        while True:
            try:
                return BoundListener(address, self._new_socket(address))
            except OSError as error:
                in_use = error.errno == errno.EADDRINUSE
                if in_use and (in_the_way() or time.monotonic() < end):
                    time.sleep(0.1)
                    continue
                reason = _reason(address, error)
                if error.errno in _NO_IPV6 and address.host == "::":
                    # Without IPv6 there is nobody to serve there; "any address" is met.
                    self.skipped.append(reason)
                    return None
                raise StartError(reason) from None

    def _new_socket(self, address: ListenAddress) -> socket.socket:
        sock = socket.socket(
            _FAMILIES[address.family],
            socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
        )
        try:
            if address.family == "unix":
                _remove_stale(address.host)
                sock.bind(address.host)
                self._files[address.host] = _identity(address.host)
                os.chmod(address.host, 0o666)  # log-in decides who may  # noqa: S103
            else:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if address.family == "inet6":
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind((address.host, address.port))
        except BaseException:
            sock.close()
            raise
        return sock

    def _remove_file(self, address: ListenAddress) -> None:
        ours = self._files.pop(address.host, None) if address.family == "unix" else None
        try:
            if ours and _identity(address.host) == ours:
                os.unlink(address.host)
        except OSError:
            pass


def _remove_stale(path: str) -> None:
    """Make room for a socket.  Raises OSError: EADDRINUSE where somebody answers."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.EEXIST, "is in the way and is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except FileNotFoundError:
            return
        except BlockingIOError:  # its queue is full: somebody is there
            pass
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _with_door(given: BoundListener) -> BoundListener:
    """At no configured address: without a name it is the native door's."""
    door = given.address.door or "native"
    return BoundListener(replace(given.address, door=door), given.socket)


def _reason(address: ListenAddress, error: OSError) -> str:
    hint = ""
    if error.errno == errno.EADDRINUSE:
        hint = f" by another program; stop that one, or change listen.{address.door}"
    elif error.errno == errno.EACCES and 0 < address.port < 1024:
        hint = "; ports below 1024 need CAP_NET_BIND_SERVICE, or a start by root"
    elif error.errno == errno.EADDRNOTAVAIL:
        hint = "; this machine has no such address"
    text = (error.strerror or str(error)).lower()
    return f"cannot listen on {address}: {text}{hint}"
