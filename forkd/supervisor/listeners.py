"""The listening sockets: bound by the master, or inherited from a service manager.

Rules
  1. All addresses are bound or none is: a failure closes what was opened for it.
  2. A socket lives on over a reload as long as its address is configured.
  3. A unix socket's file is taken away only where nobody answers behind it, and removed at the end
     only if it is still ours.
  4. Inherited sockets (sd_listen_fds(3)) serve always: as the configured address they are bound to,
     or besides it.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import time
from collections.abc import Callable, Iterable, MutableMapping, Sequence

from forkd.errors import StartError
from forkd.listen import ListenAddress
from forkd.seat import BoundListener

LISTEN_FDS_START = 3
_FAMILIES = {"inet": socket.AF_INET, "inet6": socket.AF_INET6, "unix": socket.AF_UNIX}
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


class Listeners:
    """The sockets in use (`bound`), and how the next set of them is made."""

    def __init__(self, inherited: Iterable[socket.socket] = ()) -> None:
        self.bound: tuple[BoundListener, ...] = ()
        self.skipped: list[str] = []
        self._inherited = [BoundListener(address_of(sock), sock) for sock in inherited]
        self._files: dict[str, tuple[int, int]] = {}

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
        known = {listener.address: listener for listener in (*self._inherited, *self.bound)}
        result: list[BoundListener] = []
        self.skipped = []
        try:
            for address in addresses:
                listener = known.get(address) or self._bind(address, end, in_the_way)
                if listener:
                    result.append(BoundListener(address, listener.socket))
        except StartError:
            self.discard(result)
            raise
        result += [listener for listener in self._inherited if listener not in result]
        if not result:
            raise StartError("; ".join(self.skipped))
        for listener in result:
            listener.socket.listen(backlog)
        return tuple(result)

    def adopt(self, listeners: tuple[BoundListener, ...]) -> None:
        """Use this set from now on; close what is not in it."""
        before, self.bound = self.bound, listeners
        self.discard(before)

    def discard(self, listeners: Iterable[BoundListener]) -> None:
        """Close those that are not in use, and remove their files."""
        for listener in listeners:
            if listener not in self.bound and listener not in self._inherited:
                self._remove_file(listener.address)
                listener.socket.close()

    def close(self) -> None:
        """Close all of them and remove their files."""
        for listener in (*self.bound, *self._inherited):
            self._remove_file(listener.address)
            listener.socket.close()
        self.bound = ()
        self._inherited = []

    def close_all_but(self, kept: tuple[BoundListener, ...]) -> None:
        """For a child: close the sockets it does not serve, and leave the files alone."""
        for listener in (*self.bound, *self._inherited):
            if listener not in kept:
                listener.socket.close()

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
                status = os.stat(address.host)
                self._files[address.host] = (status.st_dev, status.st_ino)
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
            if ours:
                status = os.stat(address.host)
                if (status.st_dev, status.st_ino) == ours:
                    os.unlink(address.host)
        except OSError:
            pass


def inherited_sockets(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """The sockets a service manager passed to this process (sd_listen_fds(3)).

    Takes LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES out of the environment.  Raises StartError for a
    descriptor that is no listening stream socket.
    """
    count, pid = environ.pop("LISTEN_FDS", ""), environ.pop("LISTEN_PID", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    found = []
    for fd in range(LISTEN_FDS_START, LISTEN_FDS_START + int(count)):
        try:
            sock = socket.socket(fileno=fd)
            listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as error:
            raise StartError(f"LISTEN_FDS: descriptor {fd}: {error.strerror}") from None
        if not listening or sock.type != socket.SOCK_STREAM:
            raise StartError(f"LISTEN_FDS: descriptor {fd} is no listening stream socket")
        sock.set_inheritable(False)
        sock.setblocking(False)
        found.append(sock)
    return found


def address_of(sock: socket.socket) -> ListenAddress:
    """Where a socket really listens (a configured port 0 has become a number)."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return ListenAddress("unix", os.fsdecode(name), 0)
    family = "inet6" if sock.family == socket.AF_INET6 else "inet"
    return ListenAddress(family, name[0], name[1])


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
