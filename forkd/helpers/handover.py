"""A listening socket that outlives its process: the successor asks for the descriptor.

Rules
  1. Who serves offers the descriptor on a local socket; who starts binds the address, or, when it
     is in use, asks there.  Both then accept from one queue until the old one closes: no
     connection is refused or reset.  With SO_REUSEPORT each would have a queue of its own, the old
     one's is reset when it leaves, and a foreign program of our user would share the port unseen.
  2. Only a process of our own user (or root) gets it.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import time
from dataclasses import dataclass

from forkd.errors import StartError
from forkd.listen import ListenAddress
from forkd.peercred import is_trusted

TAKE_OVER_SECONDS = 2.0
_BACKLOG = 64


def open_listener(address: ListenAddress, path: str) -> socket.socket:
    """Listen on a TCP address, or take the socket over from the process that offers it at `path`.

    Raises StartError: the address cannot be had.
    """
    deadline = time.monotonic() + TAKE_OVER_SECONDS
    while True:
        try:
            return _bind(address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise StartError(f"cannot listen on {address}: {error.strerror}") from None
        taken = _take_over(path, address)
        if taken is not None:
            return taken
        time.sleep(0.05)  # the one before us may just be leaving


def _bind(address: ListenAddress) -> socket.socket:
    family = socket.AF_INET6 if address.family == "inet6" else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address.host, address.port))
        listener.listen(_BACKLOG)
        listener.setblocking(False)  # two processes may be woken for one connection
    except BaseException:
        listener.close()
        raise
    return listener


def _take_over(path: str, address: ListenAddress) -> socket.socket | None:
    """The listening socket for this address from the exporter at `path`, if it has it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asking:
        asking.settimeout(TAKE_OVER_SECONDS)
        try:
            asking.connect(path)
            _, fds, _, _ = socket.recv_fds(asking, 16, 1)
        except OSError:
            return None
    if not fds:
        return None
    taken = socket.socket(fileno=fds[0])
    if taken.family == socket.AF_UNIX or taken.getsockname()[:2] != (address.host, address.port):
        taken.close()
        return None
    taken.setblocking(False)
    taken.set_inheritable(False)  # recv_fds does not heed its flags
    return taken


@dataclass(frozen=True, slots=True)
class Offer:
    """The local socket on which the listening one is handed over to a process of our own user."""

    path: str
    listener: socket.socket
    inode: int

    @classmethod
    def make(cls, path: str) -> Offer:
        """Takes the place of an earlier one in one step.  Raises StartError."""
        fresh = path + ".new"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            _remove_socket(fresh)
            listener.bind(fresh)
            os.chmod(fresh, 0o600)
            listener.listen(4)
            listener.setblocking(False)
            inode = os.stat(fresh).st_ino
            os.rename(fresh, path)
        except OSError as error:
            listener.close()
            raise StartError(f"{path}: cannot be made: {error.strerror or error}") from None
        return cls(path, listener, inode)

    def answer(self, shared: socket.socket) -> None:
        """Send the descriptor to one asker."""
        try:
            asker, _ = self.listener.accept()
        except OSError:
            return
        with asker:
            if not is_trusted(asker):
                return
            try:
                socket.send_fds(asker, [b"listener"], [shared.fileno()], socket.MSG_DONTWAIT)
            except OSError:
                pass

    def withdraw(self) -> None:
        """Remove the path, unless it is a successor's by now."""
        self.listener.close()
        try:
            if os.stat(self.path).st_ino == self.inode:
                os.unlink(self.path)
        except OSError:
            pass


def _remove_socket(path: str) -> None:
    try:
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)
    except FileNotFoundError:
        pass
