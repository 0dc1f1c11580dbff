"""What `forkctl status` and `forkctl sessions` show of the daemon's answers.  No I/O.

A key that is missing is left out: the daemon may be older or newer than forkctl.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from forkd.admin.render import age, flow, moment, printable, table, table_within
from forkd.units import format_bytes, format_count, format_seconds

Body = Mapping[str, Any]

_TOTALS = (
    ("sessions", "sessions"),
    ("transfers", "transfers"),
    ("bytes_up", "received"),
    ("bytes_down", "sent"),
    ("logins_failed", "failed log-ins"),
    ("restarts", "workers replaced"),
)
_WORKERS = (
    "SLOT",
    "WORKER",
    "PID",
    "GEN",
    "STATE",
    "SESSIONS",
    "XFERS",
    "RESTARTS",
    "CPU",
    "RSS",
    "AGE",
    "BEAT",
)
_NUMBERS = "PID GEN SESSIONS XFERS RESTARTS CPU RSS AGE BEAT"
_SPARE = "WORKER RESTARTS BEAT CPU AGE"
_NAME_WIDTH = 14
_SESSIONS = ("ID", "USER", "FROM", "SLOT", "TLS", "STATE", "FILE", "DONE", "AGE")


def is_degraded(body: Body) -> bool:
    """Whether nobody serves, or a process that should run cannot be kept running."""
    serving = any(worker.get("state") == "serving" for worker in _dicts(body.get("workers")))
    return not serving or bool(body.get("backing_off"))


def status_screen(body: Body, now: float, width: int) -> str:
    """One screen of text, `width` characters wide; `now` in seconds since 1970."""
    parts = ["\n".join([_headline(body), *_facts(body, now, width)])]
    workers = _dicts(body.get("workers"))
    if workers:
        rows = (_worker(worker, now) for worker in workers)
        parts.append(table_within(width, _WORKERS, rows, _NUMBERS, _SPARE))
    return "\n\n".join(parts)


def sessions_screen(sessions: Iterable[Body], now: float) -> str:
    """The sessions as a table, and how many there are."""
    rows = [_session(session, now) for session in sessions]
    count = format_count(len(rows), "session")
    return f"{table(_SESSIONS, rows, 'SLOT DONE AGE')}\n{count}" if rows else count


def _headline(body: Body) -> str:
    state = str(body.get("state", "serving"))
    if is_degraded(body) and state in ("serving", "reloading"):
        state += ", degraded"
    left = f"forkd {body.get('version', '?')}  {state}"
    right = []
    if isinstance(uptime := body.get("uptime"), (int, float)):
        right.append(f"up {format_seconds(uptime)}")
    if "pid" in body:
        right.append(f"pid {body['pid']}")
    return printable(f"{left:<52}{'  '.join(right)}").rstrip()


def _facts(body: Body, now: float, width: int) -> Iterator[str]:
    for name, values in _named_facts(body, now):
        for i, line in enumerate(flow(values, width - _NAME_WIDTH)):
            yield f"  {'' if i else name:<{_NAME_WIDTH - 2}}{line}"


def _named_facts(body: Body, now: float) -> Iterator[tuple[str, Iterable[str]]]:
    yield "config", _config(body)
    if body.get("changed_on_disk"):
        yield "", ["changed on disk since (forkctl reload to apply)"]
    tls = [f"(tls {body['tls']})"] if "tls" in body else []
    yield "listeners", [*map(str, _items(body.get("listeners"))), *tls]
    yield "inherited", map(str, _items(body.get("inherited")))
    yield "helpers", map(_helper, _dicts(body.get("helpers")))
    if metrics := body.get("metrics"):
        yield "metrics", [f"http://{metrics}/metrics"]
    yield "hooks", _hooks(body.get("hooks"), now)
    workers = _dicts(body.get("workers"))
    sessions = sum(_number(worker, "sessions") for worker in workers)
    transfers = sum(_number(worker, "transfers") for worker in workers)
    yield "sessions", [f"{sessions}    transfers {transfers}"]
    yield "so far", _totals(body.get("totals"))
    yield "last reload", _reload(body.get("last_reload"))
    for generation in _dicts(body.get("draining")):
        yield "draining", [_draining(generation)]
    for post in _dicts(body.get("backing_off")):
        yield "down", [_down(post)]


def _config(body: Body) -> list[str]:
    path = str(body.get("config") or "built-in defaults")
    more = []
    if "generation" in body:
        more.append(f"generation {body['generation']}")
    if isinstance(loaded := body.get("loaded_at"), (int, float)):
        more.append(f"loaded {moment(loaded)}")
    return [path, ", ".join(more)]


def _helper(helper: Body) -> str:
    state = str(helper.get("state", "serving"))
    shown = "" if state == "serving" else f" {state}"
    return f"{helper.get('role', '?')} pid {helper.get('pid') or '-'}{shown}"


def _totals(totals: object) -> list[str]:
    if not isinstance(totals, dict):
        return []
    return [
        f"{words} {format_bytes(count) if name.startswith('bytes') else format(count, ',')}"
        for name, words in _TOTALS
        if isinstance(count := totals.get(name), int)
    ]


def _hooks(hooks: object, now: float) -> list[str]:
    """Empty where there are none."""
    if not isinstance(hooks, dict):
        return []
    facts = [", ".join(map(str, _items(hooks.get("names"))))]
    facts.append(f"told {_number(hooks, 'told'):,}")
    if waiting := _number(hooks, "waiting_bytes"):
        facts.append(f"waiting {format_bytes(waiting)}")
    if isinstance(oldest := hooks.get("oldest"), (int, float)):
        facts.append(f"oldest {age(max(0.0, now - oldest))}")
    if given_up := _number(hooks, "given_up"):
        facts.append(f"given up {given_up:,}")
    return facts


def _draining(generation: Body) -> str:
    """A generation that serves no more, and what it still waits for."""
    number = _number(generation, "generation")
    name = f"generation {number}" if number > 0 else "given up"
    counts = (
        _counted(generation.get(f"{noun}s"), noun) for noun in ("worker", "session", "transfer")
    )
    left = _measured(generation, "seconds_left", lambda seconds: f", {seconds:.0f} s left")
    return f"{name}: {', '.join(counts)}{'' if left == '-' else left}"


def _down(post: Body) -> str:
    """A post that nobody fills for the moment."""
    again = _measured(post, "retry_in", lambda seconds: f"in {seconds:.1f} s")
    return (
        f"{post.get('what', '?')}: {post.get('reason', '?')} "
        f"({_counted(post.get('failures'), 'failure')} in a row, tried again {again})"
    )


def _counted(count: object, noun: str) -> str:
    return format_count(count, noun) if isinstance(count, int) else f"? {noun}s"


def _reload(reload: object) -> list[str]:
    if not isinstance(reload, dict) or not reload:
        return []
    text = str(reload.get("outcome", ""))
    if isinstance(at := reload.get("at"), (int, float)):
        text += f"  {moment(at)}"
    if isinstance(took := reload.get("took"), (int, float)):
        text += f"  took {took:.2f} s"
    return [text, str(reload.get("message") or "").replace("\n", "; ")]


def _worker(worker: Body, now: float) -> tuple[str, ...]:
    started = _number(worker, "started_ms") / 1000
    state = str(worker.get("state", "?"))
    return (
        f"{worker.get('slot', '-')}",
        f"{worker.get('number', '-')}",
        f"{worker.get('pid') or '-'}",
        f"{worker.get('generation', '-')}",
        state,
        f"{worker.get('sessions', '-')}",
        f"{worker.get('transfers', '-')}",
        f"{worker.get('restarts', '-')}",
        _measured(worker, "cpu_seconds", lambda seconds: f"{seconds:.1f}s"),
        _measured(worker, "rss_bytes", format_bytes),
        age(now - started) if started else "-",
        _measured(worker, "beat_age", lambda seconds: f"{seconds:.1f}s"),
    )


def _session(session: Body, now: float) -> tuple[str, ...]:
    moved, size = _number(session, "moved"), _number(session, "size")
    done = f"{100 * moved // size}%" if size else (format_bytes(moved) if moved else "-")
    since = session.get("since")
    return (
        str(session.get("id", "?")),
        str(session.get("user") or "-"),
        str(session.get("peer") or "-"),
        str(session.get("slot", "-")),
        str(session.get("tls") or "-"),
        str(session.get("state") or "-"),
        str(session.get("path") or "-"),
        done,
        age(now - since) if isinstance(since, (int, float)) else "-",
    )


def _measured(item: Body, key: str, show: Any) -> str:
    value = item.get(key)
    return str(show(value)) if isinstance(value, (int, float)) else "-"


def _number(item: Body, key: str) -> int:
    value = item.get(key)
    return int(value) if isinstance(value, (int, float)) else 0


def _items(value: object) -> list[object]:
    return list(value) if isinstance(value, (list, tuple)) else []


def _dicts(value: object) -> list[Body]:
    return [item for item in _items(value) if isinstance(item, dict)]
