"""One screen: what it tells of a daemon in all states."""

from __future__ import annotations

import pytest

from forkd import reports
from forkd.admin.statusview import status_screen

WORKER = reports.Worker(
    role="worker",
    state="serving",
    slot=2,
    number=1,
    pid=77,
    generation=3,
    sessions=4,
    transfers=3,
    downloads=2,
    uploads=1,
    restarts=2,
    last_death="signal 9 (SIGKILL)",
    cpu_percent=31.4,
    rss_bytes=41 << 20,
    started_ms=1_000_000,
    beat_age=0.25,
)
STATUS = reports.Status(
    version="9.8",
    pid=5,
    listeners=["0.0.0.0:3675", "unix:/run/s", "0.0.0.0:21 (ftp)"],
    inherited=["0.0.0.0:21 (ftp)"],
    tls="auto",
    sessions_limit=20_000,
    rates=reports.Rates(bytes_up=2 << 20, bytes_down=18 << 20),
    workers=[WORKER],
)


def screen(width: int = 120, **changed: object) -> str:
    fields = {name: getattr(STATUS, name) for name in STATUS.__struct_fields__} | changed
    return status_screen(reports.Status(**fields), 1120.0, width)  # type: ignore[arg-type]


def test_it_tells_doors_load_and_deaths() -> None:
    shown = screen()
    for said in (
        "native 0.0.0.0:3675   unix:/run/s   ftp 0.0.0.0:21 (systemd)   (tls auto)",
        "4 of 20,000   transfers 3 (2 down, 1 up)   out 18.0 MiB/s   in 2.0 MiB/s",
        "worker 1 2 times, last: signal 9 (SIGKILL)",
    ):
        assert said in shown
    row = shown.splitlines()[-1].split()
    assert row[:5] == ["2", "1", "77", "3", "serving"]
    assert "31" in row


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"state": "drained"}, "no new sessions (forkctl undrain to serve again)"),
        (
            {
                "state": "drained",
                "drained_until": 3600.0,
                "totals": reports.Totals(sessions_now=1),
            },
            "transfers are cut at 01:00:00 UTC",
        ),
        (
            {"log": reports.LogLevel(level="debug", configured="info")},
            "log level   debug until the next reload",
        ),
        ({"workers": []}, "serving, degraded"),
        (
            {"backing_off": [reports.Down(what="worker 2", failures=4, retry_in=2.0, reason="x")]},
            "worker 2: x (4 failures in a row, tried again in 2.0 s)",
        ),
        (
            {"last_reload": reports.LastReload(at=0.0, outcome="failed", message="a\nb", took=0.5)},
            "failed  1970-01-01 00:00:00 UTC  took 0.50 s   a; b",
        ),
        ({"hooks": reports.Hooks(names=["scan"], told=3, oldest=1000.0)}, "told 3   oldest 2m 00s"),
    ],
)
def test_what_is_out_of_the_ordinary_is_told(changed: dict[str, object], said: str) -> None:
    assert said in screen(**changed)


def test_a_worker_says_until_when_it_drains() -> None:
    fields = {name: getattr(WORKER, name) for name in WORKER.__struct_fields__}
    leaving = reports.Worker(**fields | {"state": "draining", "until": 25331.0})
    assert "draining until 07:02:11 UTC" in screen(workers=[WORKER, leaving])


def test_a_narrow_terminal_gets_the_columns_that_matter() -> None:
    shown = screen(width=80)
    assert max(map(len, shown.splitlines())) <= 80
    for heading in ("SLOT", "STATE", "SESSIONS", "RESTARTS", "RSS"):
        assert heading in shown
