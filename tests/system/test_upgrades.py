"""Upgrades: another version goes on in the same process, and no transfer notices.

The daemon runs a copy of the package (installed.py); changing that copy is what installing another
version is for a real one.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from installed import VERSION, InstalledDaemon
from rig import BIN, Daemon, wait_for
from torture import FULL

MIB = 1 << 20
NEXT = "0.0.2"
CONTENT = os.urandom(3 * MIB)


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., InstalledDaemon]]:
    """Start a daemon with the user alice: start(server={"workers": "1"}, env={...})."""
    with ExitStack() as stack:

        def started(env: dict[str, str] | None = None, **settings: Any) -> InstalledDaemon:
            daemon = InstalledDaemon(folder, settings)
            stack.callback(daemon.destroy)
            daemon.start(env=env or {})
            daemon.add_user("alice")
            return daemon

        yield started


@pytest.fixture(scope="module")
def steady() -> Iterator[InstalledDaemon]:
    """For tests after which the first version still serves, in its first generation."""
    with tempfile.TemporaryDirectory(prefix="forkd-") as folder:
        daemon = InstalledDaemon(Path(folder))
        try:
            daemon.start()
            daemon.add_user("alice")
            yield daemon
        finally:
            daemon.destroy()


@pytest.fixture
def installed(start: Callable[..., InstalledDaemon]) -> InstalledDaemon:
    return start()


class Upload:
    """Half of a streamed put; the rest is sent by `finish`."""

    def __init__(self, daemon: Daemon, name: str) -> None:
        self._daemon, self._name = daemon, name
        self._peer = daemon.log_in(address=(daemon.host, daemon.port))
        self._ident, _ = self._peer.begin(name, len(CONTENT), tag="t", client="c")
        self._peer.data(self._ident, CONTENT[:MIB])

    def finish(self) -> None:
        self._peer.data(self._ident, CONTENT[MIB:], last=True)
        assert self._peer.answer(self._ident)[0]["size"] == len(CONTENT)
        assert (self._daemon.home() / self._name).read_bytes() == CONTENT
        self._peer.close()


def upgrade_by(daemon: Daemon, how: str) -> None:
    """Returns when the next generation serves."""
    generation = daemon.status()["generation"]
    if how == "USR2":
        # a service manager may signal all processes; the children do not mind
        for pid in sorted(daemon.processes(), reverse=True):
            os.kill(pid, signal.SIGUSR2)
        wait_for(lambda: reached(daemon, generation + 1), 60)
    else:
        result = daemon.ctl("upgrade")
        assert result.returncode == 0, result.stderr
        assert f"generation {generation + 1}: 2 workers serving" in result.stdout
    assert daemon.status()["generation"] == generation + 1


def reached(daemon: Daemon, generation: int) -> bool:
    status = daemon.status()
    return status["generation"] == generation and status["state"] == "serving"


def who_serves(daemon: Daemon) -> object:
    status = daemon.status()
    serving = [(w["pid"], w["generation"]) for w in status["workers"] if w["state"] == "serving"]
    return status["pid"], status["version"], status["generation"], serving


def replace_a_worker(daemon: Daemon) -> None:
    """Kill one that has no transfer."""
    sessions = json.loads(daemon.ctl("--json", "sessions", "--interval", "0").stdout)
    busy = {session["slot"] for session in sessions if session["state"] == "upload"}
    victim = next(w["pid"] for w in daemon.workers() if w["slot"] not in busy)
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: victim not in pids(daemon) and len(pids(daemon)) == 2)


def pids(daemon: Daemon) -> set[int]:
    return {worker["pid"] for worker in daemon.workers()}


def mapped(daemon: Daemon) -> dict[str, tuple[int, int]]:
    """The files that all processes share."""
    paths = (daemon.run / "scoreboard", daemon.run / "limits", daemon.state / "ledger")
    return {path.name: (path.stat().st_dev, path.stat().st_ino) for path in paths}


@pytest.mark.parametrize("how", ["USR2", "forkctl"])
def test_an_upgrade_cuts_no_transfer(installed: InstalledDaemon, how: str) -> None:
    daemon = installed
    ups = [Upload(daemon, f"up{number}") for number in range(4)]
    before, shared, counted = daemon.status(), mapped(daemon), daemon.metrics()
    assert before["version"] == VERSION
    daemon.installed.set_version(NEXT)
    upgrade_by(daemon, how)
    after = daemon.status()
    assert (after["version"], after["pid"]) == (NEXT, before["pid"])
    assert after["uptime"] > before["uptime"]
    assert f"{VERSION} is replaced by {NEXT}" in after["last_reload"]["message"]
    assert after["listeners"] == before["listeners"]
    assert after["totals"]["sessions"] >= before["totals"]["sessions"]
    assert mapped(daemon) == shared
    old = {w["pid"] for w in before["workers"]}
    assert {w["pid"] for w in after["workers"] if w["state"] == "draining"} <= old
    newcomer = daemon.log_in(address=(daemon.host, daemon.port))
    newcomer.put("new", b"served")
    assert newcomer.hello["server"] == f"forkd {NEXT}"
    upgrade_by(daemon, how)  # what was taken over can be handed on
    for up in ups:
        up.finish()
    now = daemon.metrics()
    assert all(now[name] >= counted[name] for name in counted if "_total" in name)
    daemon.hang_up()
    wait_for(lambda: {w["generation"] for w in daemon.status()["workers"]} == {3}, 60)
    assert [account["drift"] for account in daemon.verify()] == [0]
    assert daemon.stop() == 0
    assert not daemon.processes()
    assert not os.path.exists(daemon.unix_path)
    assert not (daemon.run / "control.sock").exists()


BROKEN: dict[str, tuple[str, str, str]] = {
    "syntax": ("worker.py", "def broken(:", "SyntaxError"),
    "import": ("__init__.py", "raise RuntimeError('no moon')", "no moon"),
    "no worker": ("worker.py", "def main(seat): import os; os._exit(7)", "a worker of it ended"),
    "worker raises": ("worker.py", "def main(seat): raise OSError('no sun')", "no sun"),
    "other layout": ("scoreboard.py", "_MAGIC = b'forkd other'", "another layout"),
    "other form": ("supervisor/estate.py", "FORMAT = 2", "restart forkd"),
    "no answer": ("cli.py", "def main(): return 0", "does not know of upgrades"),
    "hangs": ("cli.py", "import time; time.sleep(3600)", "did not get ready within"),
}
"""What is wrong with the installed version -> where, how, and what the refusal tells."""


CASES = [case for case in BROKEN if FULL or case != "hangs"]
"""The short form leaves the one out that takes its time; tests/test_trial.py has it too."""


@pytest.mark.parametrize("case", CASES)
def test_a_version_that_cannot_serve_changes_nothing(steady: InstalledDaemon, case: str) -> None:
    daemon = steady
    up = Upload(daemon, case)
    wait_for(lambda: sum(w["transfers"] for w in daemon.workers()) == 1)
    before = who_serves(daemon)
    name, text, told = BROKEN[case]
    daemon.installed.append(name, text)
    try:
        result = daemon.ctl("upgrade")
        assert result.returncode == 1
        assert "the installed version cannot take over: " in result.stderr
        assert told in result.stderr
        assert result.stderr.endswith("nothing was changed; generation 1 goes on serving\n")
        assert who_serves(daemon) == before
        assert told in daemon.status()["last_reload"]["message"]
        if name == "worker.py":
            # It is whole: who dies is replaced by what runs, and not by what is installed.
            replace_a_worker(daemon)
    finally:
        daemon.installed.mend()
    up.finish()


def test_a_version_whose_helper_dies_leaves_the_old_workers_serving(
    installed: InstalledDaemon,
) -> None:
    """No trial can find everything: this one fails after the new program has taken over."""
    daemon = installed
    up = Upload(daemon, "up")
    wait_for(lambda: sum(w["transfers"] for w in daemon.workers()) == 1)
    replace_a_worker(daemon)
    old, known = pids(daemon), what_is_known(daemon)
    daemon.installed.append("helpers/exporter.py", "def main(seat): raise OSError('no stars')")
    daemon.installed.set_version(NEXT)
    daemon.configure("limits", sessions_per_user="1")
    result = daemon.ctl("upgrade")
    assert result.returncode == 1
    assert "no stars" in result.stderr
    assert result.stderr.endswith(
        f"the master is of version {NEXT} already; generation 1, of version {VERSION}, goes on "
        "serving\n"
    )
    assert pids(daemon) == old
    assert what_is_known(daemon) == known
    assert daemon.status()["changed_on_disk"]
    replace_a_worker(daemon)
    for _ in range(3):  # who comes in place of the dead has what the others have
        daemon.log_in()
    up.finish()
    daemon.hang_up()
    daemon.installed.mend()
    upgrade_by(daemon, "forkctl")
    assert not pids(daemon) & old


def what_is_known(daemon: Daemon) -> object:
    """Of the generation that serves: since when, and who of it died of what."""
    status = daemon.status()
    serving = (w for w in status["workers"] if w["generation"] == status["generation"])
    deaths = sorted((w["number"], w["restarts"], w["last_death"]) for w in serving)
    assert "signal 9 (SIGKILL)" in {cause for _, _, cause in deaths}
    return status["loaded_at"], deaths


def trials(daemon: Daemon) -> list[int]:
    """The processes that try the installed version."""
    found = []
    for pid in daemon.processes():
        line = Path(f"/proc/{pid}/cmdline")
        if line.exists() and line.read_bytes().startswith(b"forkd: trial"):
            found.append(pid)
    return found


def test_one_upgrade_at_a_time_and_its_trial_may_be_killed(installed: InstalledDaemon) -> None:
    daemon = installed
    up, before = Upload(daemon, "up"), who_serves(daemon)
    at_first = len(daemon.processes())
    daemon.installed.append("cli.py", "import time; time.sleep(3600)")
    daemon.signal(signal.SIGUSR2)
    (trial,) = wait_for(lambda: trials(daemon))
    for command in ("upgrade", "reload"):
        refused = daemon.ctl(command)
        assert refused.returncode == 1
        assert refused.stderr == "forkctl: an upgrade is under way\n"
    daemon.signal(signal.SIGUSR2)
    os.kill(trial, signal.SIGKILL)
    wait_for(lambda: daemon.status()["last_reload"])
    assert "its trial ended with signal 9" in daemon.status()["last_reload"]["message"]
    wait_for(lambda: len(daemon.processes()) == at_first)
    assert who_serves(daemon) == before
    up.finish()
    daemon.installed.mend()
    daemon.installed.set_version(NEXT)
    upgrade_by(daemon, "forkctl")
    assert daemon.status()["version"] == NEXT


def test_a_stop_ends_a_trial(installed: InstalledDaemon) -> None:
    installed.installed.append("cli.py", "import time; time.sleep(3600)")
    asking = subprocess.Popen(
        [BIN / "forkctl", "-c", installed.config, "upgrade"], stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: trials(installed))
    assert installed.stop() == 0
    assert "the daemon is stopping" in asking.communicate(timeout=30)[1]
    assert asking.returncode == 1
    assert not installed.processes()


def test_a_master_killed_amid_the_upgrade_leaves_its_transfers(installed: InstalledDaemon) -> None:
    daemon = installed
    ups = [Upload(daemon, f"up{number}") for number in range(3)]
    wait_for(lambda: sum(w["transfers"] for w in daemon.workers()) == 3)
    daemon.installed.replace(
        "supervisor/takeover.py",
        "    config = configured(left.settings)\n",
        "    import time\n    time.sleep(3600)\n",
    )
    daemon.signal(signal.SIGUSR2)
    wait_for(lambda: "becoming" in {event["event"] for event in daemon.events()})
    wait_for(lambda: b"forkd: master" not in Path(f"/proc/{daemon.pid}/cmdline").read_bytes())
    daemon.signal(signal.SIGHUP)  # it waits, instead of ending a program that has no handler yet
    peer = daemon.log_in()  # the workers know nothing of it
    daemon.signal(signal.SIGKILL)
    assert daemon.process
    daemon.process.wait(10)
    peer.close()
    daemon.installed.mend()
    daemon.installed.set_version(NEXT)
    daemon.start()
    daemon.log_in().put("new", b"served")
    for up in ups:
        up.finish()
    daemon.hang_up()
    wait_for(lambda: not daemon.status()["foreign_slots"])
    assert [account["drift"] for account in daemon.verify()] == [0]


def test_a_detached_daemon_keeps_its_pidfile(folder: Path) -> None:
    daemon = InstalledDaemon(folder, {"log": {"file": f'"{folder}/log"'}})
    pidfile = daemon.run / "forkd.pid"
    serve = [BIN / "forkd", "serve", "--daemon", "-c", os.path.relpath(daemon.config)]
    try:
        subprocess.run(serve, env=daemon.installed.env, check=True, timeout=60)
        pid = int(pidfile.read_text())
        daemon.installed.set_version(NEXT)
        for _ in range(2):
            upgrade_by(daemon, "forkctl")
        status = daemon.status()
        assert (status["pid"], status["version"]) == (pid, NEXT)
        assert int(pidfile.read_text()) == pid
        second = subprocess.run(serve, capture_output=True, text=True, timeout=60)
        assert second.returncode == 4, second.stderr
        assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
        assert daemon.ctl("stop").returncode == 0
        assert not pidfile.exists()
    finally:
        daemon.destroy()


def test_the_service_manager_hears_the_truth(
    folder: Path, start: Callable[..., InstalledDaemon]
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(folder / "notify"))
        manager.settimeout(60)

        def told() -> dict[str, str]:
            """The next news of its state."""
            while True:
                lines = manager.recv(4096).decode().split("\n")
                news = dict(line.split("=", 1) for line in lines)
                if news.keys() & {"READY", "RELOADING", "STOPPING"}:
                    return news

        daemon = start(env={"NOTIFY_SOCKET": str(folder / "notify")})
        assert told()["MAINPID"] == str(daemon.pid)
        for generation in (2, 3):
            upgrade_by(daemon, "forkctl")
            assert told()["RELOADING"] == "1"
            after = told()
            assert (after["READY"], after["MAINPID"]) == ("1", str(daemon.pid))
            assert f"generation {generation}" in after["STATUS"]
        daemon.installed.append("worker.py", "raise RuntimeError('no moon')")
        assert daemon.ctl("upgrade").returncode == 1
        assert told()["RELOADING"] == "1"
        after = told()
        assert (after["READY"], after["MAINPID"]) == ("1", str(daemon.pid))
        assert "generation 3" in after["STATUS"]
        assert daemon.stop() == 0
        assert told()["STOPPING"] == "1"


def test_signals_that_come_amid_an_upgrade_are_heard_after_it(installed: InstalledDaemon) -> None:
    daemon = installed
    daemon.signal(signal.SIGUSR2)
    wait_for(lambda: "becoming" in {event["event"] for event in daemon.events()})
    daemon.signal(signal.SIGTERM)
    assert daemon.process
    assert daemon.process.wait(60) == 0
    assert not daemon.processes()


def test_a_changed_configuration_is_applied_by_an_upgrade(installed: InstalledDaemon) -> None:
    daemon = installed
    daemon.configure("server", workers="99")
    refused = daemon.ctl("upgrade")
    assert refused.returncode == 1
    assert "server.workers" in refused.stderr
    assert daemon.status()["generation"] == 1
    daemon.configure("server", workers="1", state_dir=f'"{daemon.folder}/elsewhere"')
    assert daemon.ctl("upgrade").returncode == 0
    assert len(daemon.workers()) == 1
    assert not (daemon.folder / "elsewhere").exists()  # it would need a restart


def test_sockets_of_a_service_manager_are_kept(folder: Path) -> None:
    daemon = InstalledDaemon(folder)
    with socket.create_server(("127.0.0.1", 0)) as given:
        inherit = f'exec 3<&{given.fileno()}; export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@"'
        address = given.getsockname()
        try:
            daemon.start("bash", "-c", inherit, "bash", pass_fds=[given.fileno()])
            daemon.add_user("alice")
            given.close()
            for number in range(3):
                daemon.log_in(address=address).put(f"f{number}", b"served")
                upgrade_by(daemon, "forkctl")
            assert f"127.0.0.1:{address[1]}" in daemon.status()["listeners"]
        finally:
            daemon.destroy()
