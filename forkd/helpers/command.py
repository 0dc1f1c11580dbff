"""A configured program as a process, and how it is ended.

Rules
  1. A program gets a clean environment, no terminal, a session and process group of its own, the
     folder / and three descriptors: nothing else that this process has open.
  2. It is ended as a group: TERM first, KILL after GRACE_SECONDS.
  3. It does not outlive the process that watches over its time.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from forkd.config import SEARCH_PATH
from forkd.helpers.runclient import RunRequest, RunStatus
from forkd.syscalls import die_with_parent

GRACE_SECONDS = 2.0


class Process(Protocol):
    """What subprocess knows of a child, or whoever else forked it."""

    @property
    def pid(self) -> int: ...

    def wait(self) -> int:
        """Reap it; its exit status, or less the number of the signal that ended it."""


@dataclass(slots=True, eq=False, kw_only=True)
class Watched:
    """A process under way, the leader of its group.

    `deadline` is on the monotonic clock; `cut` says why it is ended.
    """

    process: Process
    pidfd: int
    started: float
    deadline: float
    cut: str = ""

    def signal_group(self, number: int) -> None:
        """Signal all of the group; its leader is not reaped yet, so the number is still its own."""
        try:
            os.killpg(self.process.pid, number)
        except (ProcessLookupError, PermissionError):
            pass

    def end(self, why: str) -> None:
        """Begin to end it, or go on with it when the time for that is over."""
        if not self.cut:
            self.cut = why
            self.signal_group(signal.SIGTERM)
            self.signal_group(signal.SIGCONT)  # a stopped process gets TERM only when it goes on
            self.deadline = time.monotonic() + GRACE_SECONDS
        elif time.monotonic() >= self.deadline:
            self.signal_group(signal.SIGKILL)
            self.deadline = float("inf")


@dataclass(slots=True, eq=False, kw_only=True)
class Run(Watched):
    """A command that a worker asked for."""

    connection: socket.socket
    request: RunRequest

    def status(self, code: int) -> RunStatus:
        """What to answer for a return code of subprocess."""
        if self.cut == "timeout":
            return RunStatus(code if code >= 0 else None, -code if code < 0 else None, "timeout")
        if code < 0:
            return RunStatus(None, -code, "signal")
        return RunStatus(code, None, "exit")


def spawn(
    arguments: Sequence[str],
    variables: Mapping[str, str | bytes],
    *,
    stdout: int,
    stderr: int,
    stdin: int = subprocess.DEVNULL,
) -> tuple[subprocess.Popen[bytes], int]:
    """Start a program; answers its process and a pidfd.  For a process with a single thread.

    Raises OSError, ValueError or SubprocessError, and then nothing runs.
    """
    process = subprocess.Popen(
        list(arguments),
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        cwd="/",
        env={"PATH": SEARCH_PATH, "LANG": "C.UTF-8", **variables},
        close_fds=True,
        start_new_session=True,
        umask=0o077,
        preexec_fn=partial(_stay_bound, os.getpid()),  # noqa: PLW1509 - there is one thread only
    )
    try:
        return process, os.pidfd_open(process.pid)
    except OSError:
        process.kill()
        process.wait()
        raise


def _stay_bound(parent: int) -> None:
    die_with_parent()
    if os.getppid() != parent:  # it ended before that was said
        os._exit(1)
