"""The answer to `forkctl status`: fleet, scoreboard and /proc as one report."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import forkd
from forkd import reports
from forkd.cells import DIRECTIONS, DOORS
from forkd.config import Config
from forkd.scoreboard import DISPATCHER_ROW, Scoreboard
from forkd.seat import BoundListener
from forkd.supervisor.fleet import Fleet
from forkd.supervisor.inherited import address_of
from forkd.supervisor.leaving import KILL_GRACE
from forkd.supervisor.listeners import Listeners
from forkd.supervisor.orders import Orders
from forkd.supervisor.processes import Process
from forkd.supervisor.roster import Member, MemberState, label
from forkd.supervisor.vitals import Vitals, usage
from forkd.supervisor.world import LastReload, World, file_mtime

STATE_NAMES = {
    MemberState.STARTING: "starting",
    MemberState.READY: "serving",
    MemberState.DRAINING: "draining",
    MemberState.KILLED: "killed",
}


@dataclass(frozen=True, slots=True)
class Witness:
    """Who tells how the daemon is.  `started` is seconds of CLOCK_MONOTONIC."""

    fleet: Fleet
    processes: dict[int, Process]
    board: Scoreboard
    vitals: Vitals
    orders: Orders
    listeners: Listeners
    started: float

    def status(self, world: World, last_reload: LastReload | None) -> reports.Status:
        """Everything at this moment."""
        now, config, fleet = time.monotonic(), world.config, self.fleet
        members = sorted(fleet.members.values(), key=lambda m: (m.generation, m.number, m.key))
        up, down = self.vitals.rates()
        generation = fleet.current.id if fleet.current else 0
        level = self.orders.config_for(generation, config).log.level
        theirs = {listener.socket for listener in self.listeners.given}
        return reports.Status(
            version=forkd.__version__,
            pid=os.getpid(),
            state=self._state(),
            uptime=now - self.started,
            config=config.source,
            generation=generation,
            loaded_at=world.loaded_at,
            changed_on_disk=file_mtime(config.source) != world.file_mtime,
            listeners=[_shown(each) for each in world.listeners],
            inherited=[_shown(each) for each in world.listeners if each.socket in theirs],
            tls=config.tls.mode,
            metrics=config.metrics.listen,
            sessions_limit=self._limit(config),
            drained_until=_moment(self.orders.closed_until, now),
            log=reports.LogLevel(level=level, configured=config.log.level),
            rates=reports.Rates(bytes_up=up, bytes_down=down),
            totals=_totals(self.board),
            workers=[self._worker(m, now) for m in members if m.role == "worker"],
            helpers=[self._helper(m) for m in members if m.role != "worker"],
            draining=self._leaving(now),
            backing_off=_backing_off(fleet, now),
            foreign_slots=sorted(fleet.foreign),
            last_reload=_last(last_reload),
            hooks=_hooks(config, self.board),
        )

    def _state(self) -> str:
        """starting, serving, reloading, drained or stopping."""
        if self.fleet.stopping:
            return "stopping"
        if self.fleet.current is None:
            return "starting"
        if self.fleet.incoming:
            return "reloading"
        return "drained" if self.orders.closed else "serving"

    def _leaving(self, now: float) -> list[reports.Leaving]:
        """The generations that serve no more."""
        fleet, rows = self.fleet, self.board.rows
        serving = {generation.id for generation in (fleet.current, fleet.incoming) if generation}
        found: dict[int, list[Member]] = {}
        for member in fleet.members.values():
            if member.role == "worker" and member.generation not in serving:
                found.setdefault(member.generation, []).append(member)
        return [
            reports.Leaving(
                generation=generation,
                workers=len(members),
                sessions=sum(rows[m.slot].get("sessions") for m in members),
                transfers=sum(rows[m.slot].get("transfers") for m in members),
                seconds_left=max(
                    (max(0.0, m.deadline - now) for m in members if m.deadline is not None),
                    default=None,
                ),
            )
            for generation, members in sorted(found.items())
        ]

    def _limit(self, config: Config) -> int | None:
        if self.fleet.current is None:
            return None
        return self.fleet.current.spec.workers * config.limits.sessions_per_worker

    def _helper(self, member: Member) -> reports.Process:
        process = self.processes.get(member.key)
        pid = process.pid if process else 0
        cpu, rss = usage(pid)
        return reports.Process(
            role=member.role,
            pid=pid,
            generation=member.generation,
            state=STATE_NAMES[member.state],
            started_ms=int(process.started * 1000) if process else 0,
            restarts=self.fleet.respawn.restarts.get((member.role, member.number), 0),
            last_death=self.vitals.deaths.get((member.role, member.number), ""),
            cpu_seconds=cpu,
            cpu_percent=self.vitals.cpu_percent(pid),
            rss_bytes=rss,
        )

    def _worker(self, member: Member, now: float) -> reports.Worker:
        row = self.board.rows[member.slot]
        beat, transfers, downloads = (
            row.get(name) for name in ("beat_ns", "transfers", "downloads")
        )
        cut = member.told_to_leave and member.deadline is not None
        common = self._helper(member)
        shown = common.state
        if self.orders.closed and shown == "serving":
            shown = "draining"
        return reports.Worker(
            **{name: getattr(common, name) for name in common.__struct_fields__} | {"state": shown},
            slot=member.slot,
            number=member.number,
            sessions=row.get("sessions"),
            transfers=transfers,
            downloads=downloads,
            uploads=max(0, transfers - downloads),
            beat_age=(now - beat / 1e9) if beat else None,
            until=_moment((member.deadline or 0.0) - KILL_GRACE if cut else None, now),
        )


def _moment(at: float | None, now: float) -> float | None:
    """Seconds since 1970 of a moment in seconds of CLOCK_MONOTONIC, which is now `now`."""
    return None if at is None else time.time() + at - now


def _last(reload: LastReload | None) -> reports.LastReload | None:
    if reload is None:
        return None
    return reports.LastReload(
        at=reload.at, outcome=reload.outcome, message=reload.message, took=reload.took
    )


def _hooks(config: Config, board: Scoreboard) -> reports.Hooks | None:
    """None where there are no hooks."""
    if not config.hooks:
        return None
    row = board.rows[DISPATCHER_ROW]
    return reports.Hooks(
        names=sorted(config.hooks),
        waiting_bytes=row.get("undelivered_bytes"),
        oldest=row.get("undelivered_since_ms") / 1000 or None,
        told=board.total("deliveries_total:ok"),
        given_up=board.total("deliveries_total:given-up"),
    )


def _backing_off(fleet: Fleet, now: float) -> list[reports.Down]:
    """Posts that nobody fills at the moment, since who filled them kept dying."""
    held = {(m.role, m.number) for m in fleet.members.values() if m.holds}
    return [
        reports.Down(
            what=label(post),
            failures=backoff.failures,
            retry_in=max(0.0, backoff.retry_at - now),
            reason=backoff.reason,
        )
        for post, backoff in fleet.respawn.backoffs.items()
        if post not in held
    ]


def _shown(listener: BoundListener) -> str:
    """The real address, and the door where it is not the native one."""
    door = listener.address.door
    try:
        address = address_of(listener.socket)
    except OSError:  # closed: the daemon is stopping
        address = listener.address
    return str(address) if door == "native" else f"{address} ({door})"


def _totals(board: Scoreboard) -> reports.Totals:
    transfers, downloads = board.total("transfers"), board.total("downloads")
    up, down = (
        sum(board.total(f"bytes_total:{door}:{direction}") for door in DOORS)
        for direction in DIRECTIONS
    )
    return reports.Totals(
        bytes_up=up,
        bytes_down=down,
        sessions=board.total("sessions_total"),
        connections=board.total("connections_total"),
        sessions_now=board.total("sessions"),
        transfers_now=transfers,
        downloads_now=downloads,
        uploads_now=max(0, transfers - downloads),
        logins=board.total("logins_total:ok") + board.total("logins_total:remembered"),
        logins_failed=board.total("logins_total:failed"),
        restarts=board.total("restarts_total"),
        transfers=sum(
            board.total(f"transfers_total:{door}:{direction}:{outcome}")
            for door in DOORS
            for direction in DIRECTIONS
            for outcome in ("ok", "failed")
        ),
    )
