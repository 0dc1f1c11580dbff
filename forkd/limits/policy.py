"""What the limits decide: delays, bans, when bytes may move, who counts as one address.  No I/O.

Times are nanoseconds of CLOCK_MONOTONIC unless a name says otherwise.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from forkd.config import BAN_AFTER_MOST

SECOND = 1_000_000_000
TICK = SECOND // 10
"""Failures are remembered to a tenth of a second."""

HISTORY = BAN_AFTER_MOST
"""Failures that are remembered of one key."""

FIRST_DELAY = 0.25
"""Seconds until a first failed log-in is answered; each further one takes twice as long."""
LONGEST_DELAY = 8.0
"""Seconds at most, by what the address has done."""
LONGEST_NAME_DELAY = 2.0
"""Seconds at most, by what was tried under the name: others may be doing that to its owner."""

BURST = SECOND // 5
"""So long a pause in using a bandwidth may be made up for."""
_PIECES_A_SECOND = 16
_LEAST_PIECE = 4096
_LARGEST_PIECE = 4 * 1024 * 1024


def delay(failures: int, longest: float) -> float:
    """Seconds before the last of `failures` failed log-ins is answered."""
    return min(longest, FIRST_DELAY * 2.0 ** min(failures - 1, 30)) if failures > 0 else 0.0


def tick_of(now: int) -> int:
    """The time of a failure as it is remembered; never 0, which means none."""
    return now // TICK + 1


def recent(ticks: Iterable[int], now: int, window: float) -> int:
    """How many of the failures are at most `window` seconds old."""
    oldest = tick_of(now) - int(window * SECOND) // TICK
    return sum(1 for tick in ticks if tick and tick >= oldest)


def is_ban(failures: int, ban_after: int) -> bool:
    """Whether an address with so many failures is banned; never with a `ban_after` of 0."""
    return 0 < ban_after <= failures


def claim(paid_until: int, now: int, size: int, rate: int) -> tuple[int, int]:
    """(when `size` bytes may move, until when the bandwidth is paid then); `rate` is in bytes/s.

    The generic cell rate algorithm (ITU-T I.371) with BURST as its tolerance: first come, first
    served, and who waits needs not ask again.
    """
    begins = max(paid_until, now - BURST)
    return begins, begins + size * SECOND // rate


def piece(rate: int) -> int:
    """Bytes that a session claims at a time: enough for few wake-ups, few enough to be smooth."""
    return max(_LEAST_PIECE, min(rate // _PIECES_A_SECOND, _LARGEST_PIECE))


def ends_of_interest(paid_until: Iterable[int], last_failure: int, banned: int, now: int) -> int:
    """When a cell without sessions may be forgotten; -1: not now, bandwidth is unpaid.

    `last_failure` in ticks.
    """
    if any(until > now - BURST for until in paid_until):
        return -1
    return max(last_failure * TICK, banned)


def origin_of(host: str) -> str:
    """Whom an address counts as: an IPv4 address, or the /64 network of an IPv6 one.

    A host that has IPv6 has at least a /64 (RFC 6177), so single addresses would limit nobody.
    Raises ValueError.
    """
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
        address = address.ipv4_mapped
    return str(address)


def read_origin(text: str) -> str:
    """An origin as people write it: an address, an IPv6 network /64, or unix:uid=N.  ValueError."""
    if text.startswith("unix:uid="):
        return f"unix:uid={int(text.removeprefix('unix:uid='))}"
    host, slash, bits = text.strip("[]").partition("/")
    if slash and (bits != "64" or ":" not in host):
        raise ValueError(f"{text!r}: networks are IPv6 ones of 64 bits")
    return origin_of(host)
