"""strace(1) on a living process of the daemon: to see its system calls, or to have them fail."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from rig import wait_for


def need() -> None:
    """Skip the test where nobody can be traced."""
    if why := _cannot_trace():
        pytest.skip(why)


@functools.cache
def _cannot_trace() -> str:
    if not shutil.which("strace"):
        return "there is no strace"
    tried = subprocess.run(
        ["strace", "-o", os.devnull, "true"], capture_output=True, text=True, timeout=60
    )
    return f"strace may not trace: {tried.stderr.strip()}" if tried.returncode else ""


@contextlib.contextmanager
def attached(pid: int, *options: str | Path) -> Iterator[None]:
    """strace with these options on all threads of `pid`, those to come too; then it lets go."""
    need()
    command = ["strace", "-f", "-q", *map(str, options), "-p", str(pid)]
    tracer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        wait_for(lambda: tracer.poll() is not None or _is_traced(pid))
        if tracer.poll() is not None:
            assert tracer.stderr is not None
            pytest.fail(f"{command}: {tracer.stderr.read().decode()}")
        yield
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.communicate(timeout=30)
    wait_for(lambda: not _is_traced(pid))


def _is_traced(pid: int) -> bool:
    """Whether all its threads are."""
    traced = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            lines = (thread / "status").read_text().splitlines()
            traced += [line.split()[1] != "0" for line in lines if line.startswith("TracerPid")]
    return all(traced)


@contextlib.contextmanager
def failing(pid: int, call: str, error: str, path: Path | None = None) -> Iterator[None]:
    """Every `call` of the process fails with `error` ("EIO"), `path` given: only those on it."""
    inject = ("-e", f"trace={call}", "-e", f"inject={call}:error={error}", "-o", os.devnull)
    with attached(pid, *inject, *(("-P", path) if path else ())):
        yield
