"""Connections come in: one at a time, in turn with the other workers.

Rules
  1. Who may not come in is told why by his door, as long as not too many are being told; further
     ones are just closed.
  2. The kernel wakes one worker for each connection, the first in its queue of exclusive waiters.
     After each one we queue up behind the others, or the first would get nearly everything.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

from forkd.errors import Refusal
from forkd.listen import ListenAddress
from forkd.seat import BoundListener
from forkd.serving.accept import describe_peer, session_ids
from forkd.serving.admission import arrive
from forkd.serving.core import Core, Peer
from forkd.serving.session import Activity, Door, Session
from forkd.serving.sessions import Sessions

_TURNED_AWAY_MOST = 64
"""Refused connections that are told so at one time."""
_CLOSED = "the server takes no new sessions for the moment; try again later"
_ACCEPTABLE = select.EPOLLIN | select.EPOLLEXCLUSIVE


class OpenDoor(Protocol):
    """Makes the door of an address; with a refusal, it tells that and no more.

    Raises OSError, ConnectionError.
    """

    def __call__(
        self,
        address: ListenAddress,
        peer: Peer,
        sock: socket.socket,
        activity: Activity,
        refusal: Refusal | None,
    ) -> Door: ...


class Reception:
    """On the loop's thread only."""

    def __init__(
        self,
        core: Core,
        sessions: Sessions,
        epoll: select.epoll,
        listeners: Iterable[BoundListener],
        open_door: OpenDoor,
        slot: int,
    ) -> None:
        self.closed = False
        """Newcomers are turned away."""
        self.turned_away = 0
        """Sessions there are that tell a refusal."""
        self._core = core
        self._log = core.log
        self._sessions = sessions
        self._epoll = epoll
        self._listeners = {held.socket.fileno(): held for held in listeners}
        self._open_door = open_door
        self._next_id = session_ids(slot)
        self._accepting = False

    def on_event(self, fd: int) -> None:
        """Somebody waits, where the descriptor is a listener's."""
        held = self._listeners.get(fd)
        if held is None:
            return
        if len(self._sessions) >= self._core.config.limits.sessions_per_worker:
            self.pause()
            return
        try:
            sock, _ = held.socket.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError as error:
            self._log.warning("accept-failed", error=str(error), listener=str(held.address))
            self.pause()
            return
        try:
            self._open(sock, held)
        except OSError as error:  # epoll's memory, a descriptor for the session
            sock.close()
            self._log.warning("accept-failed", error=str(error), listener=str(held.address))
        if self._accepting:
            self._epoll.unregister(held.socket)
            self._epoll.register(held.socket, _ACCEPTABLE)

    def again(self) -> None:
        """Watch the listeners, anew where that is so already.

        If a worker is stopped or dies on its way to accept(2), nobody else is woken: the
        connection would wait for the next one to come.  Who registers hears of what waits.
        """
        for fd in self._listeners:
            if self._accepting:
                self._epoll.unregister(fd)
            self._epoll.register(fd, _ACCEPTABLE)
        self._accepting = True

    def pause(self) -> None:
        """Others may accept meanwhile, until `again`."""
        if not self._accepting:
            return
        self._accepting = False
        for fd in self._listeners:
            self._epoll.unregister(fd)

    def end(self) -> None:
        """Nobody comes in here any more."""
        self.pause()
        for held in self._listeners.values():
            held.socket.close()
        self._listeners.clear()

    def _open(self, sock: socket.socket, held: BoundListener) -> None:
        sock.setblocking(False)
        try:
            known = describe_peer(sock, held.address)
        except OSError:
            sock.close()
            return
        self._core.row.add("connections_total")
        release, refusal = self._arrive(known.origin)
        if release is None:
            sock.close()
            return
        ident = self._next_id()
        activity = Activity()
        fd = sock.fileno()
        wake = partial(self._sessions.wake, fd, ident)
        name = "native" if held.address.door == "native" else "ftp"
        peer = Peer(ident, known.address, known.origin, known.trusted, name, wake)
        try:
            door = self._open_door(held.address, peer, sock, activity, refusal)
            self._sessions.open(
                Session(ident, known.address, time.time(), fd, door, activity, release)
            )
        except OSError:
            release()
            raise

    def _arrive(self, origin: str) -> tuple[Callable[[], None] | None, Refusal | None]:
        """(what gives back the connection's count, the refusal that it is to be told).

        Without the first, there are too many to tell already.
        """
        try:
            if self.closed:
                raise Refusal("busy", _CLOSED)
            seat = arrive(self._core.limits, self._core.config, origin)
        except Refusal as refusal:
            if self.turned_away >= _TURNED_AWAY_MOST:
                self._core.row.add(f"refusals_total:{refusal.code}")
                return None, refusal
            self.turned_away += 1
            return self._left, refusal
        return (seat.leave if seat is not None else _nothing), None

    def _left(self) -> None:
        self.turned_away -= 1


def _nothing() -> None:
    """What a connection gives back that was not counted."""
