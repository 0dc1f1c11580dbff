"""Scoreboard and ledger as Prometheus metric families.  Reads only; no sockets.

Rules
  1. The number of series is bounded: by slots, by the codes of errors.py, and by `top_users`.
  2. A counter is the sum over all rows, so it survives its workers and never goes backwards.
  3. What cannot be read costs its own series, not the scrape; of a damaged row, readings.py.

Names and units follow https://prometheus.io/docs/practices/naming/.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

from prometheus_client import Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.registry import Collector

from forkd import __version__
from forkd.cells import (
    COMMIT_BOUNDS,
    DELIVERIES,
    DIRECTIONS,
    DOORS,
    DURATION_BOUNDS,
    LOGINS,
    OUTCOMES,
    PHASES,
    SIZE_BOUNDS,
)
from forkd.errors import CODES
from forkd.helpers.readings import Readings
from forkd.helpers.usages import Account, Usage, fullest
from forkd.log import Log
from forkd.scoreboard import DISPATCHER_ROW, MASTER_ROW, Scoreboard, Seat, State

_PLAIN_COUNTERS = (
    ("forkd_worker_restarts", "restarts_total", "Workers replaced because they had died."),
    ("forkd_connections", "connections_total", "Connections accepted."),
    ("forkd_sessions", "sessions_total", "Sessions begun."),
    ("forkd_bans", "bans_total", "Addresses banned for failed log-ins."),
    ("forkd_registrations", "registrations_total", "Accounts made by self-registration."),
    ("forkd_commands", "commands_total", "Configured commands started for users."),
    ("forkd_partials_expired", "partials_expired_total", "Interrupted uploads dropped by age."),
    ("forkd_events", "events_total", "Changes of files that hooks are to be told of."),
    ("forkd_quota_repairs", "repairs_total", "Accounts whose charge was corrected."),
)
_LABELLED_COUNTERS = (
    ("forkd_reloads", "reloads_total", "outcome", ("ok", "failed"), "Reloads by outcome."),
    ("forkd_logins", "logins_total", "outcome", LOGINS, "Log-ins by outcome."),
    (
        *("forkd_hook_deliveries", "deliveries_total", "outcome", DELIVERIES),
        "Events delivered to hooks, tried again, or given up.",
    ),
    ("forkd_refusals", "refusals_total", "reason", tuple(CODES), "Requests refused, by code."),
    (
        *("forkd_timeouts", "timeouts_total", "phase", PHASES),
        "Sessions that waited too long for their peer, by what they waited in.",
    ),
)


Totals = dict[str, int]
"""By the names of the scoreboard's counters."""


class BoardCollector(Collector):
    """All families of a scrape.

    `accounts` and `bans` are called once a scrape.  When one raises OSError, ValueError or
    LookupError, the scrape goes on without its series.
    """

    def __init__(
        self,
        board: Scoreboard,
        accounts: Callable[[], Iterable[Account]],
        bans: Callable[[], int],
        top_users: int,
        log: Log,
    ) -> None:
        self._board = board
        self._readings = Readings(board)
        self._log = log
        self._accounts = accounts
        self._bans = bans
        self._top_users = top_users

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("forkd_build", "Version of forkd.", {"version": __version__})
        yield from self._process_families()
        reading = self._readings.take()
        yield from _counter_families(reading.totals)
        yield from _transfer_families(reading.totals)
        yield from _duration_families(reading.totals)
        yield from self._board_families(reading.damaged)
        yield from self._ban_families()
        yield from self._hook_families()
        yield from self._quota_families()

    def _process_families(self) -> Iterator[Metric]:
        master = self._board.rows[MASTER_ROW]
        yield GaugeMetricFamily(
            "forkd_start_time_seconds",
            "When the master started, in seconds since 1970.",
            master.get("started_ms") / 1000,
        )
        yield GaugeMetricFamily(
            "forkd_config_generation",
            "Generation of the configuration that is served.",
            master.get("generation"),
        )
        seats = list(self._board.seats())
        workers = GaugeMetricFamily("forkd_workers", "Workers by state.", labels=["state"])
        for state in (State.STARTING, State.SERVING, State.DRAINING):
            workers.add_metric([state.name.lower()], sum(seat.state is state for seat in seats))
        yield workers
        yield _heartbeats(seats)
        yield GaugeMetricFamily(
            "forkd_sessions", "Sessions that are open.", sum(seat.sessions for seat in seats)
        )
        yield GaugeMetricFamily(
            "forkd_transfers_active",
            "Transfers under way.",
            sum(seat.transfers for seat in seats),
        )

    def _board_families(self, damaged: int) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "forkd_scoreboard_damaged_rows",
            "Rows of the scoreboard that somebody else wrote into; what they count is held.",
            damaged,
        )
        now = time.monotonic_ns()
        beats = [row.get("beat_ns") for row in self._board.rows if row.sound]
        last = max((beat for beat in beats if 0 < beat <= now), default=0)
        if last:
            yield GaugeMetricFamily(
                "forkd_scoreboard_age_seconds",
                "Time since any process last showed on the scoreboard that it lives.",
                (now - last) / 1e9,
            )

    def _hook_families(self) -> Iterator[Metric]:
        row = self._board.rows[DISPATCHER_ROW]
        since = row.get("undelivered_since_ms") / 1000
        yield GaugeMetricFamily(
            "forkd_hook_backlog_bytes",
            "Size of the events that hooks have not been told yet, over all hooks.",
            row.get("undelivered_bytes"),
        )
        yield GaugeMetricFamily(
            "forkd_hook_oldest_event_age_seconds",
            "Age of the oldest event that a hook has not been told yet; 0 for none.",
            max(0.0, time.time() - since) if since else 0.0,
        )

    def _quota_families(self) -> Iterator[Metric]:
        used = GaugeMetricFamily(
            "forkd_quota_used_bytes",
            "Bytes charged to the account, reservations included.",
            labels=["user"],
        )
        reserved = GaugeMetricFamily(
            "forkd_quota_reserved_bytes", "Bytes reserved by uploads.", labels=["user"]
        )
        limit = GaugeMetricFamily(
            "forkd_quota_limit_bytes",
            "The account's quota; no series for an unlimited one.",
            labels=["user"],
        )
        for usage in self._usages():
            used.add_metric([usage.user], usage.used)
            reserved.add_metric([usage.user], usage.reserved)
            if usage.limit is not None:
                limit.add_metric([usage.user], usage.limit)
        yield used
        yield reserved
        yield limit

    def _ban_families(self) -> Iterator[Metric]:
        try:
            count = self._bans()
        except (OSError, ValueError, LookupError) as error:
            self._log.warning(
                "no-ban-series", reason="the limits cannot be read", error=repr(error)
            )
            return
        yield GaugeMetricFamily(
            "forkd_bans_in_force", "Addresses that are refused for failed log-ins.", count
        )

    def _usages(self) -> list[Usage]:
        try:
            return fullest(self._accounts(), self._top_users)
        except (OSError, ValueError, LookupError) as error:
            self._log.warning(
                "no-quota-series", reason="the ledger cannot be read", error=repr(error)
            )
            return []


def _counter_families(totals: Totals) -> Iterator[Metric]:
    for name, cell, text in _PLAIN_COUNTERS:
        yield CounterMetricFamily(name, text, totals[cell])
    for name, cell, label, values, text in _LABELLED_COUNTERS:
        family = CounterMetricFamily(name, text, labels=[label])
        for value in values:
            family.add_metric([value], totals[f"{cell}:{value}"])
        yield family


def _transfer_families(totals: Totals) -> Iterator[Metric]:
    ended = CounterMetricFamily(
        "forkd_transfers",
        "Transfers that ended.",
        labels=["protocol", "direction", "outcome"],
    )
    moved = CounterMetricFamily(
        "forkd_transfer_bytes",
        "Bytes of content moved, of failed transfers too.",
        labels=["protocol", "direction"],
    )
    for door in DOORS:
        for direction in DIRECTIONS:
            moved.add_metric([door, direction], totals[f"bytes_total:{door}:{direction}"])
            for outcome in OUTCOMES:
                cell = f"transfers_total:{door}:{direction}:{outcome}"
                ended.add_metric([door, direction, outcome], totals[cell])
    yield ended
    yield moved


def _duration_families(totals: Totals) -> Iterator[Metric]:
    """The histograms."""
    duration = HistogramMetricFamily(
        "forkd_transfer_duration_seconds", "Duration of complete transfers.", labels=["direction"]
    )
    size = HistogramMetricFamily(
        "forkd_transfer_size_bytes", "Size of complete transfers.", labels=["direction"]
    )
    for way in DIRECTIONS:
        buckets = _buckets(totals, f"duration_bucket:{way}", DURATION_BOUNDS)
        duration.add_metric([way], buckets, totals[f"duration_us_sum:{way}"] / 1e6)
        buckets = _buckets(totals, f"size_bucket:{way}", SIZE_BOUNDS)
        size.add_metric([way], buckets, totals[f"size_sum:{way}"])
    yield duration
    yield size
    yield HistogramMetricFamily(
        "forkd_commit_duration_seconds",
        "Time from a change that is ready until it is durable, so that it may be acknowledged.",
        buckets=_buckets(totals, "commit_bucket", COMMIT_BOUNDS),
        sum_value=totals["commit_us_sum"] / 1e6,
    )


def _buckets(totals: Totals, cell: str, bounds: tuple[float, ...]) -> list[tuple[str, float]]:
    counts = (totals[f"{cell}:{i}"] for i in range(len(bounds) + 1))
    names = (*map(str, bounds), "+Inf")
    return list(zip(names, map(float, accumulate(counts)), strict=True))


def _heartbeats(seats: list[Seat]) -> Metric:
    now = time.monotonic_ns()
    family = GaugeMetricFamily(
        "forkd_worker_heartbeat_age_seconds",
        "Time since the last turn of the worker's loop.",
        labels=["slot"],
    )
    for seat in seats:
        if seat.beat_ns:
            family.add_metric([str(seat.slot)], max(0, now - seat.beat_ns) / 1e9)
    return family
