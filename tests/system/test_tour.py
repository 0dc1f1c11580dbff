"""What a new user does, with the programs as they are: a demo, its lines, a terminal, Ctrl-C."""

from __future__ import annotations

import filecmp
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from rig import BIN

from forkd.units import format_bytes

SMALL_FILES = 2500
SIZES = (2 << 30, 512 << 20)
"""Bytes of the big file: the largest that there is room for, three times."""
SLACK = 96 << 20


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self.pid, self.fd = pty.fork()
        if not self.pid:
            os.execvpe(command[0], command, env)
        self.shown = ""

    def until(self, pattern: str, seconds: float = 60) -> re.Match[str]:
        """Read until it shows this; fails when it ends or takes too long."""
        ends = time.monotonic() + seconds
        while True:
            found = re.search(pattern, self.shown)
            if found:
                return found
            assert time.monotonic() < ends, f"no {pattern!r} in:\n{self.shown[-3000:]}"
            assert self._read(0.2) is not False, f"ended without {pattern!r}:\n{self.shown[-3000:]}"

    def _read(self, patience: float) -> bool | None:
        if not select.select([self.fd], [], [], patience)[0]:
            return None
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            return False
        self.shown += data.decode(errors="replace")
        return bool(data)

    def press(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def wait(self, seconds: float = 120) -> int:
        """Its exit status."""
        ends = time.monotonic() + seconds
        while self._read(0.2) is not False:
            assert time.monotonic() < ends, f"still runs:\n{self.shown[-3000:]}"
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def end(self) -> None:
        try:
            os.killpg(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        os.close(self.fd)


@pytest.fixture
def env(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "XDG_CONFIG_HOME": str(folder / "client"),
        "TERM": "xterm",
        "COLUMNS": "110",
    }


@pytest.fixture
def demo(folder: Path, env: dict[str, str]):
    terminal = Terminal([str(BIN / "forkd"), "demo", "--dir", str(folder / "demo")], env)
    try:
        terminal.until(r"Ctrl-C stops it")
        yield terminal
    finally:
        terminal.end()


def make_files(folder: Path) -> None:
    for number in range(SMALL_FILES):
        place = folder / f"set {number % 25}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"file {number}.bin").write_bytes(os.urandom(number * 13 % 9000))
    (folder / "empty folder").mkdir()


def same_tree(one: Path, other: Path) -> bool:
    compared = filecmp.dircmp(one, other)
    if compared.left_only or compared.right_only or compared.funny_files:
        return False
    _, differ, errors = filecmp.cmpfiles(one, other, compared.common_files, shallow=False)
    return not differ and not errors and all(map(same_tree, *_pairs(one, other, compared)))


def _pairs(one: Path, other: Path, compared) -> tuple[list[Path], list[Path]]:
    return [one / d for d in compared.common_dirs], [other / d for d in compared.common_dirs]


def test_the_tour(folder: Path, env: dict[str, str], demo: Terminal) -> None:
    shown = demo.shown.replace("\r", "")
    printed = [line.strip() for line in shown.splitlines() if line.startswith("  ")]
    assert len(printed) >= 4
    password = re.search(r"password +(\S+)", shown)[1]
    url = re.search(r"forkd://\S+?:\d+/", shown)[0]
    metrics = re.search(r"http://\S+/metrics", shown)[0]
    config = re.search(r"FORKD_CONFIG=(\S+)", shown)[1]
    control = ["-c", config]
    env["FORKC_PASSWORD"] = password

    def run(program: str, *args: object, status: int = 0, stdin: str = "") -> str:
        result = subprocess.run(
            [BIN / program, *map(str, args)],
            input=stdin,
            env=env,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert result.returncode == status, (result.stdout, result.stderr)
        return result.stdout + result.stderr

    # the lines it printed work as they stand
    subprocess.run(["/bin/sh", "-ec", "\n".join(printed)], env=env, check=True, timeout=60)

    # a folder of a few thousand files, there and back
    make_files(folder / "many")
    assert f"sent {SMALL_FILES} files" in run("forkc", "put", "-r", folder / "many", url)
    assert f"got {SMALL_FILES} files" in run("forkc", "get", "-r", url + "many", folder / "back")
    assert same_tree(folder / "many", folder / "back")

    # a big one on a terminal: progress, Ctrl-C, the same command again, a reload meanwhile
    size = next((size for size in SIZES if shutil.disk_usage(folder).free > 3 * size), 0)
    if not size:
        pytest.skip("the disk has no room for a big file")
    told_size = re.escape(format_bytes(size))
    quota = size * 3 // 2
    run("forkctl", *control, "user", "set", "demo", "--quota", str(quota))
    big = folder / "big.img"
    with big.open("wb") as file:
        file.truncate(size)
        for at in range(0, size, 64 << 20):
            file.seek(at)
            file.write(os.urandom(1 << 20))
    before = _up(metrics)
    first = Terminal([str(BIN / "forkc"), "put", str(big), url], env)
    try:
        first.until(rf"[1-9]\d\d\.\d MiB of {told_size}.*left", 120)
        first.press("\x03")
        assert first.wait() == 130
        assert "repeat the command" in first.shown
    finally:
        first.end()
    second = Terminal([str(BIN / "forkc"), "put", str(big), url], env)
    try:
        second.until(rf"MiB of {told_size}")
        assert "serving after" in run("forkctl", *control, "reload")
        assert second.wait(240) == 0
        assert f"sent 1 file, {format_bytes(size)}" in second.shown
    finally:
        second.end()
    assert _up(metrics) - before < size + SLACK
    run("forkc", "get", url + "big.img", folder / "big.back")
    assert filecmp.cmp(big, folder / "big.back", shallow=False)
    os.unlink(folder / "big.back")

    # over quota
    told = run("forkc", "put", big, url + "another.img", status=6)
    assert f"the quota of {format_bytes(quota)} does not suffice" in told
    assert "another.img" not in run("forkc", "ls", url)

    # a new password
    lines = f"{password}\nan even better one\n"
    run("forkc", "passwd", "--password-stdin", url, stdin=lines)
    assert "wrong user name or password" in run("forkc", "ls", url, status=5)
    env["FORKC_PASSWORD"] = "an even better one"
    run("forkc", "ls", url)

    # a stranger makes an account
    run(
        "forkc",
        "register",
        "--password-stdin",
        url.replace("demo@", "eve@"),
        stdin="eve's secret\n",
    )
    env["FORKC_PASSWORD"] = "eve's secret"
    assert "100.0 MiB" in run("forkc", "quota", url.replace("demo@", "eve@"))

    # all of it is seen
    assert re.search(r"serving .* up", run("forkctl", *control, "status"))
    assert "right" in run("forkctl", *control, "quota", "verify")
    samples = _metrics(metrics)
    assert samples['forkd_refusals_total{reason="quota"}'] == 1
    assert samples['forkd_quota_used_bytes{user="demo"}'] > size
    assert samples['forkd_reloads_total{outcome="ok"}'] == 1

    # Ctrl-C, and again: the data is kept
    demo.press("\x03")
    assert demo.wait(60) == 0
    shutil.rmtree(folder / "many")
    again = Terminal([str(BIN / "forkd"), "demo", "--dir", str(folder / "demo")], env)
    try:
        again.until(r"Ctrl-C stops it")
        env["FORKC_PASSWORD"] = "an even better one"
        listed = run("forkc", "ls", url)
        assert "big.img" in listed
        assert "many" in listed
        again.press("\x03")
        assert again.wait(60) == 0
    finally:
        again.end()


def _metrics(address: str) -> dict[str, float]:
    text = subprocess.run(
        [
            "python3",
            "-c",
            f"import urllib.request as u; print(u.urlopen({address!r}).read().decode())",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def _up(address: str) -> float:
    return _metrics(address)['forkd_transfer_bytes_total{direction="up",protocol="native"}']
