from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import json, os, sys
from forkd.supervisor.program import Program
program = Program.of_this_process()
if "AGAIN" in os.environ:
    known = [name for name in os.environ if name in ("NOTIFY_SOCKET", "AGAIN", "WATCHDOG_USEC")]
    streams = [os.fstat(fd).st_mode for fd in (0, 1, 2)]
    print(json.dumps({"command": program.command, "known": sorted(known), "streams": streams}))
else:
    os.environ.pop("NOTIFY_SOCKET", "")
    os.chdir("/")
    for fd in (0, 1, 2):
        os.set_inheritable(fd, False)
    program.execute(AGAIN="1")
"""


def executed_again(folder: Path, *arguments: str) -> dict[str, list[str]]:
    """What a program is, that was started like this and then executed itself."""
    (folder / "serve").touch()
    (folder / "tool").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "NOTIFY_SOCKET": "/run/notify", "PYTHONPATH": str(folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        text=True,
    )
    result: dict[str, list[str]] = json.loads(done.stdout)
    return result


def test_a_script_is_found_again_from_any_folder(tmp_path: Path) -> None:
    again = executed_again(tmp_path, "tool", "serve", "-c", "file.toml")
    assert again["command"] == [
        *(sys.executable, str(tmp_path / "tool")),
        *("serve", "-c", "file.toml"),
    ]
    assert again["known"] == ["AGAIN", "NOTIFY_SOCKET"]
    assert len(again["streams"]) == 3


def test_options_of_the_interpreter_stay(tmp_path: Path) -> None:
    again = executed_again(tmp_path, "-W", "ignore", str(tmp_path / "tool"), "demo")
    assert again["command"][1:] == ["-W", "ignore", str(tmp_path / "tool"), "demo"]
