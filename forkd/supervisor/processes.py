"""The children as processes: fork, pidfd, link, and what a child does before its own room begins.

Rules
  1. A child keeps nothing of the master but its seat: everything else the master has open is closed
     first, then the child imports its room.
  2. A child is steered over its link alone.  The signals that reach a whole process group (Ctrl-C,
     a hang-up, a service manager's TERM, USR1 or USR2) do nothing to it, and what it executes has
     them back.
  3. A process is signalled by its pidfd, so never a stranger that got its pid.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from forkd.errors import StartError
from forkd.link import Link, link_pair
from forkd.log import open_log
from forkd.messages import Unable, encode
from forkd.seat import ChildSeat
from forkd.title import set_title

STEERED_BY_LINK = (
    *(signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM),
    *(signal.SIGUSR1, signal.SIGUSR2),
)
ROOMS = {
    "prepare": "forkd.supervisor.prepare",
    "trial": "forkd.supervisor.trial",
    "worker": "forkd.worker",
    "exporter": "forkd.helpers.exporter",
    "keeper": "forkd.helpers.keeper",
    "runner": "forkd.helpers.runner",
    "dispatcher": "forkd.helpers.dispatcher",
}
"""The module that is a child's life, by its role.  The child imports it: the master stays small."""

EXIT_UNABLE = 1
EXIT_FAULT = 70  # sysexits.h EX_SOFTWARE
_REASON_MAX = 4000


@dataclass(slots=True)
class Process:
    """A child as its parent sees it.  `started` is seconds since 1970; `pidfd` -1: gone."""

    role: str
    slot: int
    number: int
    pid: int
    pidfd: int
    link: Link
    started: float
    unable: str = ""

    @property
    def title(self) -> str:
        return _title(self.role, self.number)

    def kill(self) -> None:
        """SIGKILL; nothing happens to a process that is gone already."""
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def reap(self) -> str:
        """Collect the exit of a process whose pidfd is readable: 'signal 9 (SIGKILL)' or so."""
        _, status = os.waitpid(self.pid, 0)
        os.close(self.pidfd)
        self.pidfd = -1
        self.link.close()
        code = os.waitstatus_to_exitcode(status)
        return f"status {code}" if code >= 0 else f"signal {-code} ({_signal_name(-code)})"

    def release(self) -> None:
        """For a sister of this process: close what only their master needs."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        self.link.close()


def fork_child(
    make_seat: Callable[[socket.socket], ChildSeat], release: Callable[[ChildSeat], None]
) -> Process:
    """Fork a child that runs its room's main and exits with what that returns.

    `make_seat` gets the child's end of the link.  `release` is called in the child and closes what
    belongs to the master.  Raises OSError where the machine has no room for a process; then
    nothing is left open.
    """
    ours, theirs = link_pair()
    seat = make_seat(theirs)
    try:
        pid = os.fork()
    except OSError:
        ours.close()
        theirs.close()
        raise
    if pid == 0:
        status = EXIT_FAULT
        try:
            ours.close()
            release(seat)
            status = _live(seat)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    theirs.close()
    pidfd = os.pidfd_open(pid)
    return Process(seat.role, seat.slot, seat.number, pid, pidfd, Link(ours), time.time())


def child_title(seat: ChildSeat) -> str:
    return _title(seat.role, seat.number)


def _title(role: str, number: int) -> str:
    return f"{role} {number}" if role == "worker" else role


def _live(seat: ChildSeat) -> int:
    """The whole life of a child."""
    gc.freeze()  # the collector must not touch, and so copy, what is shared with the master
    signal.set_wakeup_fd(-1)
    for number in STEERED_BY_LINK:
        # A handler, not SIG_IGN: exec resets it, so the runner's commands can be interrupted.
        signal.signal(number, _nothing)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    set_title(f"{child_title(seat)} (starting)")
    if seat.slot:
        row = seat.board.rows[seat.slot]
        row.take_seat(os.getpid(), seat.generation, time.time_ns() // 1_000_000)
    try:
        room = importlib.import_module(ROOMS[seat.role])
        return int(room.main(seat))
    except StartError as error:
        _tell_unable(seat, str(error))
        return EXIT_UNABLE
    except Exception as error:
        name = getattr(error, "filename", None) or type(error).__name__
        _tell_unable(seat, f"{name}: {getattr(error, 'strerror', None) or error}")
        log = open_log(seat.config.log, process=child_title(seat), pid=os.getpid())
        log.unexpected("process-failed", error)
        return EXIT_FAULT


def _tell_unable(seat: ChildSeat, reason: str) -> None:
    try:
        seat.link.setblocking(False)
        seat.link.send(encode(Unable(reason[:_REASON_MAX])))
    except OSError:
        pass


def _nothing(number: int, frame: object) -> None:
    pass


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
