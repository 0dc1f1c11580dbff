"""A confined process reaches its own folders and nothing else."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from forkd import syscalls
from forkd.config import Config, Server, Storage
from forkd.config import Log as LogSettings
from forkd.log import open_log
from forkd.serving import confine

FOLDERS = ("storage", "state", "run")


def in_child(work) -> int:
    """The exit status of `work` in a fork, as Landlock cannot be undone."""
    pid = os.fork()
    if not pid:
        try:
            os._exit(work())
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.skipif(not syscalls.landlock_abi(), reason="this kernel has no Landlock")
def test_a_confined_process_reaches_only_its_folders(tmp_path: Path) -> None:
    for name in FOLDERS:
        (tmp_path / name).mkdir()
    (tmp_path / "storage" / "mine").write_text("x")
    (tmp_path / "other").write_text("secret")
    config = Config(
        server=Server(state_dir=str(tmp_path / "state"), runtime_dir=str(tmp_path / "run")),
        storage=Storage(path=str(tmp_path / "storage")),
    )

    def work() -> int:
        if not confine.confine(config, open_log(LogSettings())):
            return 1
        for forbidden in ("/etc/passwd", str(tmp_path / "other"), "/proc/self/status"):
            try:
                Path(forbidden).read_text()
            except PermissionError:
                continue
            return 2
        if (tmp_path / "storage" / "mine").read_text() != "x":
            return 3
        for name in FOLDERS:
            (tmp_path / name / "new").write_text("y")
        (tmp_path / "storage" / "new").rename(tmp_path / "storage" / "renamed")
        try:
            (tmp_path / "elsewhere").write_text("z")
        except PermissionError:
            return 0
        return 4

    assert in_child(work) == 0


def test_where_the_kernel_has_no_landlock_the_log_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syscalls, "landlock_abi", lambda: 0)
    lines = tmp_path / "log"

    def work() -> int:
        log = open_log(LogSettings(file=str(lines), format="json"))
        if confine.confine(Config(), log):
            return 1
        status = Path("/proc/self/status").read_text()
        return 0 if "NoNewPrivs:\t1" in status else 2

    assert in_child(work) == 0
    told = json.loads(lines.read_text())
    assert (told["level"], told["event"]) == ("warning", "not-confined")
    assert "no Landlock" in told["reason"]
