"""The time as the log tells it."""

from __future__ import annotations

import datetime
import time


class Clock:
    """The time now as text; the text of a second is made once."""

    def __init__(self) -> None:
        self._known = (-1, "")

    def now(self) -> str:
        """RFC 3339 in UTC, with milliseconds."""
        at = time.time()
        second = int(at)
        known, text = self._known  # one assignment: several threads may ask
        if second != known:
            when = datetime.datetime.fromtimestamp(second, datetime.UTC)
            text = when.strftime("%Y-%m-%dT%H:%M:%S.")
            self._known = (second, text)
        return f"{text}{int((at - second) * 1000):03d}Z"
