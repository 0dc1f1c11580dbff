"""Counters and gauges shared by all processes, one row of cells for each writer.

Rules
  1. A row has one writer at a time: the process that sits in its slot.  Within a worker only the
     loop's thread writes.  A store of 8 aligned bytes is never seen torn.
  2. Counters belong to the slot, not to the process: a new process goes on where the last one
     ended, so no counter ever goes backwards and nothing has to be folded in.
  3. Gauges belong to the process: `take_seat` sets them to zero.
  4. The file is allocated whole before the first fork: a full filesystem must not kill a writer.
  5. A row stands between two guards.  Where one is not as it was written, the row is damaged:
     readers leave it out, and it is begun anew, from zero, once its process has left.

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

from forkd.cells import (
    CELLS,
    COMMIT_BOUNDS,
    DIRECTIONS,
    DOORS,
    DURATION_BOUNDS,
    GAUGES,
    INDEX,
    OUTCOMES,
    SIZE_BOUNDS,
)

SLOTS = 64
"""Worker slots, 1 to SLOTS.  Old and new generations sit side by side during a reload."""

MASTER_ROW = 0
KEEPER_ROW = SLOTS + 1
DISPATCHER_ROW = SLOTS + 2
ROWS = SLOTS + 3


class State(IntEnum):
    """What the process in a slot is doing."""

    FREE = 0
    STARTING = 1
    SERVING = 2
    DRAINING = 3


_OCCUPIED = frozenset(State) - {State.FREE}

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
_COMMITS = INDEX["commit_us_sum"], INDEX["commit_bucket:0"]
_CELL_BYTES = len(CELLS) * 8
_ROW_BYTES = (_CELL_BYTES + 16 + 63) // 64 * 64
_HEADER = struct.Struct("<16s16sQ")
_HEADER_BYTES = 4096
_MAGIC = b"forkd scoreboard"
_LAYOUT = hashlib.sha256("\n".join(("guarded", *CELLS)).encode()).digest()[:16]
_GUARD = int.from_bytes(_LAYOUT[:8], "little")
FILE_BYTES = _HEADER_BYTES + ROWS * _ROW_BYTES


class Row:
    """The cells of one writer."""

    __slots__ = ("_cells", "_whole")

    def __init__(self, whole: memoryview) -> None:
        self._whole = whole
        self._cells = whole[1:-1]

    @property
    def sound(self) -> bool:
        """Nothing but its writer has written here, as far as the guards tell."""
        return bool(self._whole[0] == _GUARD == self._whole[-1])

    def mend(self) -> None:
        """Begin anew, from zero, if this row is damaged.  For its writer."""
        if self.sound:
            return
        for i in range(len(CELLS)):
            self._cells[i] = 0
        self._whole[0] = self._whole[-1] = _GUARD

    def values(self) -> list[int]:
        """All cells, in the order of CELLS."""
        return self._cells.tolist()

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
        """The process in this slot is gone; what is damaged is mended."""
        self.mend()
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

    def timed_out(self, *, working: bool, logged_in: bool) -> None:
        """Count a session that waited too long for its peer, `working` on a request or not."""
        phase = "transfer" if working else "idle" if logged_in else "login"
        self.add(f"timeouts_total:{phase}")

    def committed(self, seconds: float) -> None:
        """Count one change that was made durable, `seconds` after it was submitted."""
        total, buckets = _COMMITS
        self._cells[total] += int(seconds * 1e6)
        self._cells[buckets + bisect_left(COMMIT_BOUNDS, seconds)] += 1


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
            Row(view[at : at + _CELL_BYTES + 16].cast("Q"))
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
            if row.sound and row.get("pid") and state in _OCCUPIED:
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
        """The sum of one cell over all sound rows."""
        return sum(row.get(name) for row in self.rows if row.sound)


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
        empty = _GUARD.to_bytes(8, "little") + bytes(_CELL_BYTES) + _GUARD.to_bytes(8, "little")
        for row in range(ROWS):
            os.pwrite(fd, empty, _HEADER_BYTES + row * _ROW_BYTES)
        os.rename(temporary, path)
    except BaseException:
        os.close(fd)
        os.unlink(temporary)
        raise
    return fd
