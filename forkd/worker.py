"""A worker: accepts, and serves its sessions on one epoll loop with a pool beside it.

Rules
  1. Everything that is per process is made here, after the fork.
  2. Told to drain, or without a master, it takes nothing new, lets transfers finish, and leaves.
"""

from __future__ import annotations

import gc
import os
import resource
import select
import socket
import sys
import time
from collections.abc import Callable

from forkd import messages
from forkd.accounts import open_accounts
from forkd.childlink import ChildLink
from forkd.config import Config
from forkd.doors.ftp import FtpDoor, FtpSettings
from forkd.doors.native import NativeDoor
from forkd.errors import Refusal, StartError
from forkd.events.files import folder_of
from forkd.events.journal import SILENT, FileJournal, Journal
from forkd.helpers.reaper import reap
from forkd.limits.table import LimitTable, open_table
from forkd.listen import ListenAddress
from forkd.log import Log, open_log
from forkd.messages import LinkMessage
from forkd.quota import MappedLedger, open_ledger
from forkd.scoreboard import State
from forkd.seat import ChildSeat
from forkd.serving import tlscontext
from forkd.serving.census import Census
from forkd.serving.confine import confine
from forkd.serving.core import Core, Peer
from forkd.serving.draining import Draining
from forkd.serving.pool import Mailbox, Pool
from forkd.serving.reception import Reception
from forkd.serving.remembered import Remembered
from forkd.serving.roll import Roll
from forkd.serving.session import FOREVER, Activity, Door
from forkd.serving.sessions import Sessions
from forkd.serving.transfer import Kits
from forkd.storage import sidecar
from forkd.storage.commit import make_committer
from forkd.storage.partials import Namer
from forkd.storage.store import LocalStore
from forkd.title import set_title

_EVENTS_A_TURN = 256
_TICK = 1.0
_SWITCH_SECONDS = 0.001
"""A thread back from the kernel, perhaps with a lock, waits so long for a busy one."""
_READ_BUFFER = 64 * 1024


def main(seat: ChildSeat) -> int:
    """Serve until told to leave.  Raises StartError."""
    log = open_log(seat.config.log, process="worker", slot=seat.slot)
    sys.setswitchinterval(_SWITCH_SECONDS)
    _raise_descriptor_limit()
    ledger, limits = _take_slot(seat)
    worker = Worker(seat, ledger, limits, log)
    confine(seat.config, log)
    gc.freeze()
    worker.serve()
    return 0


def _raise_descriptor_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _take_slot(seat: ChildSeat) -> tuple[MappedLedger, LimitTable]:
    """Hold the slot; what a dead predecessor left in it is returned first."""
    ledger = open_ledger(seat.config, seat.slot)
    ends = time.monotonic() + 10
    while not ledger.file.hold_slot(seat.slot):
        if time.monotonic() > ends:
            raise StartError(f"slot {seat.slot} of the quota ledger is held by another process")
        time.sleep(0.02)  # the keeper is reaping it
    reap(ledger.file, seat.slot, seat.config.storage.path, folder_of(seat.config))
    limits = open_table(seat.config, seat.slot)
    limits.file.forget_slot(seat.slot)
    return ledger, limits


def _open_journal(config: Config, slot: int, born: int) -> Journal:
    """Where hooks are told from, if there are any.  Raises OSError."""
    kinds = {kind for hook in config.hooks.values() for kind in hook.events}
    if not kinds:
        return SILENT
    durable = config.storage.durability != "none"
    return FileJournal(folder_of(config), slot, born, sidecar.boot_id(), kinds, durable)


class Worker:
    """The loop and what it holds."""

    def __init__(self, seat: ChildSeat, ledger: MappedLedger, limits: LimitTable, log: Log) -> None:
        config = seat.config
        accounts = open_accounts(config)
        self._seat = seat
        self._log = log
        self._row = seat.board.rows[seat.slot]
        born = int(time.time() * 1000)
        self._row.take_seat(os.getpid(), seat.generation, born)
        self._ledger = ledger
        self._link = ChildLink(seat.link, log)
        self._epoll = select.epoll()
        self._mailbox = Mailbox()
        self._pool = Pool()
        self._tls = tlscontext.server_context(config)
        self._ftp = FtpSettings.of(config, self._tls)
        self._sessions = Sessions(self._epoll, self._pool, self._mailbox, log)
        self._roll = Roll(self._sessions, seat.slot, self._link, log)
        self._census = Census(self._link)
        self._watched: dict[int, Callable[[], None]] = {}
        self._buffer = memoryview(bytearray(_READ_BUFFER))
        self._closes_at = FOREVER
        self._draining = Draining(config)
        self._title = ""
        self._journal = _open_journal(config, seat.slot, born)
        self._core = Core(
            config=config,
            generation=seat.generation,
            accounts=accounts,
            store=LocalStore(config.storage.path),
            ledger=ledger,
            committer=make_committer(
                *(config.storage.durability, Pool(1), self._mailbox, self._journal),
                timed=self._row.committed,
            ),
            journal=self._journal,
            namer=Namer(seat.slot, born),
            limits=limits,
            remembered=Remembered(accounts, config.accounts.remember),
            kits=Kits(lambda: self._pool.has_spare),
            row=self._row,
            log=log,
            hashes_full=lambda: self._sessions.hashes_full,
            watch=self._watch,
            unwatch=self._unwatch,
            ask_sessions=self._census.ask,
        )
        self._reception = Reception(
            *(self._core, self._sessions, self._epoll, seat.listeners, self._door, seat.slot)
        )
        self._reception.closed = seat.closed

    def serve(self) -> None:
        """The loop; returns when it is time to leave."""
        self._epoll.register(self._link, select.EPOLLIN)
        self._epoll.register(self._mailbox.fd, select.EPOLLIN)
        self._reception.again()
        self._row.set("beat_ns", time.monotonic_ns())  # one that stands still from now on is found
        self._row.set("state", State.DRAINING if self._reception.closed else State.SERVING)
        self._link.send(messages.Ready())
        self._tick()
        ticked = time.monotonic()
        while not self._may_leave():
            patience = self._roll.patience(self._sessions.patience(_TICK))
            events = self._epoll.poll(patience, _EVENTS_A_TURN)
            self._row.set("beat_ns", time.monotonic_ns())
            for fd, mask in events:
                self._on_event(fd, mask)
            self._sessions.ring()
            self._sessions.step_queued()
            self._roll.turn()
            self._log.flush()
            if time.monotonic() - ticked >= _TICK:
                ticked = time.monotonic()
                self._tick()
        self._leave()

    def _on_event(self, fd: int, mask: int) -> None:
        if self._sessions.on_event(fd, mask):
            return
        if fd in self._watched:
            self._watched[fd]()
        elif fd == self._mailbox.fd:
            self._mailbox.deliver()
        elif fd == self._link.fileno():
            self._on_link()
        else:
            self._reception.on_event(fd)

    # sessions

    def _door(
        self,
        address: ListenAddress,
        peer: Peer,
        sock: socket.socket,
        activity: Activity,
        refusal: Refusal | None,
    ) -> Door:
        shared = (activity, self._buffer, refusal)
        if address.door == "native":
            tls = None if address.family == "unix" else self._tls
            return NativeDoor(self._core, peer, sock, tls, *shared)
        return FtpDoor(self._core, peer, sock, self._ftp, address.door == "ftps", *shared)

    def _watch(self, fd: int, call: Callable[[], None], wants: int = select.EPOLLIN) -> None:
        mask = wants | select.EPOLLONESHOT
        if fd in self._watched:
            self._epoll.modify(fd, mask)
        else:
            self._epoll.register(fd, mask)
        self._watched[fd] = call

    def _unwatch(self, fd: int) -> None:
        if self._watched.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    # the master

    def _on_link(self) -> None:
        for message in self._link.receive():
            self._on_message(message)
        if self._link.eof or self._link.fault:
            self._epoll.unregister(self._link)
            if not self._draining.begun:
                self._log.warning("master-gone", sessions=len(self._sessions))
            self._drain(None)

    def _on_message(self, message: LinkMessage) -> None:
        match message:
            case messages.Drain():
                self._drain(message.timeout)
            case messages.ListSessions():
                self._roll.call(message)
            case messages.Kick(tag=tag, session=session):
                self._link.send(messages.Answer(tag, {"kicked": self._roll.kick(session)}))
            case messages.KickUser(tag=tag, user=user):
                self._link.send(messages.Answer(tag, {"kicked": self._roll.kick_user(user)}))
            case messages.AccountChanged():
                self._roll.account_changed(message.name)
            case messages.SessionPage():
                self._census.on_page(message)
            case messages.CloseDoors():
                self._close_doors(message.timeout)
            case messages.OpenDoors():
                self._open_doors()
            case messages.SetLogLevel():
                self._log.set_level(message.level)

    def _close_doors(self, timeout: float | None) -> None:
        """Stay, but take nobody in; who leaves already has the same time for what is left."""
        self._closes_at = FOREVER if timeout is None else time.monotonic() + timeout
        if self._draining.begun:
            return
        self._reception.closed = True
        self._roll.drain()
        self._show_load()
        self._row.set("state", State.DRAINING)  # from now on the counts only fall

    def _open_doors(self) -> None:
        self._closes_at = FOREVER
        if self._draining.begun:
            return
        self._reception.closed = False
        self._row.set("state", State.SERVING)

    def _drain(self, timeout: float | None) -> None:
        now = time.monotonic()
        if timeout is not None:
            self._draining.limit(now + timeout)
        if self._draining.begun:
            return
        self._draining.begin(self._sessions, now)
        self._reception.end()
        self._row.set("state", State.DRAINING)
        self._roll.drain()

    def _may_leave(self) -> bool:
        if not self._draining.begun:
            return False
        if not self._sessions:
            return self._core.committer.idle
        return self._draining.over(time.monotonic())

    def _leave(self) -> None:
        """Sessions in a job end with the process; the keeper returns what they had reserved."""
        self._sessions.close_parked("going away")
        self._log.flush()

    # once a second

    def _tick(self) -> None:
        now = time.monotonic()
        self._sessions.time_out(now)
        for session in self._draining.laggards(self._sessions, now):
            activity = session.activity
            self._log.info("too-slow", session=session.id, user=activity.user, path=activity.path)
            self._sessions.end(session)
        if now >= self._closes_at:
            self._closes_at = FOREVER
            self._roll.kick_all()
        if not self._draining.begun:
            self._reception.again()
        self._ledger.settle_owed()
        self._row.add("events_total", self._journal.catch_up())
        self._show_load()

    def _show_load(self) -> None:
        """What is under way, on the scoreboard and in the title."""
        moving = [s.activity.state for s in self._sessions if s.activity.transferring]
        sessions, transfers = len(self._sessions) - self._reception.turned_away, len(moving)
        self._row.set("sessions", sessions)
        self._row.set("transfers", transfers)
        self._row.set("downloads", moving.count("download"))
        title = f"worker {self._seat.number} ({sessions} sessions, {transfers} transfers)"
        if self._draining.begun or self._reception.closed:
            title += " draining"
        if title != self._title:
            self._title = title
            set_title(title)
