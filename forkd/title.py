"""Process titles, so that ps(1) says what each process does."""

from __future__ import annotations

import setproctitle


def set_title(text: str) -> None:
    """Show this process as `forkd: TEXT`.  Set it when it changes, not for each request."""
    setproctitle.setproctitle(f"forkd: {text}")
