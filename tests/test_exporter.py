"""The exporter as its own process, scraped over real sockets."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from children import Child
from prometheus_client.parser import text_string_to_metric_families

from forkd.config import Config, Log, Metrics, Server
from forkd.helpers import exporter
from forkd.ledger import file as ledgerfile
from forkd.limits import file as limitsfile
from forkd.limits.table import open_table
from forkd.listen import ListenAddress
from forkd.messages import Drain, Kick, Unable
from forkd.scoreboard import MASTER_ROW, Scoreboard, State
from forkd.seat import ChildSeat


class Nest:
    """A runtime and state folder, a scoreboard, and the exporters started over them."""

    def __init__(self, tmp: Path) -> None:
        self.tmp = tmp
        self.board = Scoreboard.create(str(tmp / "scoreboard"))
        self.port = free_port(socket.AF_INET)
        self.listen = f"127.0.0.1:{self.port}"
        self.stack = ExitStack()

    def config(self) -> Config:
        return Config(
            server=Server(state_dir=str(self.tmp), runtime_dir=str(self.tmp)),
            metrics=Metrics(listen=self.listen, top_users=2),
            log=Log(file=str(self.tmp / "log"), format="json"),
        )

    def start(self) -> Child:
        config = self.config()
        child = Child(lambda link: ChildSeat("exporter", 0, 1, 1, config, self.board, link, ()))
        self.stack.callback(child.end)
        return child

    def ready(self) -> Child:
        return self.start().ready()

    def get(self, path: str, method: str = "GET") -> tuple[int, str]:
        address = ListenAddress("inet", "127.0.0.1", self.port)
        return http_get(address, path, method)

    def series(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        status, text = self.get("/metrics")
        assert status == 200
        found = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                key = (sample.name, tuple(sorted(sample.labels.items())))
                assert key not in found, f"{key} twice"
                found[key] = sample.value
        return found

    def value(self, name: str, **labels: str) -> float | None:
        return self.series().get((name, tuple(sorted(labels.items()))))


def free_port(family: int) -> int:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        return int(probe.getsockname()[1])


def http_get(address: ListenAddress, path: str, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection(address.host, address.port, timeout=30)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


@pytest.fixture
def nest(tmp_path: Path) -> Iterator[Nest]:
    nest = Nest(tmp_path)
    with nest.stack:
        yield nest


def test_serves_what_the_board_says(nest: Nest) -> None:
    nest.board.rows[MASTER_ROW].take_seat(os.getpid(), 7, 1_700_000_000_500)
    row = nest.board.rows[3]
    row.take_seat(4711, 7, 1)
    row.set("state", State.SERVING)
    row.set("sessions", 12)
    row.set("transfers", 2)
    row.set("beat_ns", time.monotonic_ns())
    row.add("logins_total:failed", 5)
    row.add("bytes_total:native:up", 1000)
    row.transfer("native", "up", 1000, 0.01, True)
    row.transfer("native", "up", 5000, 0.3, True)
    row.transfer("native", "down", 9, 0.3, False)
    row.add("refusals_total:quota", 4)
    nest.board.rows[MASTER_ROW].add("reloads_total:failed")
    nest.ready()
    series = nest.series()

    def of(name: str, **labels: str) -> float:
        return series[name, tuple(sorted(labels.items()))]

    assert of("forkd_start_time_seconds") == 1_700_000_000.5
    assert of("forkd_config_generation") == 7
    assert of("forkd_workers", state="serving") == 1
    assert of("forkd_workers", state="draining") == 0
    assert of("forkd_sessions") == 12
    assert of("forkd_transfers_active") == 2
    assert of("forkd_logins_total", outcome="failed") == 5
    assert of("forkd_refusals_total", reason="quota") == 4
    assert of("forkd_reloads_total", outcome="failed") == 1
    up = {"protocol": "native", "direction": "up"}
    assert of("forkd_transfer_bytes_total", **up) == 1000
    assert of("forkd_transfers_total", outcome="ok", **up) == 2
    down = {"protocol": "native", "direction": "down"}
    assert of("forkd_transfers_total", outcome="failed", **down) == 1
    size = "forkd_transfer_size_bytes"
    assert of(size + "_bucket", direction="up", le="1024.0") == 1
    assert of(size + "_bucket", direction="up", le="16384.0") == 2
    assert of(size + "_bucket", direction="up", le="+Inf") == of(size + "_count", direction="up")
    assert of(size + "_sum", direction="up") == 6000
    duration = "forkd_transfer_duration_seconds"
    assert of(duration + "_bucket", direction="up", le="0.02") == 1
    assert of(duration + "_sum", direction="up") == pytest.approx(0.31)
    assert of(duration + "_count", direction="down") == 0
    assert of("forkd_worker_heartbeat_age_seconds", slot="3") >= 0
    assert [key for key in series if key[0].startswith(("python_", "process_"))] == []


def test_counters_outlive_their_workers(nest: Nest) -> None:
    nest.ready()
    row = nest.board.rows[1]
    row.take_seat(1, 1, 1)
    row.set("beat_ns", 5)
    row.add("sessions_total", 3)
    row.set("sessions", 3)
    assert nest.value("forkd_sessions_total") == 3
    row.clear_gauges()
    assert nest.value("forkd_sessions_total") == 3
    assert nest.value("forkd_sessions") == 0
    assert nest.value("forkd_worker_heartbeat_age_seconds", slot="1") is None
    row.take_seat(2, 1, 1)
    row.add("sessions_total")
    assert nest.value("forkd_sessions_total") == 4


def test_a_corrupt_row_costs_only_itself(nest: Nest) -> None:
    good, bad = nest.board.rows[1], nest.board.rows[2]
    good.take_seat(1, 1, 1)
    good.set("state", State.SERVING)
    bad.take_seat(2, 1, 1)
    bad.set("state", 2**64 - 1)
    bad.set("beat_ns", 2**64 - 1)
    bad.set("sessions", 2**64 - 1)
    nest.ready()
    assert nest.value("forkd_workers", state="serving") == 1
    assert nest.value("forkd_sessions") == 0
    assert nest.get("/readyz")[0] == 200


def test_quota_of_the_fullest_and_the_rest(nest: Nest) -> None:
    path = str(nest.tmp / "ledger")
    ledgerfile.allocate(path, 10)
    ledger = ledgerfile.LedgerFile(path)
    nest.stack.callback(ledger.close)
    for ident, (name, charged, limit) in enumerate(
        [("half", 50, 100), ("full", 10, 10), ("free", 9000, -1), ("low", 1, 100)], 1
    ):
        ledger.write_limit(ident, name, limit)
        ledger.write_charge(ident, charged, 1)
    ledger.write_lease(1, 0, ledgerfile.HELD, 1, 30, b"x")
    nest.ready()
    assert nest.value("forkd_quota_used_bytes", user="full") == 10
    assert nest.value("forkd_quota_used_bytes", user="half") == 50
    assert nest.value("forkd_quota_reserved_bytes", user="half") == 30
    assert nest.value("forkd_quota_limit_bytes", user="half") == 100
    assert nest.value("forkd_quota_used_bytes", user="_other") == 9001
    assert nest.value("forkd_quota_limit_bytes", user="_other") is None
    assert nest.value("forkd_quota_used_bytes", user="free") is None
    ledger.write_charge(1, 60, 2)
    assert nest.value("forkd_quota_used_bytes", user="half") == 60


def test_bans_in_force(nest: Nest) -> None:
    limitsfile.allocate(nest.config(), in_use=False)
    table = open_table(nest.config(), 0)
    nest.stack.callback(table.file.close)
    nest.ready()
    assert nest.value("forkd_bans_in_force") == 0
    for origin, seconds in (("192.0.2.1", 60), ("192.0.2.2", 60), ("192.0.2.3", -1)):
        table.ban(origin, seconds)
    assert nest.value("forkd_bans_in_force") == 2


def test_a_scrape_without_limits(nest: Nest) -> None:
    nest.ready()
    assert nest.value("forkd_bans_in_force") is None
    assert nest.value("forkd_bans_total") == 0


def test_a_scrape_without_a_ledger(nest: Nest) -> None:
    nest.ready()
    names = {name for name, _ in nest.series()}
    assert "forkd_sessions" in names
    assert "forkd_quota_used_bytes" not in names
    assert "the ledger cannot be read" in (nest.tmp / "log").read_text()


def test_promtool_has_nothing_to_say(nest: Nest) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    ledgerfile.allocate(str(nest.tmp / "ledger"), 10)
    row = nest.board.rows[1]
    row.take_seat(1, 1, 1)
    row.set("beat_ns", 1)
    nest.ready()
    _, text = nest.get("/metrics")
    check = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (check.returncode, check.stdout, check.stderr) == (0, "", "")


def test_text_format_whatever_is_asked_for(nest: Nest) -> None:
    nest.ready()
    connection = http.client.HTTPConnection("127.0.0.1", nest.port, timeout=30)
    connection.request(
        "GET", "/metrics?name[]=x", headers={"Accept": "application/openmetrics-text"}
    )
    answer = connection.getresponse()
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert b"forkd_build_info{version=" in answer.read()
    connection.close()


def test_health_readiness_and_the_rest(nest: Nest) -> None:
    nest.ready()
    assert nest.get("/healthz") == (200, "ok\n")
    assert nest.get("/readyz") == (503, "no worker runs\n")
    row = nest.board.rows[1]
    row.take_seat(1, 1, 1)
    assert nest.get("/readyz") == (503, "no worker serves: 1 starting\n")
    row.set("state", State.SERVING)
    assert nest.get("/readyz") == (200, "ok\n")
    assert nest.get("/healthz", "HEAD") == (200, "")
    assert nest.get("/")[0] == 404
    assert nest.get("/metrics", "POST")[0] == 501


@pytest.mark.parametrize("how", ["drain", "eof"])
def test_leaves_when_told_or_alone(nest: Nest, how: str) -> None:
    child = nest.ready()
    child.link.send(Kick(1, "x"))  # not for an exporter
    assert nest.get("/healthz")[0] == 200
    if how == "drain":
        child.link.send(Drain(5))
    else:
        child.leave_alone()
    assert child.wait() == "status 0"
    assert not (nest.tmp / "exporter.sock").exists()
    with pytest.raises(ConnectionRefusedError):
        nest.get("/healthz")


def test_an_address_in_use_is_reported(nest: Nest) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", nest.port))
        other.listen()
        child = nest.start()
        message = child.told()
        assert isinstance(message, Unable)
        assert message.reason.startswith(f"metrics.listen: cannot listen on {nest.listen}")
        assert child.wait() == "status 1"


def test_another_daemon_of_ours_does_not_share_the_port(nest: Nest, tmp_path: Path) -> None:
    nest.ready()
    far = tmp_path / "far"
    far.mkdir()
    second = Nest(far)
    second.listen = nest.listen
    with second.stack:
        child = second.start()
        assert isinstance(child.told(), Unable)
        assert child.wait() == "status 1"
    assert nest.get("/healthz")[0] == 200


def inode_of(port: int) -> str:
    """Of the socket that listens there: proc_net_tcp(5)."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(f":{port:04X}") and fields[3] == "0A":
            return fields[9]
    raise AssertionError(f"nobody listens at port {port}")


def test_a_successor_takes_over_without_a_gap(nest: Nest) -> None:
    first = nest.ready()
    second = nest.ready()
    with ExitStack() as stack:
        for child in (first, second):
            child.signal(signal.SIGSTOP)
        waiting = [
            stack.enter_context(socket.create_connection(("127.0.0.1", nest.port), timeout=30))
            for _ in range(6)
        ]
        for client in waiting:
            client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        first.link.send(Drain())
        for child in (first, second):
            child.signal(signal.SIGCONT)
        assert first.wait() == "status 0"
        for client in waiting:
            assert client.recv(65536).startswith(b"HTTP/1.0 200")
    third = nest.ready()
    (listening,) = (
        fd
        for fd in os.listdir(f"/proc/{third.pid}/fd")
        if os.readlink(f"/proc/{third.pid}/fd/{fd}") == f"socket:[{inode_of(nest.port)}]"
    )
    flags = Path(f"/proc/{third.pid}/fdinfo/{listening}").read_text().split("flags:")[1].split()[0]
    assert int(flags, 8) & os.O_CLOEXEC
    second.link.send(Drain())
    assert second.wait() == "status 0"
    assert nest.get("/healthz")[0] == 200
    third.leave_alone()
    assert third.wait() == "status 0"


def test_a_killed_exporter_leaves_nothing_in_the_way(nest: Nest) -> None:
    first = nest.ready()
    first.signal(signal.SIGKILL)
    assert first.wait() == "signal 9 (SIGKILL)"
    nest.ready()
    assert nest.get("/healthz")[0] == 200


def test_stalled_scrapers_are_bounded(nest: Nest) -> None:
    nest.ready()
    with ExitStack() as stack:
        for _ in range(exporter.MAX_REQUESTS):
            stalled = stack.enter_context(socket.create_connection(("127.0.0.1", nest.port), 30))
            stalled.sendall(b"GET /metrics HTTP/1.0\r\n")
        with socket.create_connection(("127.0.0.1", nest.port), timeout=30) as refused:
            assert refused.recv(65536).startswith(b"HTTP/1.0 503 ")
    while True:  # the places come back once the stalled ones are gone
        status, _ = nest.get("/healthz")
        if status == 200:
            break
        assert status == 503


def test_ipv6(nest: Nest) -> None:
    try:
        port = free_port(socket.AF_INET6)
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    nest.listen = f"[::1]:{port}"
    nest.ready()
    assert http_get(ListenAddress("inet6", "::1", port), "/healthz")[0] == 200


def test_the_title_says_what_it_is(nest: Nest) -> None:
    child = nest.ready()
    assert child.title() == "forkd: exporter"
