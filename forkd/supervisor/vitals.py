"""What the master notes of its children as time goes by: rates, processor time, causes of death."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from forkd.cells import DOORS
from forkd.scoreboard import Scoreboard
from forkd.supervisor.roster import Post

EVERY = 2.0
"""Seconds between two samples."""
SAMPLES = 3
"""Rates are of the time between the first and the last of so many."""
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Sample:
    """At `at` seconds of CLOCK_MONOTONIC: bytes moved since ever, CPU seconds by pid."""

    at: float
    up: int
    down: int
    cpu: dict[int, float]


@dataclass(slots=True)
class Vitals:
    """Call `look` often; it takes a sample where one is due."""

    board: Scoreboard
    deaths: dict[Post, str] = field(default_factory=dict)
    """Why who held a post died last."""
    _samples: deque[Sample] = field(default_factory=lambda: deque(maxlen=SAMPLES))

    def look(self, now: float, pids: Iterable[int]) -> None:
        if self._samples and now - self._samples[-1].at < EVERY:
            return
        cpu = {pid: usage(pid)[0] for pid in pids}
        self._samples.append(Sample(now, self.moved("up"), self.moved("down"), cpu))

    def moved(self, direction: str) -> int:
        """Bytes of content moved `up` or `down`, since ever."""
        return sum(self.board.total(f"bytes_total:{door}:{direction}") for door in DOORS)

    def rates(self) -> tuple[float, float]:
        """Bytes a second (up, down)."""
        if len(self._samples) < 2:
            return 0.0, 0.0
        first, last = self._samples[0], self._samples[-1]
        seconds = last.at - first.at
        return (last.up - first.up) / seconds, (last.down - first.down) / seconds

    def cpu_percent(self, pid: int) -> float | None:
        """Of one CPU; None for a process that was seen once at most."""
        seen = [(sample.at, sample.cpu[pid]) for sample in self._samples if pid in sample.cpu]
        if len(seen) < 2:
            return None
        (began, before), (ended, after) = seen[0], seen[-1]
        return 100 * (after - before) / (ended - began)


def usage(pid: int) -> tuple[float, int]:
    """CPU seconds and resident bytes of a process (proc(5)); zeros when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name may hold spaces and brackets: fields are counted after its last bracket.
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0.0, 0
    utime, stime, rss = int(fields[11]), int(fields[12]), int(fields[21])
    return (utime + stime) / _TICKS, rss * _PAGE
