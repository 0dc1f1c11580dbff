"""What Prometheus sees while workers come and go by the thousand, and while a row is damaged."""

from __future__ import annotations

import http.client
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import quantiles

import pytest
from children import Child
from rig import Daemon, free_port, wait_for
from torture import Tell, scale

from forkd.config import Config, Log, Metrics, Server
from forkd.scoreboard import ROWS, SLOTS, Row, Scoreboard, State
from forkd.seat import ChildSeat

AT_ONCE = 8
Series = dict[str, float]


class Exporter:
    """The exporter alone, over a board whose writers are ours."""

    def __init__(self, folder: Path) -> None:
        self.board = Scoreboard.create(str(folder / "board"))
        self.port = free_port()
        self.seconds: list[float] = []
        """What each scrape took."""
        config = Config(
            server=Server(state_dir=str(folder), runtime_dir=str(folder)),
            metrics=Metrics(listen=f"127.0.0.1:{self.port}"),
            log=Log(file=str(folder / "log"), format="json"),
        )
        self.child = Child(
            lambda link: ChildSeat("exporter", 0, 1, 1, config, self.board, link, ())
        )

    def scrape(self) -> Series:
        begun = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        assert answer.status == 200
        text = answer.read().decode()
        connection.close()
        self.seconds.append(time.monotonic() - begun)
        lines = [line.rpartition(" ") for line in text.splitlines() if line[0] != "#"]
        assert len({name for name, _, _ in lines}) == len(lines)
        return {name: float(value) for name, _, value in lines}


@pytest.fixture
def exporter(folder: Path) -> Iterator[Exporter]:
    exporter = Exporter(folder)
    try:
        exporter.child.ready()
        yield exporter
    finally:
        exporter.child.leave_alone()
        exporter.child.wait()


def counters(series: Series) -> Series:
    ends = ("_total", "_count", "_sum", "_bucket")
    return {name: n for name, n in series.items() if name.partition("{")[0].endswith(ends)}


def fell(before: Series, after: Series) -> list[str]:
    later = counters(after)
    return [name for name, value in counters(before).items() if later[name] < value]


def cpu_seconds(pid: int) -> float:
    """Of processors, by a process so far: proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def fork_worker(row: Row, number: int) -> int:
    """A process that sits down, counts, and leaves in order or is killed."""
    pid = os.fork()
    if pid:
        return pid
    try:
        row.take_seat(os.getpid(), 1 + number // SLOTS, int(time.time() * 1000))
        row.set("state", State.SERVING)
        row.set("beat_ns", time.monotonic_ns())
        row.add("sessions_total")
        row.add("refusals_total:quota", 2)
        row.add("bytes_total:ftp:up", 1000)
        row.transfer("ftp", "up", 1000, 0.01, True)
        row.committed(0.004)
        if number % 2:
            os.kill(os.getpid(), signal.SIGKILL)
    finally:
        os._exit(0)


def recycle(board: Scoreboard, numbers: range) -> None:
    """Each in the next slot; they end before this returns, and the master cleans up."""
    slots = [1 + number % SLOTS for number in numbers]
    pids = [fork_worker(board.rows[s], n) for s, n in zip(slots, numbers, strict=True)]
    for pid in pids:
        os.waitpid(pid, 0)
    for slot in slots:
        board.rows[slot].clear_gauges()


@pytest.mark.torture
def test_recycled_workers_leave_no_series_and_take_no_count(exporter: Exporter, tell: Tell) -> None:
    count = scale(640, 10_000)
    before = first = exporter.scrape()
    spent = cpu_seconds(exporter.child.pid)
    falls: list[str] = []
    for begin in range(0, count, AT_ONCE):
        recycle(exporter.board, range(begin, min(begin + AT_ONCE, count)))
        after = exporter.scrape()
        falls += fell(before, after)
        before = after
    assert not falls
    # the age of the scoreboard is known once somebody was there
    assert set(before) - set(first) <= {"forkd_scoreboard_age_seconds"}
    assert set(first) <= set(before)
    assert before["forkd_sessions_total"] == count
    assert before['forkd_refusals_total{reason="quota"}'] == 2 * count
    assert before['forkd_transfer_bytes_total{direction="up",protocol="ftp"}'] == 1000 * count
    assert before['forkd_transfer_duration_seconds_count{direction="up"}'] == count
    assert before['forkd_commit_duration_seconds_bucket{le="0.005"}'] == count
    assert before["forkd_scoreboard_damaged_rows"] == 0
    cpu = (cpu_seconds(exporter.child.pid) - spent) / (len(exporter.seconds) - 1)
    tell(
        recycled=count,
        scrapes=len(exporter.seconds),
        series=len(before),
        median_ms=quantiles(exporter.seconds, n=100)[49] * 1000,
        p99_ms=quantiles(exporter.seconds, n=100)[98] * 1000,
        cpu_ms_a_scrape=cpu * 1000,
    )


def scribble(board_path: str, number: int) -> None:
    """Garbage over a whole row of the file, its guards too."""
    size = (os.stat(board_path).st_size - 4096) // ROWS
    with open(board_path, "r+b", buffering=0) as file:
        file.seek(4096 + number * size)
        file.write(os.urandom(size))


def test_a_damaged_row_costs_only_itself(exporter: Exporter) -> None:
    recycle(exporter.board, range(SLOTS))
    sound = exporter.scrape()
    scribble(exporter.board.path, 7)
    recycle(exporter.board, range(4))
    damaged = exporter.scrape()
    assert damaged["forkd_scoreboard_damaged_rows"] == 1
    assert damaged["forkd_sessions_total"] == SLOTS + 4
    assert not fell(sound, damaged)
    assert damaged.keys() == sound.keys()
    recycle(exporter.board, range(6, 7))  # number 6 sits in slot 7
    mended = exporter.scrape()
    assert mended["forkd_scoreboard_damaged_rows"] == 0
    assert mended["forkd_sessions_total"] == SLOTS + 5
    assert not fell(damaged, mended)


def test_a_daemon_with_a_damaged_row_goes_on(daemon: Daemon) -> None:
    """The worker whose row it is may serve on; once it is gone, the row counts again."""
    daemon.log_in().put("f", b"1")
    before = daemon.metrics()
    victim = daemon.workers()[0]
    scribble(str(daemon.run / "scoreboard"), victim["slot"])
    wait_for(lambda: daemon.metrics()["forkd_scoreboard_damaged_rows"] == 1)
    assert not fell(before, daemon.metrics())
    if victim["pid"] in daemon.processes():
        os.kill(victim["pid"], signal.SIGKILL)
    wait_for(lambda: daemon.metrics()["forkd_scoreboard_damaged_rows"] == 0)
    wait_for(lambda: len(daemon.workers()) == 2)
    peer = daemon.log_in()
    assert peer.get("f") == b"1"
    after = daemon.metrics()
    assert not fell(before, after)
    assert after["forkd_sessions_total"] >= before["forkd_sessions_total"] + 1
    assert after["forkd_worker_restarts_total"] == 1
