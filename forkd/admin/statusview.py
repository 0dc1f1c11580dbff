"""What `forkctl status` shows.  No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from forkd.admin.render import age, clock, flow, moment, printable, table_within
from forkd.reports import Down, Hooks, LastReload, Leaving, Process, Status, Totals, Worker
from forkd.units import format_bytes, format_count, format_seconds

_WORKERS = (
    *("SLOT", "WORKER", "PID", "GEN", "STATE", "SESSIONS", "XFERS", "RESTARTS"),
    *("CPU%", "CPU", "RSS", "AGE", "BEAT"),
)
_NUMBERS = "PID GEN SESSIONS XFERS RESTARTS CPU% CPU RSS AGE BEAT"
_SPARE = "CPU WORKER GEN BEAT AGE"
_NAME_WIDTH = 14


def status_screen(status: Status, now: float, width: int) -> str:
    """One screen of text, `width` characters wide; `now` in seconds since 1970."""
    parts = ["\n".join([_headline(status), *_facts(status, now, width)])]
    if status.workers:
        rows = (_worker(worker, now) for worker in status.workers)
        parts.append(table_within(width, _WORKERS, rows, _NUMBERS, _SPARE))
    return "\n\n".join(parts)


def rate(bytes_a_second: float) -> str:
    return f"{format_bytes(bytes_a_second)}/s"


def _headline(status: Status) -> str:
    state = status.state
    if status.degraded and state in ("serving", "reloading"):
        state += ", degraded"
    left = f"forkd {status.version}  {state}"
    right = f"up {format_seconds(status.uptime)}  pid {status.pid}"
    return printable(f"{left:<52}{right}").rstrip()


def _facts(status: Status, now: float, width: int) -> Iterator[str]:
    for name, values in _named_facts(status, now):
        for i, line in enumerate(flow(values, width - _NAME_WIDTH)):
            yield f"  {'' if i else name:<{_NAME_WIDTH - 2}}{line}"


def _named_facts(status: Status, now: float) -> Iterator[tuple[str, Iterable[str]]]:
    yield "config", [status.config or "built-in defaults", _loaded(status)]
    if status.changed_on_disk:
        yield "", ["changed on disk since (forkctl reload to apply)"]
    yield "listeners", _listeners(status)
    yield "sessions", _load(status)
    if status.state == "drained":
        yield "drained", _drained(status)
    yield "helpers", map(_helper, status.helpers)
    if status.metrics:
        yield "metrics", [f"http://{status.metrics}/metrics"]
    yield "hooks", _hooks(status.hooks, now)
    yield "so far", _totals(status.totals)
    yield "replaced", map(_replaced, _died(status))
    if status.log.level != status.log.configured:
        yield "log level", [f"{status.log.level} until the next reload, then as configured"]
    yield "last reload", _reload(status.last_reload)
    for generation in status.draining:
        yield "draining", [_draining(generation)]
    for post in status.backing_off:
        yield "down", [_down(post)]


def _loaded(status: Status) -> str:
    if status.loaded_at is None:
        return f"generation {status.generation}"
    return f"generation {status.generation}, loaded {moment(status.loaded_at)}"


def _listeners(status: Status) -> Iterator[str]:
    """Door by door; whose socket the service manager opened is marked."""
    doors: dict[str, list[str]] = {}
    for shown in status.listeners:
        address, _, door = shown.partition(" (")
        mark = " (systemd)" if shown in status.inherited else ""
        doors.setdefault(door.rstrip(")") or "native", []).append(address + mark)
    for door, addresses in doors.items():
        first, *others = addresses
        yield f"{door} {first}"
        yield from others
    yield f"(tls {status.tls})"


def _load(status: Status) -> list[str]:
    sessions = sum(worker.sessions for worker in status.workers)
    downloads = sum(worker.downloads for worker in status.workers)
    uploads = sum(worker.uploads for worker in status.workers)
    limit = "" if status.sessions_limit is None else f" of {status.sessions_limit:,}"
    return [
        f"{sessions:,}{limit}",
        f"transfers {downloads + uploads} ({downloads} down, {uploads} up)",
        f"out {rate(status.rates.bytes_down)}",
        f"in {rate(status.rates.bytes_up)}",
    ]


def _drained(status: Status) -> list[str]:
    facts = ["no new sessions (forkctl undrain to serve again)"]
    if status.drained_until is not None and status.totals.sessions_now:
        facts.append(f"transfers are cut at {clock(status.drained_until)}")
    return facts


def _helper(helper: Process) -> str:
    shown = "" if helper.state == "serving" else f" {helper.state}"
    return f"{helper.role} pid {helper.pid or '-'}{shown}"


def _draining(leaving: Leaving) -> str:
    """A generation that serves no more, and what it still waits for."""
    name = f"generation {leaving.generation}" if leaving.generation > 0 else "given up"
    counts = (
        format_count(leaving.workers, "worker"),
        format_count(leaving.sessions, "session"),
        format_count(leaving.transfers, "transfer"),
    )
    left = "" if leaving.seconds_left is None else f", {leaving.seconds_left:.0f} s left"
    return f"{name}: {', '.join(counts)}{left}"


def _totals(totals: Totals) -> list[str]:
    return [
        f"sessions {totals.sessions:,}",
        f"transfers {totals.transfers:,}",
        f"received {format_bytes(totals.bytes_up)}",
        f"sent {format_bytes(totals.bytes_down)}",
        f"failed log-ins {totals.logins_failed:,}",
        f"workers replaced {totals.restarts:,}",
    ]


def _died(status: Status) -> list[Process]:
    """Of each post one, the newest."""
    everybody: list[Process] = [*status.helpers, *status.workers]
    posts = {(each.role, getattr(each, "number", 0)): each for each in everybody}
    return [each for each in posts.values() if each.last_death]


def _replaced(died: Process) -> str:
    who = f"worker {died.number}" if isinstance(died, Worker) else died.role
    return f"{who} {format_count(died.restarts, 'time')}, last: {died.last_death}"


def _hooks(hooks: Hooks | None, now: float) -> list[str]:
    """Empty where there are none."""
    if hooks is None:
        return []
    facts = [", ".join(hooks.names), f"told {hooks.told:,}"]
    if hooks.waiting_bytes:
        facts.append(f"waiting {format_bytes(hooks.waiting_bytes)}")
    if hooks.oldest is not None:
        facts.append(f"oldest {age(max(0.0, now - hooks.oldest))}")
    if hooks.given_up:
        facts.append(f"given up {hooks.given_up:,}")
    return facts


def _down(post: Down) -> str:
    """A post that nobody fills for the moment."""
    return (
        f"{post.what}: {post.reason} ({format_count(post.failures, 'failure')} in a row, "
        f"tried again in {post.retry_in:.1f} s)"
    )


def _reload(reload: LastReload | None) -> list[str]:
    if reload is None:
        return []
    told = f"{reload.outcome}  {moment(reload.at)}  took {reload.took:.2f} s"
    return [told, reload.message.replace("\n", "; ")]


def _worker(worker: Worker, now: float) -> tuple[str, ...]:
    until = "" if worker.until is None else f" until {clock(worker.until)}"
    return (
        str(worker.slot),
        str(worker.number),
        str(worker.pid or "-"),
        str(worker.generation),
        worker.state + until,
        str(worker.sessions),
        str(worker.transfers),
        str(worker.restarts),
        "-" if worker.cpu_percent is None else f"{worker.cpu_percent:.0f}",
        f"{worker.cpu_seconds:.1f}s",
        format_bytes(worker.rss_bytes),
        age(now - worker.started_ms / 1000) if worker.started_ms else "-",
        "-" if worker.beat_age is None else f"{worker.beat_age:.1f}s",
    )
