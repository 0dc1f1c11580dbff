"""What the scoreboard counts: the names of the cells of a row, in their order.

The scoreboard's file is versioned by these names: with others it is made anew, from zero.
"""

from __future__ import annotations

from forkd.errors import CODES

DURATION_BOUNDS = (0.005, 0.02, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0)
"""Upper bounds in seconds of the transfer-duration histogram; one bucket more is +Inf."""
COMMIT_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Upper bounds in seconds of the histogram of durable changes; then +Inf."""
SIZE_BOUNDS = tuple(float(4**n * 1024) for n in range(0, 14, 1))
"""Upper bounds in bytes of the transfer-size histogram (1 KiB to 64 GiB); then +Inf."""

DOORS = ("native", "ftp")
"""Those there are: each has series of its own, also while nothing passes it."""
DELIVERIES = ("ok", "retried", "given-up")
DIRECTIONS = ("up", "down")
OUTCOMES = ("ok", "failed")
LOGINS = ("ok", "failed", "remembered")
PHASES = ("login", "idle", "transfer")
"""In which a session may wait too long for its peer."""

GAUGES = (
    "pid",
    "generation",
    "state",
    "started_ms",  # wall clock, milliseconds since 1970
    "beat_ns",  # CLOCK_MONOTONIC of the last turn of the loop
    "sessions",
    "transfers",
    "downloads",  # of the transfers
    "parked",
    "partials",
    "undelivered_bytes",  # of journals and deferred events, all hooks together
    "undelivered_since_ms",  # wall clock; of the oldest event; 0 for none
)


def _counters() -> tuple[str, ...]:
    names = ["connections_total", "sessions_total", "commands_total", "events_total"]
    names += [f"logins_total:{outcome}" for outcome in LOGINS]
    names += ["registrations_total", "partials_expired_total", "repairs_total"]
    names += ["restarts_total", "reloads_total:ok", "reloads_total:failed", "started_total"]
    for door in DOORS:
        for direction in DIRECTIONS:
            names.append(f"bytes_total:{door}:{direction}")
            names += [f"transfers_total:{door}:{direction}:{outcome}" for outcome in OUTCOMES]
    for direction in DIRECTIONS:
        names += [f"duration_us_sum:{direction}", f"size_sum:{direction}"]
        names += [f"duration_bucket:{direction}:{i}" for i in range(len(DURATION_BOUNDS) + 1)]
        names += [f"size_bucket:{direction}:{i}" for i in range(len(SIZE_BOUNDS) + 1)]
    names += ["commit_us_sum", *(f"commit_bucket:{i}" for i in range(len(COMMIT_BOUNDS) + 1))]
    names += [f"timeouts_total:{phase}" for phase in PHASES]
    names += [f"refusals_total:{code}" for code in CODES]
    names += ["bans_total"]
    names += [f"deliveries_total:{outcome}" for outcome in DELIVERIES]
    return tuple(names)


COUNTERS = _counters()
CELLS = GAUGES + COUNTERS
INDEX = {name: i for i, name in enumerate(CELLS)}
