"""Signals as readable events: set_wakeup_fd on a socket pair, read by the loop."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterable


class SignalPipe:
    """From its making until `close`, the given signals do nothing but become readable here.

    Make it in the main thread.  A child that was forked calls `release`, which touches no handler.
    """

    def __init__(self, numbers: Iterable[int]) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._wakeup_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, _note) for number in numbers}

    def hold(self) -> None:
        """Let the signals wait: over exec too, whose program would die of them at first.

        Those that came and were not read yet would go with our pipe: they are sent once more.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, self._before)
        for number in self.read():
            signal.raise_signal(number)

    def let_go(self) -> None:
        """Those that waited come now."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._before)

    def fileno(self) -> int:
        return self._reader.fileno()

    def read(self) -> list[int]:
        """The numbers of the signals that have come."""
        try:
            return [number for number in self._reader.recv(4096) if number in self._before]
        except BlockingIOError:
            return []

    def release(self) -> None:
        self._reader.close()
        self._writer.close()

    def close(self) -> None:
        """Put back the handlers there were before."""
        signal.set_wakeup_fd(self._wakeup_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self.release()


def _note(number: int, frame: object) -> None:
    """The number is already in the pipe."""
