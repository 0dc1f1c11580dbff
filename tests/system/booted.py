"""A Debian machine of its own, booted with a real systemd in a container, for as long as a block.

The rootfs of a suite is made once, in FORKD_TEST_CACHE or else below the folder of temporary files,
and never written to afterwards: a boot sees it through an overlay in memory.  Who cannot
mount, or lacks mmdebstrap or systemd-nspawn, skips the test, with the reason.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import mounts
import pytest

from forkd import syscalls

REPOSITORY = Path(__file__).parents[2]
SOURCES = "/srv/sources"
"""Where the machine has the repository, read-only."""
WHEELS = "/srv/wheels"
PYTHONS = {"bookworm": "3.11", "trixie": "3.13"}
"""The Python of each suite: Debian 12 has systemd 252, Debian 13 has 257."""
PACKAGES = ("systemd-sysv", "python3-venv", "make")
"""What a machine has beside the bare system."""
_IDLE_UNITS = (
    *("getty.target", "console-getty.service", "systemd-logind.service", "apt-daily.timer"),
    *("apt-daily-upgrade.timer", "dpkg-db-backup.timer", "fstrim.timer", "e2scrub_all.timer"),
    *("systemd-timesyncd.service", "systemd-networkd.service", "systemd-resolved.service"),
)
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_BEYOND_NSPAWN = "landlock_create_ruleset landlock_add_rule landlock_restrict_self"
"""System calls that a machine has and a container of systemd 252 has not."""
_PATIENCE = 60.0


def need() -> None:
    """Skip the test where no machine can be booted."""
    mounts.need("mmdebstrap", "systemd-nspawn", "nsenter")


class Machine:
    """A booted one.  Commands run as its root, beside its services."""

    def __init__(self, suite: str, leader: int) -> None:
        self.suite = suite
        self._leader = leader

    def command(self, *command: str | Path, **environ: str) -> list[str]:
        """What runs a command inside, for subprocess."""
        settings = {
            "PATH": _PATH,
            "LANG": "C.UTF-8",
            "HOME": "/root",
            "SYSTEMD_PAGER": "",
            **environ,
        }
        words = [f"{name}={value}" for name, value in settings.items()]
        enter = ("nsenter", "-t", str(self._leader), "-a")
        return [*enter, "env", "-i", "-C", "/", *words, *map(str, command)]

    def call(
        self, *command: str | Path, stdin: str = "", **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, whatever that is."""
        return subprocess.run(
            self.command(*command, **environ),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=_PATIENCE * 2,
        )

    def run(self, *command: str | Path, stdin: str = "", **environ: str) -> str:
        """What a command that must succeed prints."""
        result = self.call(*command, stdin=stdin, **environ)
        assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
        return result.stdout


@contextlib.contextmanager
def booted(suite: str) -> Iterator[Machine]:
    """A machine without a network; it has the repository at SOURCES, what forkd needs at WHEELS."""
    root, wheels = _rootfs(suite), _wheels(suite)
    name = f"forkd-test-{os.getpid()}-{suite}"
    groups = [
        Path(top, name)
        for top in ("/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", "/sys/fs/cgroup")
        if Path(top, "cgroup.procs").exists()
    ]

    def enter_groups() -> None:
        """Of our own, so that the machine's services are nobody else's and cleaning up is exact."""
        syscalls.die_with_parent()
        for group in groups:
            group.mkdir()
            (group / "cgroup.procs").write_text(str(os.getpid()))

    with tempfile.TemporaryFile() as log:
        nspawn = subprocess.Popen(
            [
                *("systemd-nspawn", "--quiet", f"--directory={root}", f"--machine={name}"),
                *("--register=no", "--keep-unit", "--private-network", "--volatile=overlay"),
                f"--system-call-filter={_BEYOND_NSPAWN}",
                *("--link-journal=no", "--console=passive", "--resolv-conf=off"),
                *(f"--bind-ro={REPOSITORY}:{SOURCES}", f"--bind-ro={wheels}:{WHEELS}"),
                *("--boot", "--", "systemd.show_status=no"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={"PATH": _PATH, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            preexec_fn=enter_groups,
        )
        try:
            yield _wait_until_booted(Machine(suite, _leader(nspawn, log)))
        finally:
            nspawn.send_signal(signal.SIGTERM)  # a clean power-off
            try:
                nspawn.wait(30)
            except subprocess.TimeoutExpired:
                nspawn.kill()
                nspawn.wait()
            for group in groups:
                _remove_group(group)


def _leader(nspawn: subprocess.Popen[bytes], log: IO[bytes]) -> int:
    """The pid that the machine's process 1 has here."""
    children = Path(f"/proc/{nspawn.pid}/task/{nspawn.pid}/children")
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end and nspawn.poll() is None:
        with contextlib.suppress(OSError):
            for pid in children.read_text().split():
                if Path(f"/proc/{pid}/comm").read_text() == "systemd\n":
                    return int(pid)
        time.sleep(0.05)
    log.seek(0)
    raise AssertionError(f"the machine does not boot: {log.read().decode()}")


def _wait_until_booted(machine: Machine) -> Machine:
    end = time.monotonic() + _PATIENCE
    state = ""
    while time.monotonic() < end:
        state = machine.call("systemctl", "is-system-running", "--wait").stdout.strip()
        if state in ("running", "degraded"):
            return machine
        time.sleep(0.1)
    raise AssertionError(f"the machine does not boot: {state}")


def _remove_group(group: Path) -> None:
    for _ in range(50):
        for folder, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        if not group.exists():
            return
        time.sleep(0.1)


def _cache() -> Path:
    folder = Path(os.environ.get("FORKD_TEST_CACHE") or Path(tempfile.gettempdir(), "forkd-cache"))
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.geteuid():
        pytest.skip(f"{folder} is another user's: what is in it is not booted")
    return folder


@contextlib.contextmanager
def _made_once(path: Path) -> Iterator[Path | None]:
    """A folder to be filled, which gets its name when that is done; None where it is there."""
    with Path(f"{path}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            yield None
            return
        new = Path(f"{path}.new")
        subprocess.run(["rm", "-rf", "--one-file-system", new], check=True)
        yield new
        new.rename(path)


def _rootfs(suite: str) -> Path:
    path = _cache() / f"machine-{suite}"
    with _made_once(path) as new:
        if new:
            made = subprocess.run(
                ["mmdebstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", suite, new],
                capture_output=True,
                text=True,
                timeout=600,
            )
            if made.returncode:
                pytest.skip(f"no Debian {suite} can be had: {made.stderr[-500:]}")
            for unit in _IDLE_UNITS:
                (new / "etc/systemd/system" / unit).symlink_to("/dev/null")
            (new / "etc/machine-id").write_text("")
            (new / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
    return path


def _wheels(suite: str) -> Path:
    """Of what forkd needs, for the suite's Python: the machine's own pip finds them there."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    needed = [*project["project"]["dependencies"], *project["build-system"]["requires"], "wheel"]
    mark = hashlib.sha256("\n".join(needed).encode()).hexdigest()[:12]
    path = _cache() / f"wheels-{suite}-{mark}"
    with _made_once(path) as new:
        if new:
            target = [f"--python-version={PYTHONS[suite]}", "--only-binary=:all:"]
            target += [f"--platform={each}_{platform.machine()}" for each in _MANYLINUX]
            download = (sys.executable, "-m", "pip", "download", "--quiet", f"--dest={new}")
            got = subprocess.run([*download, *target, *needed], capture_output=True, text=True)
            if got.returncode:
                pytest.skip(f"the packages that forkd needs cannot be had: {got.stderr[-500:]}")
    return path


_MANYLINUX = ("manylinux2014", "manylinux_2_17", "manylinux_2_28", "manylinux_2_34")
