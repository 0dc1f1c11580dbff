"""Reading all journals as one stream of events, in the order in which the changes were made.

Why the order holds.  A change's intent is written before the change, which is made before its `at`.
So everything made before the oldest open intent, and before the moment at which reading began
(the horizon), is in what was read then.  Only that is given out, the smallest `at` first.  A
process that stands still with a change open holds up the events after it until it goes on, or is
dead and its journal decided.  Monotonic clocks are compared within a boot only; boots follow each
other by their oldest journal.

Memory is bounded: a journal is read on only when nothing read of it waits.

The position in a journal is where the oldest change begins that is not settled; who reads on from
there meets everything that is not, and outcomes of changes that are, which mean nothing to him.
"""

from __future__ import annotations

import heapq
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import msgspec

from forkd.events import files
from forkd.events.files import ENDED, LIVE, Stem
from forkd.events.records import Done, Header, Intent, Undone, record_of

_CHUNK = 64 * 1024
Moment = tuple[int, int]
"""(rank of the boot, nanoseconds on its clock)."""


@dataclass(frozen=True, slots=True, order=True)
class Taken:
    """An event that was made, and where its intent stands in which journal."""

    moment: Moment
    stem: Stem
    offset: int
    intent: Intent = field(compare=False)


class Reader:
    """One journal.  `position` is where to read on after a restart."""

    def __init__(self, folder: str, stem: Stem, position: int) -> None:
        self.stem = stem
        self.ended = False
        self.boot = ""
        self.rank = 0
        self.broken = False
        self.ready: list[Taken] = []
        self.at_end = False
        self._base = os.path.join(folder, str(stem))
        self._fd = _open(self._base)
        self._at = 0
        self._open: dict[str, tuple[int, Intent]] = {}
        self._unsettled: dict[int, None] = {}
        self._read_header(position)

    def close(self) -> None:
        os.close(self._fd)

    @property
    def position(self) -> int:
        return next(iter(self._unsettled), self._at)

    @property
    def behind(self) -> int:
        """Bytes that are not settled."""
        return max(0, os.fstat(self._fd).st_size - self.position)

    @property
    def finished(self) -> bool:
        """All of it is settled, and nothing will be added."""
        return self.ended and self.at_end and not self._unsettled

    @property
    def oldest_open(self) -> Moment | None:
        """When the oldest change that is neither made nor refused was begun."""
        if not self._open:
            return None
        return self.rank, next(iter(self._open.values()))[1].at

    def settle(self, offset: int) -> None:
        self._unsettled.pop(offset, None)

    def fill(self) -> None:
        """Read until something is ready and nothing is open, or nothing is left."""
        self.at_end = False
        if self.ready and not self._open:
            return
        for line, offset in self._lines():
            if not self._take(line, offset):
                self._at = offset
                break
            if self.ready and not self._open:
                return
        self.at_end = True

    def _read_header(self, position: int) -> None:
        for line, _ in self._lines():
            record = record_of(line)
            if isinstance(record, Header):
                self.boot = record.boot
            break
        self._at = max(self._at, position)

    def _lines(self) -> Iterator[tuple[bytes, int]]:
        """Whole lines from here on, each with where it begins."""
        size = _CHUNK
        while True:
            chunk = os.pread(self._fd, size, self._at)
            whole = chunk.rfind(b"\n") + 1
            if not whole:
                if len(chunk) < size:
                    return
                size *= 2
                continue
            for line in chunk[:whole].splitlines(keepends=True):
                begins = self._at
                self._at += len(line)
                yield line[:-1], begins

    def _take(self, line: bytes, offset: int) -> bool:
        """False for a broken line of a journal that whoever decides it has still to cut."""
        match record_of(line):
            case Intent() as intent:
                self._open[intent.id] = offset, intent
                self._unsettled[offset] = None
            case Done(id=ident, at=at, size=size) if ident in self._open:
                begun, intent = self._open.pop(ident)
                if size is not None:
                    intent = msgspec.structs.replace(intent, size=size)
                heapq.heappush(self.ready, Taken((self.rank, at), self.stem, begun, intent))
            case Undone(id=ident) if ident in self._open:
                begun, _ = self._open.pop(ident)
                del self._unsettled[begun]
            case None:
                self.broken = self.ended
                return self.ended
        return True


def _open(base: str) -> int:
    """A journal may be ended while it is looked for."""
    for suffix in (LIVE, ENDED, LIVE, ENDED):
        try:
            return os.open(base + suffix, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
    raise FileNotFoundError(base)


class Follower:
    """All journals in a folder, for one who is told of every event once and settles it."""

    def __init__(self, folder: str, positions: Mapping[str, int], boot: str) -> None:
        """`positions` as `positions()` answered, in bytes; a journal not in it is read whole.

        `boot` is the present one.
        """
        self._folder = folder
        self._former = dict(positions)
        self._readers: dict[Stem, Reader] = {}
        self._horizon = 0
        self._boot = boot
        self._boots: dict[str, int] = {}

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()

    def look(self) -> None:
        """Find new journals, and set the horizon of what `take` gives out."""
        found = files.journals(self._folder)
        self._horizon = time.monotonic_ns()
        for stem in self._readers.keys() - found.keys():
            self._readers.pop(stem).close()
        for stem, live in found.items():
            if stem not in self._readers:
                try:
                    start = self._former.pop(str(stem), 0)
                    self._readers[stem] = Reader(self._folder, stem, start)
                except FileNotFoundError:
                    continue
            self._readers[stem].ended = not live
        self._rank()
        for reader in self._readers.values():
            reader.fill()

    def _rank(self) -> None:
        """Boots in their order."""
        for stem in sorted(self._readers):
            reader = self._readers[stem]
            reader.rank = self._boots.setdefault(reader.boot, stem.born)

    def take(self) -> Taken | None:
        """The next event, None when no more can be told before the next `look`."""
        best: Reader | None = None
        limit: Moment | None = None
        for reader in self._readers.values():
            if not reader.ready and not reader.at_end:
                reader.fill()
            begun = reader.oldest_open
            if begun is not None:
                limit = begun if limit is None else min(limit, begun)
            if reader.ready and (best is None or reader.ready[0] < best.ready[0]):
                best = reader
        if best is None or (limit is not None and best.ready[0].moment > limit):
            return None
        if best.boot == self._boot and best.ready[0].moment[1] > self._horizon:
            return None
        return heapq.heappop(best.ready)

    def settle(self, taken: Taken) -> None:
        """It is told, or kept elsewhere, or to be told to nobody."""
        reader = self._readers.get(taken.stem)
        if reader is not None:
            reader.settle(taken.offset)

    def positions(self) -> dict[str, int]:
        """Where to go on after a restart."""
        return {str(stem): reader.position for stem, reader in self._readers.items()}

    def finished(self) -> set[Stem]:
        """Journals that hold nothing any more."""
        return {stem for stem, reader in self._readers.items() if reader.finished}

    @property
    def behind(self) -> int:
        """Bytes that are not settled."""
        return sum(reader.behind for reader in self._readers.values())

    def broken(self) -> list[Stem]:
        """Journals with lines that cannot be read, which are passed over; told once."""
        found = [stem for stem, reader in self._readers.items() if reader.broken]
        for stem in found:
            self._readers[stem].broken = False
        return found
