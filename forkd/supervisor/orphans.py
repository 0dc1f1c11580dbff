"""Workers whose master is gone: they finish their transfers and leave, without being told.

One whose loop stands still does neither.  It keeps its slot, what it had reserved, perhaps an
account's lock, and the listening sockets that a new master must bind.  Its watchdog died with its
master, so the next master is that.

Rules
  1. The kernel's lock on a slot tells that its process lives, the scoreboard which one that is.
  2. It is signalled by a pidfd that is open before lock, row and title are looked at: never a
     stranger that got its pid.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from forkd.scoreboard import Scoreboard

BUSY = 3.0
"""Seconds since the last turn of a loop, which turns every second, until it counts as standing."""
_TITLE = b"forkd: worker"


def standing(board: Scoreboard, slots: Iterable[int], seconds: float) -> list[int]:
    """Of these slots, those whose loop made no turn for so long."""
    now = time.monotonic_ns()
    beats = {slot: board.rows[slot].get("beat_ns") for slot in slots}
    return [slot for slot, beat in beats.items() if beat and now - beat > seconds * 1e9]


def end(board: Scoreboard, slot: int, locked: Callable[[], Iterable[int]]) -> int:
    """SIGKILL for the orphan in this slot; its pid, or 0 where nobody was sure to be it."""
    row = board.rows[slot]
    pid = row.get("pid")
    try:
        pidfd = os.pidfd_open(pid) if pid else -1
    except OSError:
        return 0
    if pidfd < 0:
        return 0
    try:
        if slot not in locked() or row.get("pid") != pid or not _is_worker(pid):
            return 0
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except OSError:  # it is gone, or not ours to end
        return 0
    finally:
        os.close(pidfd)
    return pid


def _is_worker(pid: int) -> bool:
    return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(_TITLE)


class InTheWay:
    """Asked while an address is in use at the start: is it an orphan that stands still, and soon
    will not?  Ends those that stand for longer than `watchdog` seconds (0: nobody).
    """

    def __init__(
        self, board: Scoreboard | None, locked: Callable[[], Iterable[int]], watchdog: float
    ) -> None:
        self.ended: list[int] = []
        self._board = board
        self._locked = locked
        self._watchdog = watchdog

    def __call__(self) -> bool:
        if self._board is None or not self._watchdog:
            return False
        held = set(self._locked())
        overdue = standing(self._board, held, self._watchdog)
        ended = [pid for slot in overdue if (pid := end(self._board, slot, self._locked))]
        self.ended += ended
        return bool(ended or standing(self._board, held.difference(overdue), BUSY))
