"""The answer to `forkctl status`: fleet, scoreboard and /proc as one JSON body."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any

import forkd
from forkd.config import Config
from forkd.scoreboard import DIRECTIONS, DISPATCHER_ROW, DOORS, Scoreboard
from forkd.seat import BoundListener
from forkd.supervisor.fleet import Fleet
from forkd.supervisor.inherited import address_of
from forkd.supervisor.processes import Process
from forkd.supervisor.roster import Member, MemberState, label
from forkd.supervisor.world import LastReload, World, file_mtime

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
STATE_NAMES = {
    MemberState.STARTING: "starting",
    MemberState.READY: "serving",
    MemberState.DRAINING: "draining",
    MemberState.KILLED: "killed",
}


def status_body(
    fleet: Fleet,
    processes: dict[int, Process],
    board: Scoreboard,
    world: World,
    started: float,
    last_reload: LastReload | None,
    given: Iterable[BoundListener] = (),
) -> dict[str, Any]:
    """`started` is seconds of CLOCK_MONOTONIC, `given` are the sockets of socket units.

    Ages and durations in the body are seconds.
    """
    now = time.monotonic()
    config = world.config
    members = sorted(fleet.members.values(), key=lambda m: (m.generation, m.number, m.key))
    return {
        "version": forkd.__version__,
        "pid": os.getpid(),
        "state": fleet_state(fleet),
        "config": config.source,
        "generation": fleet.current.id if fleet.current else 0,
        "loaded_at": world.loaded_at,
        "changed_on_disk": file_mtime(config.source) != world.file_mtime,
        "uptime": now - started,
        "listeners": [_shown(listener) for listener in world.listeners],
        "inherited": [f"{each.address} ({each.address.door})" for each in given],
        "tls": config.tls.mode,
        "workers": [
            _worker(fleet, m, processes.get(m.key), board) for m in members if m.role == "worker"
        ],
        "helpers": [
            _process(fleet, m, processes.get(m.key)) for m in members if m.role != "worker"
        ],
        "draining": _draining(fleet, board, now),
        "backing_off": _backing_off(fleet, now),
        "foreign_slots": sorted(fleet.foreign),
        "totals": _totals(board),
        "last_reload": None
        if last_reload is None
        else {
            "at": last_reload.at,
            "outcome": last_reload.outcome,
            "message": last_reload.message,
            "took": last_reload.took,
        },
        "metrics": config.metrics.listen,
        "hooks": _hooks(config, board),
    }


def _hooks(config: Config, board: Scoreboard) -> dict[str, Any] | None:
    """What hooks have not been told yet; None where there are none.  `oldest` as time.time()."""
    if not config.hooks:
        return None
    row = board.rows[DISPATCHER_ROW]
    return {
        "names": sorted(config.hooks),
        "waiting_bytes": row.get("undelivered_bytes"),
        "oldest": row.get("undelivered_since_ms") / 1000 or None,
        "told": board.total("deliveries_total:ok"),
        "given_up": board.total("deliveries_total:given-up"),
    }


def fleet_state(fleet: Fleet) -> str:
    """starting, serving, reloading or stopping."""
    if fleet.stopping:
        return "stopping"
    if fleet.current is None:
        return "starting"
    return "reloading" if fleet.incoming else "serving"


def _draining(fleet: Fleet, board: Scoreboard, now: float) -> list[dict[str, Any]]:
    """The generations that serve no more; `seconds_left` None: as long as they make progress."""
    serving = {generation.id for generation in (fleet.current, fleet.incoming) if generation}
    found: dict[int, list[Member]] = {}
    for member in fleet.members.values():
        if member.role == "worker" and member.generation not in serving:
            found.setdefault(member.generation, []).append(member)
    return [
        {
            "generation": generation,
            "workers": len(members),
            "sessions": sum(board.rows[m.slot].get("sessions") for m in members),
            "transfers": sum(board.rows[m.slot].get("transfers") for m in members),
            "seconds_left": max(
                (max(0.0, m.deadline - now) for m in members if m.deadline is not None),
                default=None,
            ),
        }
        for generation, members in sorted(found.items())
    ]


def _backing_off(fleet: Fleet, now: float) -> list[dict[str, Any]]:
    """Posts that nobody fills at the moment, since who filled them kept dying."""
    held = {(m.role, m.number) for m in fleet.members.values() if m.holds}
    return [
        {
            "what": label(post),
            "failures": backoff.failures,
            "retry_in": max(0.0, backoff.retry_at - now),
            "reason": backoff.reason,
        }
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


def _process(fleet: Fleet, member: Member, process: Process | None) -> dict[str, Any]:
    pid = process.pid if process else 0
    cpu, rss = _usage(pid)
    return {
        "role": member.role,
        "pid": pid,
        "generation": member.generation,
        "state": STATE_NAMES[member.state],
        "started_ms": int(process.started * 1000) if process else 0,
        "restarts": fleet.respawn.restarts.get((member.role, member.number), 0),
        "cpu_seconds": cpu,
        "rss_bytes": rss,
    }


def _worker(
    fleet: Fleet, member: Member, process: Process | None, board: Scoreboard
) -> dict[str, Any]:
    row = board.rows[member.slot]
    beat = row.get("beat_ns")
    return _process(fleet, member, process) | {
        "slot": member.slot,
        "number": member.number,
        "sessions": row.get("sessions"),
        "transfers": row.get("transfers"),
        "beat_age": (time.monotonic_ns() - beat) / 1e9 if beat else None,
    }


def _totals(board: Scoreboard) -> dict[str, int]:
    moved = {
        f"bytes_{direction}": sum(board.total(f"bytes_total:{door}:{direction}") for door in DOORS)
        for direction in DIRECTIONS
    }
    return moved | {
        "sessions": board.total("sessions_total"),
        "connections": board.total("connections_total"),
        "sessions_now": board.total("sessions"),
        "transfers_now": board.total("transfers"),
        "logins_failed": board.total("logins_total:failed"),
        "restarts": board.total("restarts_total"),
        "transfers": sum(
            board.total(f"transfers_total:{door}:{direction}:{outcome}")
            for door in DOORS
            for direction in DIRECTIONS
            for outcome in ("ok", "failed")
        ),
    }


def _usage(pid: int) -> tuple[float, int]:
    """CPU seconds and resident bytes of a process (proc(5)); zeros when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name may hold spaces and brackets: fields are counted after its last bracket.
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0.0, 0
    utime, stime, rss = int(fields[11]), int(fields[12]), int(fields[21])
    return (utime + stime) / _TICKS, rss * _PAGE
