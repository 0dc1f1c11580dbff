"""When to try again.  Pure: no clock, no sleep.

Pauses double from `first` to `longest` seconds, each shortened at random by up to a half, so that
clients which a server lost at one moment do not come back at one moment.  Progress starts the
count anew: only attempts in a row that move nothing use it up.
"""

from __future__ import annotations

import os

from msgspec import Struct

from forkd.client.defaults import ATTEMPTS


class RetryPolicy(Struct, frozen=True):
    """`attempts` in a row without progress before giving up; pauses in seconds."""

    attempts: int = ATTEMPTS
    first: float = 0.5
    longest: float = 30.0


class Backoff:
    """Counts the attempts of one undertaking."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self.failed = 0
        """Attempts in a row that moved nothing."""

    def progress(self) -> None:
        """Something moved: begin to count anew."""
        self.failed = 0

    def pause(self, most: int | None = None) -> float | None:
        """An attempt failed.  Seconds to wait before the next one; None: give up.

        `most`: fewer attempts than the policy's, for what a repeat seldom helps.
        """
        self.failed += 1
        limit = self._policy.attempts
        if self.failed > (limit if most is None else min(most, limit)):
            return None
        whole = min(self._policy.longest, self._policy.first * 2.0 ** (self.failed - 1))
        return whole * (0.5 + int.from_bytes(os.urandom(4), "big") / 2**33)
