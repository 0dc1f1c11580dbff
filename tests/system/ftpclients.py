"""The FTP clients of others: run them, and compare what they moved by its digest."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from ftppeer import Site
from rig import PASSWORD, wait_for

from forkd.admin.controlclient import ControlClient
from forkd.controlmessages import Sessions

PATIENCE = 90.0
MIB = 1024 * 1024
LFTP_CLEAR = "set ftp:ssl-allow no; "
LFTP_TLS = "set ftp:ssl-force yes; set ftp:ssl-protect-data yes; set ssl:verify-certificate no; "


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


def run(*command: str | Path, **more: str) -> str:
    """What it said, on both channels; it must succeed.  `more` is its environment beside ours."""
    result = attempt(*command, **more)
    assert result.returncode == 0, result.stdout
    return result.stdout


def attempt(*command: str | Path, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*map(str, command)],
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "LC_ALL": "C.UTF-8", **more},
    )


def lftp_script(site: Site, user: str, settings: str, *commands: str, usual: bool = False) -> str:
    """For `lftp -c`: nothing may fail.  But with its `usual` times, a retry does not wait long."""
    begin = "set cmd:fail-exit yes; "
    if not usual:
        begin += "set net:reconnect-interval-base 1; set net:timeout 20; "
    log_in = f'open -u "{user},{PASSWORD}" -p {site.port} 127.0.0.1; '
    return begin + settings + log_in + "; ".join(commands)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digests(folder: Path) -> dict[str, str]:
    """Path below `folder` -> sha256, of every file."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): digest(path) for path in files}


def plant(folder: Path, many: int = 12) -> dict[str, str]:
    """A tree of empty, small and large files with names that need care; its digests."""
    sizes = {"empty": 0, "with space": 1, "umlaut ü/ж.bin": 70_000, "deep/er/large": 3 * MIB + 1}
    sizes |= {f"many/{number}": 1000 * number for number in range(many)}
    for name, size in sizes.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(size))
    return digests(folder)


def blob(path: Path, size: int = 3 * MIB + 17) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(size))
    return path


def beginning(of: Path, at: Path, size: int = MIB) -> Path:
    """As an interrupted download leaves it."""
    at.write_bytes(of.read_bytes()[:size])
    return at


def interrupt(site: Site, user: str, content: bytes) -> None:
    """An upload of that to "f", broken off when the daemon has it all."""
    peer = site.log_in(user)
    with peer.open("STOR f") as data:
        data.sendall(content)
        control = ControlClient(str(site.daemon.run / "control.sock"))

        def has_come() -> bool:
            sessions = control.call(Sessions())["sessions"]
            return any(s["user"] == user and s["moved"] >= len(content) for s in sessions)

        wait_for(has_come)
        assert peer.ask("ABOR").startswith("426")
        assert peer.reply().startswith("226")
    peer.close()
