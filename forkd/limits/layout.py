"""Where everything lies in the limits' file; file.py reads and writes it.

page 0   magic, number of sets, boot id, secret
sets     WAYS cells each; a key may be in any cell of the one set that its hash names
cell     words of 8 bytes: tag, key, paid-until (up, down), banned-until, number of failures;
         then the times of the last failures and a count of sessions for each slot, 4 bytes each
"""

from __future__ import annotations

import struct

from forkd.config import Config
from forkd.limits.policy import HISTORY
from forkd.scoreboard import SLOTS

MAGIC = b"forkd limits 1\0\0"
HEADER = struct.Struct("<16sQ40s16s")  # magic, sets, boot id, secret
PAGE = 4096
WAYS = 16
CELL = 512
SET = WAYS * CELL

KEY_BYTES = 48
TAG, KEY, PAID, BANNED, FAILURES = 0, 1, 7, 9, 10
"""Words of 8 bytes in a cell; PAID is two, one for each direction."""
HISTORY_AT = 24
COUNTS_AT = 64
"""Words of 4 bytes in a cell."""
WORDS = CELL // 8
HALVES = CELL // 4

assert (FAILURES + 1) * 2 <= HISTORY_AT
assert HISTORY_AT + HISTORY <= COUNTS_AT
assert COUNTS_AT + SLOTS == HALVES

_FEWEST, _MOST = 4096, 65536


def sets_for(config: Config) -> int:
    """Sets, a power of two: a cell for each account that may be, from 2 MiB to 32 MiB in all."""
    cells = _FEWEST
    while cells < min(config.accounts.max, _MOST):
        cells *= 2
    return cells // WAYS


def size_for(sets: int) -> int:
    """Bytes of the file."""
    return PAGE + sets * SET
