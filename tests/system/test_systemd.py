"""The service as it is shipped, under the real systemd of Debian 12 and 13, installed as
docs/operating.md tells."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from booted import PACKAGES, PYTHONS, REPOSITORY, SOURCES, WHEELS, Machine, booted, need
from rig import wait_for

from forkd import syscalls

pytestmark = pytest.mark.timeout(600)  # the first time, a Debian is made
PASSWORD = "correct horse 42"
CONFIG = "/etc/forkd/forkd.toml"
PYTHON = "/usr/local/lib/forkd/bin/python"
DROP_IN = "/run/systemd/system/forkd.service.d/test.conf"
SOCKET_UNITS = ("forkd.socket", "forkd-ftp.socket")


class Service:
    """forkd.service of a machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.run = machine.run
        self.call = machine.call
        self.shipped = self.run("cat", CONFIG)

    # configuration and life

    def configure(self, **changes: str) -> None:
        """Keys of the shipped file with other values; `key="..."` in TOML."""
        lines = self.shipped.splitlines()
        for key, value in changes.items():
            (at,) = [i for i, line in enumerate(lines) if line.startswith(f"{key} = ")]
            lines[at] = f"{key} = {value}"
        self.write("\n".join(lines) + "\n")

    def write(self, text: str) -> None:
        self.run("tee", CONFIG, stdin=text)

    def drop_in(self, text: str) -> None:
        self.run("mkdir", "-p", DROP_IN.rpartition("/")[0])
        self.run("tee", DROP_IN, stdin=text)
        self.run("systemctl", "daemon-reload")

    def start(self) -> Service:
        self.run("systemctl", "start", "forkd")
        return self

    def clear(self) -> None:
        """As it was after the installation, but for accounts and files."""
        self.call("systemctl", "stop", "forkd", *SOCKET_UNITS)
        if left := self.processes():
            self.signal("KILL", *left)
            wait_for(lambda: not self.processes())
        again = f"rm -f {DROP_IN}; systemctl daemon-reload; systemctl reset-failed; cat >{CONFIG}"
        self.run("sh", "-c", again, stdin=self.shipped)

    # what is seen of it

    def show(self, name: str) -> str:
        return self.run("systemctl", "show", "--value", "-p", name, "forkd").strip()

    @property
    def state(self) -> str:
        return self.show("ActiveState")

    @property
    def pid(self) -> int:
        return int(self.show("MainPID"))

    def processes(self) -> list[int]:
        """Every process of the unit, by the machine's numbers."""
        found = self.call("cat", "/sys/fs/cgroup/system.slice/forkd.service/cgroup.procs")
        return [int(pid) for pid in found.stdout.split()]

    def signal(self, name: str, *pids: int) -> None:
        self.run("sh", "-c", f"kill -{name} {' '.join(map(str, pids))}")

    def status(self) -> dict[str, Any]:
        """Also where it is degraded."""
        body: dict[str, Any] = json.loads(self.call("forkctl", "--json", "status").stdout or "{}")
        return body

    def workers(self) -> list[int]:
        return [w["pid"] for w in self.status()["workers"] if w["state"] == "serving"]

    def proc(self, pid: int) -> dict[str, str]:
        """/proc/PID/status."""
        lines = self.run("cat", f"/proc/{pid}/status").splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def journal(self, *matches: str) -> list[dict[str, Any]]:
        """forkd's own events since the machine was booted, with the journal's fields."""
        lines = self.run("journalctl", "-u", "forkd", "-o", "json", *matches).splitlines()
        return [entry for line in lines if "FORKD_EVENT" in (entry := json.loads(line))]

    # clients

    def forkc(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.call("forkc", *words, FORKC_PASSWORD=PASSWORD)

    def put(self, name: str, port: int = 3675) -> None:
        result = self.forkc("put", "/etc/os-release", f"forkd://alice@127.0.0.1:{port}/{name}")
        assert result.returncode == 0, result.stderr

    def refuses(self, port: int = 3675) -> bool:
        """Whether nobody listens there."""
        result = self.call("bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{port}")
        return "Connection refused" in result.stderr

    @contextlib.contextmanager
    def client(self, script: str, *words: str) -> Iterator[subprocess.Popen[str]]:
        """One of the scripts beside this file, inside; it has said its first line."""
        process = subprocess.Popen(
            self.machine.command(PYTHON, f"{SOURCES}/tests/system/{script}", *words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout
            assert process.stdout.readline()
            yield process
        finally:
            process.kill()
            process.communicate()


def manual(section: str) -> list[str]:
    """The commands for root in a section of docs/operating.md."""
    text = (REPOSITORY / "docs" / "operating.md").read_text()
    _, _, rest = text.partition(f"\n## {section}\n")
    blocks = rest.partition("\n## ")[0].split("```console\n")[1:]
    lines = [line for block in blocks for line in block.partition("```")[0].splitlines()]
    commands = [line.removeprefix("# ") for line in lines if line.startswith("# ")]
    assert commands
    return commands


@pytest.fixture(scope="module", params=sorted(PYTHONS))
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """As one is that the manual was followed on."""
    need()
    with booted(request.param) as started:
        first, *others = manual("From bare Debian to a running service")
        assert first.startswith("apt-get install ")
        assert set(PACKAGES) > {word for word in first.split()[2:] if not word.startswith("-")}
        for command in others:
            local = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": WHEELS}
            started.run("sh", "-c", f"cd {SOURCES} && {command}", **local)
        assert started.run("systemctl", "is-enabled", "forkd") == "enabled\n"
        started.run("forkctl", "user", "passwd", "alice", "--password-stdin", stdin=PASSWORD)
        yield started


@pytest.fixture(scope="module")
def installed(machine: Machine) -> Service:
    service = Service(machine)
    service.clear()
    return service


@pytest.fixture
def service(installed: Service) -> Iterator[Service]:
    """Stopped, as it was installed, with the account alice."""
    yield installed
    installed.clear()


def test_it_is_active_when_it_serves(service: Service) -> None:
    service.start()
    assert service.state == "active"
    assert service.show("StatusText") == "serving, generation 1: 2 workers, 0 sessions, 0 transfers"
    assert service.status()["pid"] == service.pid
    service.put("started")
    assert "started" in service.forkc("ls", "forkd://alice@127.0.0.1/").stdout
    got = service.forkc("get", "forkd://alice@127.0.0.1/started", "-")
    assert got.stdout == service.run("cat", "/etc/os-release")


def test_no_process_of_it_is_root_or_has_a_right(service: Service) -> None:
    service.start()
    pids = service.processes()
    assert len(pids) == 5  # master, two workers, keeper, exporter
    user = service.run("id", "-u", "forkd").strip()
    assert user != "0"
    for status in map(service.proc, pids):
        assert set(status["Uid"].split()) == {user}
        rights = {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
        assert rights == {"0" * 16}
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


@pytest.mark.skipif(not syscalls.landlock_abi(), reason="this kernel has no Landlock")
def test_its_workers_are_confined_by_landlock_too(service: Service) -> None:
    before = len(service.journal())
    service.start()
    events = [entry["FORKD_EVENT"] for entry in service.journal()[before:]]
    assert "serving" in events
    assert "not-confined" not in events


def test_a_reload_is_waited_for_and_fails_when_it_is_refused(service: Service) -> None:
    service.start()
    pid = service.pid
    service.configure(stall_timeout='"1m"')
    service.run("systemctl", "reload", "forkd")
    assert service.status()["generation"] == 2
    service.write(service.shipped + "[limits.typo]\n")
    assert service.call("systemctl", "reload", "forkd").returncode != 0
    assert (service.state, service.pid) == ("active", pid)
    status = service.status()
    assert (status["generation"], status["last_reload"]["outcome"]) == (2, "failed")
    service.put("after-a-refused-reload")
    wait_for(lambda: service.show("StatusText").startswith("serving, generation 2"))


def test_a_restart_refuses_no_connection(service: Service) -> None:
    service.start()
    before = service.pid
    addresses = ("127.0.0.1:3675", "::1:3675", "/run/forkd/forkd.sock")
    with service.client("knocker.py", *addresses) as knocker:
        for _ in range(3):
            service.run("systemctl", "restart", "forkd")
        came = json.loads(knocker.communicate("stop\n")[0])
    assert came["refused"] == 0, came
    assert came["served"] > 0
    assert service.pid != before
    assert service.show("NFileDescriptorStore") == "3"


def test_what_is_configured_no_more_is_let_go_of(service: Service) -> None:
    service.configure(native='["0.0.0.0:3675", "127.0.0.1:3676"]')
    service.start()
    service.put("both", port=3676)
    service.configure(native='["0.0.0.0:3675"]')
    service.run("systemctl", "restart", "forkd")
    assert service.refuses(3676)
    service.put("one")
    assert service.show("NFileDescriptorStore") == "1"
    assert service.status()["listeners"] == ["0.0.0.0:3675"]


def test_an_upgrade_is_no_restart(service: Service) -> None:
    service.start()
    before = service.pid
    with service.client("slowpeer.py", "3675", "alice", PASSWORD, "over-an-upgrade") as peer:
        service.run("forkctl", "upgrade")
        assert (service.state, service.pid, service.show("NRestarts")) == ("active", before, "0")
        assert service.status()["generation"] == 2
        service.put("beside-it")
        assert "'size': 2097152" in peer.communicate("go on\n")[0]
    assert service.show("NFileDescriptorStore") == "3"
    wait_for(lambda: service.show("StatusText").startswith("serving, generation 2"))
    with service.client("knocker.py", "127.0.0.1:3675", "/run/forkd/forkd.sock") as knocker:
        service.run("systemctl", "restart", "forkd")
        came = json.loads(knocker.communicate("stop\n")[0])
    assert came["refused"] == 0, came


def test_a_stop_leaves_nobody_and_nothing_open(service: Service) -> None:
    service.start()
    service.run("systemctl", "stop", "forkd")
    assert service.state == "inactive"
    assert service.processes() == []
    assert service.refuses()
    assert service.call("test", "-e", "/run/forkd").returncode != 0


def test_a_stop_may_take_as_long_as_transfers_are_given(service: Service) -> None:
    """TimeoutStopSec= is shorter than server.graceful_timeout: forkd asks for more."""
    service.drop_in("[Service]\nTimeoutStopSec=2\n")
    service.start()
    with service.client("slowpeer.py", "3675", "alice", PASSWORD, "to-the-end") as peer:
        service.run("systemctl", "stop", "--no-block", "forkd")
        wait_for(lambda: service.state == "deactivating")
        time.sleep(4)
        assert "'size': 2097152" in peer.communicate("go on\n")[0]
    wait_for(lambda: service.state == "inactive")
    assert service.show("Result") == "success"


def test_forkctl_stops_it_for_good(service: Service) -> None:
    service.start()
    service.run("forkctl", "stop")
    wait_for(lambda: service.state == "inactive")
    assert service.show("NRestarts") == "0"
    assert service.refuses()


def test_the_first_connection_starts_it(service: Service) -> None:
    service.configure(ftp='["0.0.0.0:21", "[::]:21"]', tls='"allow"')
    service.run("systemctl", "start", *SOCKET_UNITS)
    assert service.state == "inactive"
    service.put("activated")
    assert service.state == "active"
    greeting = service.run("bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/21; head -c 3 <&3")
    assert greeting == "220"
    given = {"0.0.0.0:3675", "[::]:3675", "0.0.0.0:21 (ftp)", "[::]:21 (ftp)"}
    assert set(service.status()["inherited"]) == given
    assert "0.0.0.0:21 (systemd)" in service.run("forkctl", "status")
    assert service.proc(service.pid)["CapEff"] == "0" * 16
    # Its own socket in the runtime folder, and no other.
    assert service.show("NFileDescriptorStore") == "1"
    service.run("systemctl", "restart", "forkd")
    service.put("restarted")
    assert set(service.status()["inherited"]) == given


def test_a_socket_unit_for_another_door_than_configured_is_refused(service: Service) -> None:
    service.configure(native='["127.0.0.1:3676"]', ftp='["0.0.0.0:3675"]')
    service.run("systemctl", "start", "forkd.socket")
    assert service.call("systemctl", "start", "forkd").returncode != 0
    told = service.run("journalctl", "-u", "forkd", "-o", "cat")
    assert "listen.ftp names 0.0.0.0:3675, where a socket unit serves native" in told


def test_with_the_right_to_low_ports_it_binds_them_itself(service: Service) -> None:
    service.drop_in(service.run("cat", "/usr/local/share/doc/forkd/low-ports.conf"))
    service.configure(ftp='["0.0.0.0:21"]')
    service.start()
    assert "0.0.0.0:21 (ftp)" in service.status()["listeners"]
    status = service.proc(service.pid)
    assert status["CapEff"] == status["CapBnd"] == f"{1 << 10:016x}"  # CAP_NET_BIND_SERVICE


def test_a_master_that_stands_still_is_restarted(service: Service) -> None:
    service.drop_in("[Service]\nWatchdogSec=2\n")
    service.start()
    before = service.pid
    service.signal("STOP", before)
    wait_for(lambda: service.show("NRestarts") == "1" and service.state == "active", 40)
    assert service.pid != before
    service.put("after-the-watchdog")


def test_a_worker_that_stands_still_is_the_masters_to_replace(service: Service) -> None:
    service.drop_in("[Service]\nWatchdogSec=2\n")
    service.configure(watchdog_timeout='"2s"')
    service.start()
    before, (stopped, *_) = service.pid, service.workers()
    service.signal("STOP", stopped)
    wait_for(lambda: len(service.workers()) == 2 and stopped not in service.workers(), 40)
    assert (service.show("NRestarts"), service.pid) == ("0", before)


def test_transfers_outlive_a_killed_master(service: Service) -> None:
    service.start()
    before = service.pid
    with service.client("slowpeer.py", "3675", "alice", PASSWORD, "outlives") as peer:
        service.signal("KILL", before)
        wait_for(lambda: service.show("NRestarts") == "1" and service.state == "active", 40)
        assert service.pid != before
        service.put("beside-it")
        assert "'size': 2097152" in peer.communicate("go on\n")[0]
    wait_for(lambda: len(service.processes()) == 5)


def test_an_orphan_that_stands_still_is_ended_by_the_next_master(service: Service) -> None:
    """The next master has namespaces of its own, and must see and reach it all the same."""
    service.configure(watchdog_timeout='"2s"')
    service.start()
    before, (stopped, *_) = service.pid, service.workers()
    service.signal("STOP", stopped)
    service.signal("KILL", before)
    wait_for(lambda: service.show("NRestarts") == "1" and service.state == "active", 40)
    wait_for(lambda: stopped not in service.processes(), 40)
    service.put("beside-the-dead")


def test_its_lines_have_priorities(service: Service) -> None:
    service.start()
    service.write("not a configuration")
    service.call("systemctl", "reload", "forkd")
    service.write(service.shipped)
    service.signal("KILL", service.workers()[0])
    wait_for(lambda: len(service.workers()) == 2)
    priorities = {entry["FORKD_EVENT"]: entry["PRIORITY"] for entry in service.journal()}
    assert {priorities[event] for event in ("reload-failed", "died")} == {"3"}
    assert priorities["serving"] == "6"


def test_the_journal_finds_what_a_session_did(service: Service) -> None:
    service.start()
    service.put("seen")
    (transfer,) = service.journal("FORKD_EVENT=transfer", "FORKD_PATH=/seen")
    assert (transfer["FORKD_USER"], transfer["SYSLOG_IDENTIFIER"]) == ("alice", "forkd")
    found = service.journal(f"FORKD_SESSION={transfer['FORKD_SESSION']}")
    assert [entry["FORKD_EVENT"] for entry in found] == ["login", "transfer"]
    assert found[1]["MESSAGE"].startswith("transfer user=alice ")


def test_a_wrong_configuration_is_not_tried_again(service: Service) -> None:
    service.write("[server]\nworkers = -1\n")
    assert service.call("systemctl", "start", "forkd").returncode != 0
    assert (service.state, service.show("NRestarts")) == ("failed", "0")
    assert "server.workers" in service.run("journalctl", "-u", "forkd", "-o", "cat")


def test_what_the_manual_says_of_sockets(service: Service) -> None:
    service.configure(ftp='["0.0.0.0:21"]', tls='"allow"')
    try:
        for command in manual("Sockets of systemd's"):
            service.run("sh", "-c", command)
        assert "0.0.0.0:21 (ftp)" in service.status()["inherited"]
        assert service.proc(service.pid)["CapEff"] == f"{1 << 10:016x}"
    finally:
        service.run("systemctl", "disable", "--now", *SOCKET_UNITS)
        service.run("rm", "-r", "/etc/systemd/system/forkd.service.d")


TRIALS = """\
id -u
touch /srv/forkd/by-a-command && echo storage
touch /var/lib/forkd/by-a-command && echo state
touch /tmp/by-a-command && echo temporary; touch /etc/by-a-command || echo no-etc
ls /root || echo no-home; test -e /proc/1/cmdline || echo no-strangers
"""


def test_commands_run_in_the_sandbox(service: Service) -> None:
    service.write(
        f"{service.shipped}\n[commands.try]\nexec = {json.dumps(['sh', '-c', TRIALS])}\n"
        'users = ["alice"]\n'
    )
    service.start()
    told = service.forkc("run", "forkd://alice@127.0.0.1", "try").stdout.split()
    user = service.run("id", "-u", "forkd").strip()
    denied = ["no-etc", "no-home", "no-strangers"]
    assert told == [user, "storage", "state", "temporary", *denied]


def test_what_is_the_administrators_outlives_installing_and_removing(installed: Service) -> None:
    """The last one: it leaves no forkd."""
    installed.start()
    installed.write(f"{installed.shipped}# mine\n")
    local = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": WHEELS}
    installed.run("make", "-C", SOURCES, "install-systemd", **local)
    assert installed.run("cat", CONFIG).endswith("# mine\n")
    pages = [f"/usr/local/share/man/{page}" for page in ("man1/forkc.1", "man5/forkd.toml.5")]
    installed.run("ls", *pages)
    before = installed.pid
    installed.run("forkctl", "upgrade")
    assert (installed.pid, installed.status()["generation"]) == (before, 2)
    installed.put("installed-again")
    installed.run("make", "-C", SOURCES, "uninstall-systemd")
    assert installed.show("LoadState") == "not-found"
    assert installed.processes() == []
    assert installed.call("which", "forkd", "forkctl", "forkc").stdout == ""
    assert installed.call("ls", *pages).stdout == ""
    for kept in (
        CONFIG,
        "/etc/logrotate.d/forkd",
        "/var/lib/forkd/accounts.db",
        "/srv/forkd/alice/installed-again",
    ):
        installed.run("test", "-e", kept)
