"""Processes from outside: who descends from whom, what they have used, how they end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """A measurement that could not be made, or whose result is wrong."""


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the command, see proc(5); None when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


def family(root: int) -> list[int]:
    """`root` and all that descend from it, parents first."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        fields = _stat(int(entry)) if entry.isdigit() else None
        if fields is not None:
            children.setdefault(int(fields[1]), []).append(int(entry))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def cpu_seconds(root: int) -> float:
    """User and system time of the family, with that of children it has waited for.

    What has ended is known in steps of 10 ms only, the rest exactly.
    """
    ended, running = 0, 0.0
    for pid in family(root):
        fields = _stat(pid)
        if fields is not None:
            ended += sum(map(int, fields[13:15]))  # cutime, cstime
            with contextlib.suppress(OSError):
                running += time.clock_gettime(_clock_of(pid))
    return ended / _TICK + running


def _clock_of(pid: int) -> int:
    """The processor time of all threads of a process, see clock_getcpuclockid(3)."""
    return (~pid << 3) | 2  # CPUCLOCK_SCHED


class Meter:
    """The clock of one measurement, and what the server's family used while it ran."""

    def __init__(self, server: int | None) -> None:
        """`server` None: nobody's processor time is asked for."""
        self._server = server
        self.cpu: float | None = None
        """Seconds of processor time between start and stop."""

    def start(self) -> None:
        if self._server is not None:
            self._size = len(family(self._server))
            self._used = cpu_seconds(self._server)
        self._began = time.perf_counter()

    def stop(self) -> float:
        """Seconds since the start."""
        seconds = time.perf_counter() - self._began
        if self._server is not None:
            _settle(self._server, self._size)
            self.cpu = cpu_seconds(self._server) - self._used
        return seconds


def _settle(root: int, size: int, seconds: float = 2.0) -> None:
    """Wait until the family is no larger than before: what its children used is then counted."""
    ends = time.monotonic() + seconds
    while len(family(root)) > size and time.monotonic() < ends:
        time.sleep(0.005)


def memory(root: int) -> int:
    """Bytes of the family that no file backs, its heaps above all; shared pages count once."""
    total = 0
    for pid in family(root):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss_Anon:"):
                    total += int(line.split()[1]) * 1024
    return total


def end(root: int, seconds: float = 10.0) -> None:
    """TERM, then KILL, a child of ours and whatever descends from it; it is waited for."""
    born = {pid: _born(pid) for pid in family(root)}
    os.kill(root, signal.SIGTERM)
    ends = time.monotonic() + seconds
    while os.waitpid(root, os.WNOHANG) == (0, 0):
        if time.monotonic() > ends:
            os.kill(root, signal.SIGKILL)
            os.waitpid(root, 0)
            break
        time.sleep(0.01)
    for pid, birth in born.items():
        if birth is not None and _born(pid) == birth:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _born(pid: int) -> str | None:
    """When it started, which tells it from a later process with its number."""
    fields = _stat(pid)
    return fields[19] if fields else None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(what: Callable[[], bool], subject: str, seconds: float = 20.0) -> None:
    """Raises BenchError when it does not come true in time."""
    ends = time.monotonic() + seconds
    while not what():
        if time.monotonic() > ends:
            raise BenchError(f"{subject}: waited {seconds:.0f} s in vain")
        time.sleep(0.02)
