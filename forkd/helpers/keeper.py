"""The keeper: housekeeping of disk and ledger, in a process of its own.

  reap     what a dead worker had reserved goes back at once
  sweep    what nobody owns any more leaves the staging folders, old partials expire
  verify   ledgers are compared with the disk: when asked, at intervals, and after odd deaths

Reaping must not wait for a long verification, so that has a thread of its own.
"""

from __future__ import annotations

import os
import select
import time

from forkd import messages
from forkd.childlink import ChildLink
from forkd.config import Config
from forkd.errors import Refusal
from forkd.events.files import folder_of, undecided
from forkd.helpers.informant import Informant
from forkd.helpers.reaper import open_staging, reap
from forkd.helpers.verifier import Verifier
from forkd.ledger.file import LedgerFile, locked_slots
from forkd.limits.file import LimitsFile, limits_path
from forkd.link import Link
from forkd.log import Log, open_log
from forkd.quota import MappedLedger, ledger_path
from forkd.scoreboard import KEEPER_ROW, SLOTS, Scoreboard
from forkd.seat import ChildSeat
from forkd.serving.pool import Mailbox
from forkd.storage import partials
from forkd.storage.store import STAGING
from forkd.title import set_title

_SWEEP_SECONDS = 30.0
_SLOT_PAUSE = 0.05
_UNREAD_PAUSE = 10
"""Milliseconds to wait for a master who does not read as fast as we tell."""
_LEFT_BEHIND_SECONDS = 3600.0
"""Between two renames of a process no object of it is without a lease for that long."""


def main(seat: ChildSeat) -> int:
    """Keep house until the master says `Drain` or is gone."""
    log = open_log(seat.config.log, process="keeper")
    link = ChildLink(seat.link, log)
    set_title("keeper")
    link.send(messages.Ready())
    file = LedgerFile(ledger_path(seat.config))
    if _hold_own_slot(file, link):
        reap(file, KEEPER_ROW, seat.config.storage.path, folder_of(seat.config))
        limits = LimitsFile(limits_path(seat.config))
        Keeper(seat.config, seat.board, file, limits, link, log).serve()
    return 0


def _hold_own_slot(file: LedgerFile, link: Link) -> bool:
    """Wait for a predecessor to leave; False when it is us who must leave first."""
    while not file.hold_slot(KEEPER_ROW):
        time.sleep(_SLOT_PAUSE)
        told = link.receive()
        if link.eof or any(isinstance(message, messages.Drain) for message in told):
            return False
    return True


class Keeper:
    """The loop: link first, then what is due."""

    def __init__(
        self,
        config: Config,
        board: Scoreboard,
        file: LedgerFile,
        limits: LimitsFile,
        link: Link,
        log: Log,
    ) -> None:
        self._config = config
        self._events = folder_of(config)
        self._board = board
        self._row = board.rows[KEEPER_ROW]
        self._row.mend()
        self._file = file
        self._limits = limits
        self._ledger = MappedLedger(file, KEEPER_ROW)
        self._link = link
        self._log = log
        self._mailbox = Mailbox()
        self._verifier = Verifier(config, file, log, self._mailbox, self._answer)
        self._informant = Informant(config, file, limits, log, self._mailbox, link.send)
        self._to_reap: set[int] = set()
        self._sweep_pause = min(_SWEEP_SECONDS, max(1.0, config.storage.partial_expiry / 2))

    def _answer(self, tag: int | None, accounts: list[dict[str, object]]) -> None:
        """A verification is done; `tag` is that of the question, None for our own rounds."""
        self._row.add("repairs_total", sum(bool(told["fixed"]) for told in accounts))
        if tag is not None:
            self._link.send(messages.Answer(tag, {"accounts": accounts}))

    def serve(self) -> None:
        """Returns when told to leave."""
        self._row.take_seat(os.getpid(), 0, int(time.time() * 1000))
        held = locked_slots(self._file.path)
        self._to_reap = {slot for slot in range(1, SLOTS + 1) if slot not in held}
        poll = select.poll()
        poll.register(self._link, select.POLLIN)
        poll.register(self._mailbox.fd, select.POLLIN)
        next_sweep = 0.0
        while True:
            self._reap_waiting()
            if time.monotonic() >= next_sweep:
                self._ledger.settle_owed()
                self._sweep_all()
                self._verifier.look_for_work()
                next_sweep = time.monotonic() + self._sweep_pause
            poll.poll(self._patience())
            self._mailbox.deliver()
            for message in self._link.receive():
                if isinstance(message, messages.Drain):
                    return
                if isinstance(message, messages.Reap):
                    self._to_reap.add(message.slot)
                    next_sweep = 0.0
                if isinstance(message, messages.Verify):
                    self._verifier.submit(message)
                if isinstance(message, messages.Inform):
                    self._informant.submit(message)
                if isinstance(message, messages.SetLogLevel):
                    self._log.set_level(message.level)
            if self._link.eof or self._link.fault:
                return
            if self._link.wants_write:
                self._link.flush()

    def _patience(self) -> int:
        """Milliseconds."""
        if self._link.wants_write:
            return _UNREAD_PAUSE
        return 200 if self._to_reap else 1000

    def _reap_waiting(self) -> None:
        for slot in sorted(self._to_reap):
            if not self._file.hold_slot(slot):
                self._to_reap.discard(slot)  # its next worker has it, and has reaped it
                continue
            self._limits.forget_slot(slot)
            try:
                settled = reap(self._file, slot, self._config.storage.path, self._events)
                self._to_reap.discard(slot)
                if settled:
                    self._log.info("reaped", slot=slot, leases=len(settled))
            except OSError as error:
                self._log.error("reap-failed", slot=slot, error=str(error))
            finally:
                self._file.drop_slot(slot)

    def _sweep_all(self) -> None:
        base = os.path.join(self._config.storage.path, STAGING)
        try:
            names = os.listdir(base)
        except OSError as error:
            self._log.error("sweep-failed", folder=base, error=str(error))
            return
        living = self._living()
        count = 0
        for name in names:
            if name.isdigit() and 0 < int(name) <= self._file.capacity:
                try:
                    count += self._sweep(int(name), living)
                except (OSError, Refusal) as error:
                    self._log.error("sweep-failed", account=int(name), error=str(error))
        self._row.set("partials", count)

    def _living(self) -> set[tuple[int, int]]:
        """(slot, born) of the workers that live, whichever master they have."""
        held = locked_slots(self._file.path)
        return {(slot, self._board.rows[slot].get("started_ms")) for slot in held}

    def _sweep(self, account: int, living: set[tuple[int, int]]) -> int:
        """One account's staging folder; the number of partials that stay."""
        folder = open_staging(self._config.storage.path, account)
        kept = 0
        try:
            staged = list(partials.staged_objects(folder))
            leased = self._ledger.leased(account) if staged else set()
            for ident, status in staged:
                if ident in leased:
                    kept += 1
                elif ident.startswith(b"p"):
                    kept += not self._drop_partial(account, folder, ident)
                elif self._is_orphan(account, ident, status.st_ctime, living):
                    self._discard(account, folder, ident, partials.charged_size(status))
            partials.drop_orphan_sidecars(folder)
        finally:
            os.close(folder)
        return kept

    def _is_orphan(
        self, account: int, ident: bytes, changed: float, living: set[tuple[int, int]]
    ) -> bool:
        """Its process is dead, or could not remove it, and there is no lease for it.

        Processes that came after `living` was read are looked up again.  As long as the journal of
        a dead one is not decided, its objects tell what it has done.
        """
        owner = partials.owner_of(ident)
        if owner is None:
            return False
        recent = time.time() - changed < _LEFT_BEHIND_SECONDS
        if recent and (owner in living or owner in self._living()):
            return False
        if owner in undecided(self._events):
            return False
        return ident not in self._ledger.leased(account)

    def _drop_partial(self, account: int, folder: int, ident: bytes) -> bool:
        """Drop a partial that is old, or that nothing describes; False when it stays.

        Where the clock was set back, a partial from the future begins to age now.
        """
        try:
            lock = partials.open_locked(folder, ident)
        except (FileNotFoundError, BlockingIOError):
            return False
        try:
            status = os.fstat(lock)
            age = time.time() - status.st_ctime  # a complete one may have its client's mtime
            if age < 0:
                os.utime(lock, ns=(status.st_atime_ns, status.st_mtime_ns))
            expired = age > self._config.storage.partial_expiry
            if ident in self._ledger.leased(account):
                return False
            if not expired and partials.is_resumable(folder, ident):
                return False
            self._discard(account, folder, ident, status.st_size)
        finally:
            os.close(lock)
        if expired:
            self._row.add("partials_expired_total")
            self._log.info("partial-expired", account=account, bytes=status.st_size)
        return True

    def _discard(self, account: int, folder: int, ident: bytes, size: int) -> None:
        """Give back what was removed, and that only: its owner's reaper may have been faster."""
        lease = self._ledger.claim(account, ident, size)
        removed = False
        try:
            removed = partials.drop(folder, ident)
        finally:
            self._ledger.settle(lease, 0 if removed else size)
