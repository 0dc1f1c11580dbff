"""What the daemon's processes hold: memory, descriptors; and how long a small file takes."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from peer import Peer
from rig import Daemon

KIB = 1024
MIB = 1024 * KIB


def anonymous(pid: int) -> int:
    """Bytes of memory that a process has for itself: what it maps of files is the page cache's.

    Raises ProcessLookupError: it has ended.
    """
    with suppress(FileNotFoundError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * KIB
    raise ProcessLookupError(pid)


def proportional(pid: int) -> int:
    """Bytes of memory that a process holds, its share of what others have too (Pss)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * KIB
    raise AssertionError(f"/proc/{pid}/smaps_rollup has no Pss")


def worker_pids(daemon: Daemon) -> list[int]:
    return [worker["pid"] for worker in daemon.workers()]


def descriptors(pid: int, storage: Path) -> int:
    """Descriptors of a process that a client makes it have: sockets, and what lies in storage."""
    count = 0
    for entry in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            target = os.readlink(f"/proc/{pid}/fd/{entry}")
            count += target.startswith(("socket:", str(storage)))
    return count


@dataclass
class Growth:
    """Peak growth of anonymous memory, in bytes, by worker."""

    base: dict[int, int]
    peak: dict[int, int] = field(default_factory=dict)

    def look(self) -> None:
        for pid in self.base:
            with suppress(ProcessLookupError):  # it was replaced
                now = anonymous(pid) - self.base[pid]
                self.peak[pid] = max(now, self.peak.get(pid, 0))

    @property
    def worst(self) -> int:
        return max(self.peak.values())


@contextmanager
def growth(pids: list[int]) -> Iterator[Growth]:
    """Look at these processes many times a second, while the block runs and at its end."""
    seen = Growth({pid: anonymous(pid) for pid in pids})
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            seen.look()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()
    seen.look()


class Pulse:
    """A client that puts and gets a small file again and again; `seconds` each of them took."""

    CONTENT = b"pulse" * 200

    def __init__(self, peer: Peer, name: str = "pulse") -> None:
        self.seconds: list[float] = []
        self._peer = peer
        self._name = name

    def beat(self) -> None:
        began = time.monotonic()
        self._peer.put(self._name, self.CONTENT)
        assert self._peer.get(self._name) == self.CONTENT
        self.seconds.append(time.monotonic() - began)

    @property
    def median(self) -> float:
        """Seconds for one put and one get."""
        return statistics.median(self.seconds)

    @property
    def worst(self) -> float:
        return max(self.seconds)

    @contextmanager
    def beating(self, pause: float = 0.01) -> Iterator[Pulse]:
        """Beat on a thread while the block runs; what goes wrong there is raised here."""
        over = threading.Event()
        failed: list[BaseException] = []

        def run() -> None:
            try:
                while not over.is_set():
                    self.beat()
                    over.wait(pause)
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield self
        finally:
            over.set()
            thread.join(120)
        if failed:
            raise failed[0]

    def figures(self) -> dict[str, str]:
        return {
            "small_files": f"{len(self.seconds)} puts and gets",
            "median": milliseconds(self.median),
            "worst": milliseconds(self.worst),
        }


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def timed(work: Callable[[], object]) -> float:
    """Seconds that it took."""
    began = time.monotonic()
    work()
    return time.monotonic() - began
