"""Real programs as clients: each a process from its start to its end, as a user meets it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence

from bench.processes import BenchError, Meter

_PATIENCE = 180.0


def run_programs(
    commands: Sequence[Sequence[str]],
    meter: Meter,
    environment: Mapping[str, str] | None = None,
) -> float:
    """Seconds in which all of them, started together, have ended.  Raises BenchError."""
    environ = {**os.environ, **(environment or {})}
    running: list[subprocess.Popen[str]] = []
    meter.start()
    try:
        for command in commands:
            running.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    env=environ,
                )
            )
        said = [process.communicate(timeout=_PATIENCE)[0] for process in running]
        seconds = meter.stop()
    except subprocess.TimeoutExpired:
        raise BenchError(f"{commands[0][0]} took longer than {_PATIENCE:.0f} s") from None
    finally:
        for process in running:
            process.kill()
            process.wait()
    for process, text in zip(running, said, strict=True):
        if process.returncode:
            raise BenchError(f"{process.args!r} exited with {process.returncode}: {text}")
    return seconds
