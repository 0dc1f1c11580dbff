"""Many messages of one kind: the first ones are shown, the rest is counted."""

from __future__ import annotations

import threading
from collections import Counter

from forkd.client.events import Finished, Note

SHOWN = 10
_WORDS = {
    "link": "symbolic links, left out",
    "special": "special files, left out",
    "quota": "refused for the quota",
    "no-space": "refused, as the server's disk is full",
    "local": "that failed on this machine",
}


class Folding:
    """Counts by kind, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: Counter[str] = Counter()

    def shows(self, event: Note | Finished) -> bool:
        """Count it; whether it is one of the first of its kind."""
        kind = event.kind if isinstance(event, Note) else event.code or "?"
        if not kind:
            return True
        with self._lock:
            self._seen[kind] += 1
            return self._seen[kind] <= SHOWN

    def rest(self) -> list[str]:
        """A line about each kind that was not shown whole; counting begins anew."""
        with self._lock:
            seen, self._seen = self._seen, Counter()
        return [
            f"… and {count - SHOWN} more {_WORDS.get(kind, f'that failed ({kind})')}"
            for kind, count in seen.items()
            if count > SHOWN
        ]
