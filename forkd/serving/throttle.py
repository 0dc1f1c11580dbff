"""A user's bandwidth, as the sessions that share it see it.

A session claims a piece, is told when it may move, and asks no more until then: no thread waits and
nobody polls.  Pieces are given in the order in which they are claimed, over all workers.
"""

from __future__ import annotations

import time
from typing import Protocol

from forkd.config import Limit
from forkd.limits.policy import piece
from forkd.limits.table import Seat

_RETRY_SECONDS = 0.05


class Flow(Protocol):
    """One session's bytes in one direction; one thread at a time uses it."""

    until: float
    """When to come again, in seconds of CLOCK_MONOTONIC, after nothing was allowed."""

    def take(self, most: int) -> int:
        """How many bytes may be moved now, at most `most`."""

    def spend(self, count: int) -> None:
        """So many of those were moved."""

    def whole(self, size: int) -> bool:
        """Whether a small file may be moved as a whole now; it is spent then."""

    def close(self) -> None:
        """Nothing more is moved."""


class Free:
    """A bandwidth without limit."""

    until = 0.0

    def take(self, most: int) -> int:
        return most

    def spend(self, count: int) -> None:
        pass

    def whole(self, size: int) -> bool:  # noqa: ARG002
        return True

    def close(self) -> None:
        pass


FREE = Free()


class Metered:
    """A part of `rate` bytes a second, which all who hold a seat in the same cell share."""

    def __init__(self, seat: Seat, direction: int, rate: int) -> None:
        self._seat = seat
        self._direction = direction
        self._rate = rate
        self._piece = piece(rate)
        self._granted = 0
        """Below zero: moved already, to be claimed with the next piece."""
        self._claimed = 0
        """Bytes of a piece that may be moved once `until` has come."""
        self._whole = 0
        """The same of a small file."""
        self.until = 0.0

    def take(self, most: int) -> int:
        if self._granted <= 0:
            if not self._claimed:
                self._claimed = self._claim(min(most, self._piece) - self._granted)
            if not self._claimed or time.monotonic() < self.until:
                return 0
            self._granted, self._claimed = self._granted + self._claimed, 0
        return min(most, self._granted)

    def spend(self, count: int) -> None:
        self._granted -= count

    def whole(self, size: int) -> bool:
        if not size:
            return True
        if self._whole < size:
            self._whole += self._claim(size - self._whole)
        if self._whole < size or time.monotonic() < self.until:
            return False
        self._whole = 0
        return True

    def close(self) -> None:
        """What was claimed and not moved goes back."""
        left = self._granted + self._claimed + self._whole
        self._granted = self._claimed = self._whole = 0
        if left > 0:
            try:
                self._seat.table.unclaim(self._seat, self._direction, left, self._rate)
            except TimeoutError:
                pass  # lost is a piece or a small file

    def _claim(self, size: int) -> int:
        """`size`, and `until` says when it may move; 0: come again at `until`."""
        try:
            self.until = self._seat.table.claim(self._seat, self._direction, size, self._rate)
        except TimeoutError:
            self.until = time.monotonic() + _RETRY_SECONDS
            return 0
        return size


def flow(seat: Seat | None, direction: int, rate: Limit) -> Flow:
    """The flow of a session at `rate`; `seat` is its user's."""
    if seat is None or isinstance(rate, str):
        return FREE
    return Metered(seat, direction, int(rate))
