"""The scoreboard's counters as a scraper may see them: a damaged row costs only what is new in it.

Rules
  1. Of a damaged row (its guards are broken, or a counter is higher than one can get) the last
     sound reading counts, until its next process begins it anew.
  2. A row that was begun anew goes on above what it had: no total falls while its reader lives.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from operator import add, lt

from forkd.cells import COUNTERS, GAUGES
from forkd.scoreboard import Row, Scoreboard

CEILING = 1 << 60
"""What no counter reaches: in bytes, an exbibyte."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Totals over all rows, by the names of COUNTERS, and how many rows are damaged."""

    totals: dict[str, int]
    damaged: int


class Readings:
    """Remembers what it read; any thread may ask."""

    def __init__(self, board: Scoreboard) -> None:
        self._rows = [_RowReader(row) for row in board.rows]
        self._lock = threading.Lock()

    def take(self) -> Reading:
        with self._lock:
            damaged = sum(not reader.read() for reader in self._rows)
            columns = zip(*(reader.counters for reader in self._rows), strict=True)
            return Reading(dict(zip(COUNTERS, map(sum, columns), strict=True)), damaged)


class _RowReader:
    """One row: what it counts now, on top of what it had before it was begun anew."""

    def __init__(self, row: Row) -> None:
        self._row = row
        self._before = [0] * len(COUNTERS)
        self._last = self._before
        self.counters = self._before
        self._unguarded = False

    def read(self) -> bool:
        """Look again; False when the row is damaged."""
        sound = self._row.sound
        now = self._row.values()[len(GAUGES) :]
        if not (sound and self._row.sound):
            self._unguarded = True
            return False
        if max(now) >= CEILING:
            return False
        if self._unguarded or any(map(lt, now, self._last)):
            self._before = self.counters
            self._unguarded = False
        self._last = now
        self.counters = list(map(add, self._before, now))
        return True
