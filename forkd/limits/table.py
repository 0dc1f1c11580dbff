"""The limits as one process sees them: seats for sessions, buckets for bytes, failed log-ins.

Every operation takes the lock of one set for some microseconds.  One that does not get it raises
Refusal busy: a process that stands still holds it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from forkd.config import Config
from forkd.errors import Refusal
from forkd.limits import policy
from forkd.limits.file import LimitsFile, Spot, limits_path

USER, ADDRESS = "u:", "a:"
UP, DOWN = 0, 1
"""Directions of bytes."""

_ORIGIN = ADDRESS.encode()


@dataclass(frozen=True, slots=True)
class Failing:
    """An address with failed log-ins; `until` in seconds of CLOCK_MONOTONIC, None: no ban."""

    origin: str
    failures: int
    until: float | None


class Seat:
    """One session's part of a count."""

    __slots__ = ("_taken", "cell", "table")

    def __init__(self, table: LimitTable, cell: int) -> None:
        self.table = table
        self.cell = cell
        self._taken = True

    def leave(self) -> None:
        """Give it back; a second time does nothing."""
        if self._taken:
            self._taken = False
            self.table.leave(self.cell)


class LimitTable:
    """See the module.  `slot` is the caller's; 0 for who has no sessions."""

    def __init__(self, file: LimitsFile, slot: int, window: float) -> None:
        """`window`: seconds for which a failed log-in counts."""
        self.file = file
        self._slot = slot
        self._window = window

    # sessions

    def enter(self, key: str, most: int) -> Seat | None:
        """Count a session; None when there are `most` already (0: no limit).  Raises Refusal."""
        spot = self.file.spot(key)
        with self._locked(spot):
            cell = self._cell(spot, for_session=True)
            if cell is None:
                raise Refusal("busy", "the server has no room to count this session; try again")
            if most and self.file.sessions(cell) >= most:
                return None
            self.file.add_session(cell, self._slot, 1)
        return Seat(self, cell)

    def leave(self, cell: int) -> None:
        with self.file.mutex:
            self.file.add_session(cell, self._slot, -1)

    def sessions(self, key: str) -> int:
        """How many there are in all workers."""
        spot = self.file.spot(key)
        with self._locked(spot):
            cell = self.file.find(spot)
            return 0 if cell is None else self.file.sessions(cell)

    def noted(self, key: str) -> tuple[int, int]:
        """(sessions in all workers, failed log-ins that count).  Raises Refusal."""
        spot, now = self.file.spot(key), time.monotonic_ns()
        with self._locked(spot):
            cell = self.file.find(spot)
            if cell is None:
                return 0, 0
            failures = policy.recent(self.file.history(cell), now, self._window)
            return self.file.sessions(cell), failures

    # bandwidth

    def claim(self, seat: Seat, direction: int, size: int, rate: int) -> float:
        """When `size` bytes may move, in seconds of CLOCK_MONOTONIC.  Raises TimeoutError."""
        with self.file.locked(seat.cell):
            begins, paid = policy.claim(
                self.file.paid_until(seat.cell, direction), time.monotonic_ns(), size, rate
            )
            self.file.set_paid_until(seat.cell, direction, paid)
        return begins / policy.SECOND

    def unclaim(self, seat: Seat, direction: int, size: int, rate: int) -> None:
        """These bytes will not move after all.  Raises TimeoutError."""
        with self.file.locked(seat.cell):
            paid = self.file.paid_until(seat.cell, direction) - size * policy.SECOND // rate
            self.file.set_paid_until(seat.cell, direction, max(0, paid))

    # failed log-ins

    def failed(self, key: str) -> int:
        """Note a failed log-in; how many count now, HISTORY where there was no room to count it.

        Raises Refusal.
        """
        spot, now = self.file.spot(key), time.monotonic_ns()
        with self._locked(spot):
            cell = self._cell(spot, for_session=False)
            if cell is None:
                return policy.HISTORY
            self.file.add_failure(cell, now)
            return policy.recent(self.file.history(cell), now, self._window)

    def ban(self, origin: str, seconds: float) -> None:
        """Raises Refusal."""
        spot = self.file.spot(ADDRESS + origin)
        with self._locked(spot):
            cell = self._cell(spot, for_session=False)
            if cell is not None:
                until = time.monotonic_ns() + int(seconds * policy.SECOND)
                self.file.ban(cell, until)

    def banned_for(self, origin: str) -> float:
        """Seconds for which a ban is in force; 0.0 without one.  Raises Refusal."""
        spot = self.file.spot(ADDRESS + origin)
        with self._locked(spot):
            cell = self.file.find(spot)
            until = 0 if cell is None else self.file.banned_until(cell)
        return max(0, until - time.monotonic_ns()) / policy.SECOND

    def failing(self) -> Iterator[Failing]:
        """The addresses with bans in force or failures that count.  Raises Refusal."""
        now = time.monotonic_ns()
        for cell in self.file.failing_cells():
            try:
                with self.file.locked(cell):
                    key = self.file.key(cell)
                    failures = policy.recent(self.file.history(cell), now, self._window)
                    until = self.file.banned_until(cell)
            except TimeoutError:
                raise _standstill() from None
            if key.startswith(_ORIGIN) and (failures or until > now):
                origin = key.removeprefix(_ORIGIN).decode(errors="replace")
                yield Failing(origin, failures, until / policy.SECOND if until > now else None)

    def lift(self, origin: str) -> bool:
        """Forget an address's failures and ban; False where there was nothing.  Raises Refusal."""
        spot, now = self.file.spot(ADDRESS + origin), time.monotonic_ns()
        with self._locked(spot):
            cell = self.file.find(spot)
            if cell is None:
                return False
            known = policy.recent(self.file.history(cell), now, self._window)
            known += self.file.banned_until(cell) > now
            self.file.forget_failures(cell)
        return bool(known)

    # cells

    @contextmanager
    def _locked(self, spot: Spot) -> Iterator[None]:
        try:
            with self.file.locked(spot.first):
                yield
        except TimeoutError:
            raise _standstill() from None

    def _cell(self, spot: Spot, *, for_session: bool) -> int | None:
        """The key's cell, or one that becomes it; None where all others are needed."""
        found = self.file.find(spot)
        if found is None:
            found = self._room(spot, for_session)
            if found is not None:
                self.file.give(found, spot)
        return found

    def _room(self, spot: Spot, for_session: bool) -> int | None:
        now = time.monotonic_ns()
        best: tuple[int, int] | None = None
        for cell in self.file.cells_of(spot):
            if not self.file.used(cell):
                return cell
            if self.file.sessions(cell):
                continue
            banned = self.file.banned_until(cell)
            if banned > now and not for_session:
                continue
            paid = [self.file.paid_until(cell, direction) for direction in (UP, DOWN)]
            ends = policy.ends_of_interest(paid, max(self.file.history(cell)), banned, now)
            if ends >= 0 and (best is None or (ends, cell) < best):
                best = ends, cell
        return None if best is None else best[1]


def open_table(config: Config, slot: int) -> LimitTable:
    """The limits of this configuration.  Raises OSError."""
    return LimitTable(LimitsFile(limits_path(config)), slot, config.limits.ban_window)


def _standstill() -> Refusal:
    return Refusal("busy", "the limits are held by a process that stands still; try again")
