"""How hard the torture tests push, and the figures they tell.

CI runs a short form of each; `make torture` (FORKD_TORTURE=1) the whole of it, with a table of all
figures at its end (tests/conftest.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable

FULL = os.environ.get("FORKD_TORTURE") == "1"
PROPERTY = "torture"
Tell = Callable[..., None]
"""tell(kills=100, lost=0): figures of this test for the table."""


def scale(short: int, full: int) -> int:
    """How often, or how many: `short` in CI, `full` with `make torture`."""
    return full if FULL else short
