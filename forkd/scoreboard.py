"""Counters and gauges shared by all processes, one row of cells for each writer.

Rules
  1. A row has one writer at a time: the process that sits in its slot.  Within a worker only the
     loop's thread writes.  A store of 8 aligned bytes is never seen torn.
  2. Counters belong to the slot, not to the process: a new process goes on where the last one
     ended, so no counter ever goes backwards and nothing has to be folded in.
  3. Gauges belong to the process: `take_seat` sets them to zero.
  4. The file is allocated whole before the first fork: a full filesystem must not kill a writer.

The file is versioned by the names of its cells: another layout is not read but made anew.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from forkd.errors import CODES

SLOTS = 64
"""Worker slots, 1 to SLOTS.  Old and new generations sit side by side during a reload."""

MASTER_ROW = 0
KEEPER_ROW = SLOTS + 1
DISPATCHER_ROW = SLOTS + 2
ROWS = SLOTS + 3

DURATION_BOUNDS = (0.005, 0.02, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0)
"""Upper bounds in seconds of the transfer-duration histogram; one bucket more is +Inf."""
SIZE_BOUNDS = tuple(float(4**n * 1024) for n in range(0, 14, 1))
"""Upper bounds in bytes of the transfer-size histogram (1 KiB to 64 GiB); then +Inf."""

DOORS = ("native", "ftp")
"""Those there are: each has series of its own, also while nothing passes it."""
DELIVERIES = ("ok", "retried", "given-up")
DIRECTIONS = ("up", "down")
OUTCOMES = ("ok", "failed")
LOGINS = ("ok", "failed", "remembered")


class State(IntEnum):
    """What the process in a slot is doing."""

    FREE = 0
    STARTING = 1
    SERVING = 2
    DRAINING = 3


_OCCUPIED = frozenset(State) - {State.FREE}

GAUGES = (
    "pid",
    "generation",
    "state",
    "started_ms",  # wall clock, milliseconds since 1970
    "beat_ns",  # CLOCK_MONOTONIC of the last turn of the loop
    "sessions",
    "transfers",
    "downloads",  # of the transfers
    "parked",
    "partials",
    "undelivered_bytes",  # of journals and deferred events, all hooks together
    "undelivered_since_ms",  # wall clock; of the oldest event; 0 for none
)


def _counters() -> tuple[str, ...]:
    names = ["connections_total", "sessions_total", "commands_total", "events_total"]
    names += [f"logins_total:{outcome}" for outcome in LOGINS]
    names += ["registrations_total", "partials_expired_total", "repairs_total"]
    names += ["restarts_total", "reloads_total:ok", "reloads_total:failed", "started_total"]
    for door in DOORS:
        for direction in DIRECTIONS:
            names.append(f"bytes_total:{door}:{direction}")
            names += [f"transfers_total:{door}:{direction}:{outcome}" for outcome in OUTCOMES]
    for direction in DIRECTIONS:
        names += [f"duration_us_sum:{direction}", f"size_sum:{direction}"]
        names += [f"duration_bucket:{direction}:{i}" for i in range(len(DURATION_BOUNDS) + 1)]
        names += [f"size_bucket:{direction}:{i}" for i in range(len(SIZE_BOUNDS) + 1)]
    names += [f"refusals_total:{code}" for code in CODES]
    names += ["bans_total"]
    names += [f"deliveries_total:{outcome}" for outcome in DELIVERIES]
    return tuple(names)


COUNTERS = _counters()
CELLS = GAUGES + COUNTERS
INDEX = {name: i for i, name in enumerate(CELLS)}
_ENDED = {
    (door, direction, outcome == "ok"): INDEX[f"transfers_total:{door}:{direction}:{outcome}"]
    for door in DOORS
    for direction in DIRECTIONS
    for outcome in OUTCOMES
}
_HISTOGRAMS = {
    direction: tuple(
        INDEX[f"{cell}:{direction}{first}"]
        for cell, first in (
            *(("duration_us_sum", ""), ("size_sum", "")),
            *(("duration_bucket", ":0"), ("size_bucket", ":0")),
        )
    )
    for direction in DIRECTIONS
}
_ROW_BYTES = (len(CELLS) * 8 + 63) // 64 * 64
_HEADER = struct.Struct("<16s16sQ")
_HEADER_BYTES = 4096
_MAGIC = b"forkd scoreboard"
_LAYOUT = hashlib.sha256("\n".join(CELLS).encode()).digest()[:16]
FILE_BYTES = _HEADER_BYTES + ROWS * _ROW_BYTES


class Row:
    """The cells of one writer."""

    __slots__ = ("_cells",)

    def __init__(self, cells: memoryview) -> None:
        self._cells = cells

    def get(self, name: str) -> int:
        return int(self._cells[INDEX[name]])

    def set(self, name: str, value: int) -> None:
        self._cells[INDEX[name]] = value

    def add(self, name: str, amount: int = 1) -> None:
        self._cells[INDEX[name]] += amount

    def take_seat(self, pid: int, generation: int, started_ms: int) -> None:
        """Begin as a new process in this slot, STARTING: gauges are zeroed, counters kept."""
        self.clear_gauges()
        self.set("state", State.STARTING)
        self.set("pid", pid)
        self.set("generation", generation)
        self.set("started_ms", started_ms)

    def clear_gauges(self) -> None:
        """The process in this slot is gone."""
        for name in GAUGES:
            self.set(name, 0)

    def transfer(self, door: str, direction: str, size: int, seconds: float, ok: bool) -> None:
        """Count one transfer that ended: `size` bytes were moved in `seconds`.

        The histograms tell of complete transfers only.  `bytes_total` is not touched: it is
        counted while the bytes move.
        """
        cells = self._cells
        cells[_ENDED[door, direction, ok]] += 1
        if not ok:
            return
        duration_sum, size_sum, durations, sizes = _HISTOGRAMS[direction]
        cells[duration_sum] += int(seconds * 1e6)
        cells[size_sum] += size
        cells[durations + bisect_left(DURATION_BOUNDS, seconds)] += 1
        cells[sizes + bisect_left(SIZE_BOUNDS, size)] += 1


@dataclass(frozen=True, slots=True)
class Seat:
    """One occupied worker slot, as a reader sees it."""

    slot: int
    pid: int
    generation: int
    state: State
    started_ms: int
    beat_ns: int
    sessions: int
    transfers: int


class Scoreboard:
    """The mapped file.  `create` is for the master; the children inherit the mapping."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self._map = mmap.mmap(fd, FILE_BYTES)
        view = memoryview(self._map)
        self.rows = [
            Row(view[at : at + len(CELLS) * 8].cast("Q"))
            for at in (_HEADER_BYTES + i * _ROW_BYTES for i in range(ROWS))
        ]

    @classmethod
    def create(cls, path: str) -> Scoreboard:
        """Open the file, or make it anew where it is missing or of another layout.

        Raises OSError, also when the filesystem has no room for the whole file.
        """
        fd = _existing(path)
        if fd is None:
            fd = _fresh(path)
        try:
            return cls(path, fd)
        finally:
            os.close(fd)

    @classmethod
    def existing(cls, path: str) -> Scoreboard | None:
        """The file of an earlier run, None where there is none of this layout.  Raises OSError."""
        fd = _existing(path)
        if fd is None:
            return None
        try:
            return cls(path, fd)
        finally:
            os.close(fd)

    def seats(self) -> Iterator[Seat]:
        """The worker slots somebody sits in."""
        for slot in range(1, SLOTS + 1):
            row = self.rows[slot]
            state = row.get("state")
            if row.get("pid") and state in _OCCUPIED:
                yield Seat(
                    slot,
                    row.get("pid"),
                    row.get("generation"),
                    State(state),
                    row.get("started_ms"),
                    row.get("beat_ns"),
                    row.get("sessions"),
                    row.get("transfers"),
                )

    def total(self, name: str) -> int:
        """The sum of one cell over all rows."""
        index = INDEX[name]
        return sum(row._cells[index] for row in self.rows)


def _existing(path: str) -> int | None:
    """The file of an earlier run, if it has this layout; its counters go on."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        header = os.pread(fd, _HEADER.size, 0)
        same = len(header) == _HEADER.size and _HEADER.unpack(header)[:2] == (_MAGIC, _LAYOUT)
        if same and os.fstat(fd).st_size == FILE_BYTES:
            os.posix_fallocate(fd, 0, FILE_BYTES)  # a copied file may have holes
            return fd
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def _fresh(path: str) -> int:
    """A new file under the name: whoever still maps the old one is not disturbed."""
    temporary = f"{path}.{os.getpid()}"
    fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
    try:
        os.posix_fallocate(fd, 0, FILE_BYTES)
        os.pwrite(fd, _HEADER.pack(_MAGIC, _LAYOUT, 0), 0)
        os.rename(temporary, path)
    except BaseException:
        os.close(fd)
        os.unlink(temporary)
        raise
    return fd
