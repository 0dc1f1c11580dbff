from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from forkd.errors import StartError
from forkd.supervisor.pidfile import AlreadyRunningError, LockFile, PidFile

HOLDER = """
import sys, time
from forkd.supervisor.pidfile import LockFile
lock = LockFile.acquire(sys.argv[1])
lock.write_pid()
print("held", flush=True)
time.sleep(3600)
"""


def hold(path: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, bufsize=0
    )
    assert process.stdout
    assert process.stdout.read(4) == b"held"
    process.stdout.close()
    return process


def test_another_process_cannot_have_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder = hold(path)
    try:
        with pytest.raises(AlreadyRunningError, match=f"process {holder.pid} holds {path}"):
            LockFile.acquire(str(path), patience=0)
    finally:
        holder.kill()
        holder.wait()
    LockFile.acquire(str(path), patience=0).close()  # what a killed one leaves is stale


def test_it_is_waited_for_a_moment(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder = hold(path)
    try:
        holder.send_signal(signal.SIGKILL)
        LockFile.acquire(str(path), patience=30).close()
    finally:
        holder.kill()
        holder.wait()


def test_it_is_held_over_the_forks_of_detaching(tmp_path: Path) -> None:
    """The child holds it after the parent has closed it."""
    path = tmp_path / "lock"
    lock = LockFile.acquire(str(path))
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(write_end)
        os.read(read_end, 1)
        os._exit(0)
    os.close(read_end)
    lock.close()
    try:
        with pytest.raises(AlreadyRunningError):
            LockFile.acquire(str(path), patience=0)
    finally:
        os.close(write_end)
        os.waitpid(pid, 0)
    LockFile.acquire(str(path), patience=0).close()


def test_a_removed_file_is_not_mistaken_for_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first = LockFile.acquire(str(path))
    path.unlink()
    second = LockFile.acquire(str(path), patience=0)
    assert os.fstat(second.fileno()).st_ino == path.stat().st_ino
    first.close()
    second.close()


@pytest.mark.parametrize("content", ["", "not a pid\n", "999999999\n"])
def test_content_without_a_lock_means_nothing(tmp_path: Path, content: str) -> None:
    path = tmp_path / "pid"
    path.write_text(content)
    with PidFile(LockFile.acquire(str(path))):
        assert path.read_text() == f"{os.getpid()}\n"
    assert not path.exists()


def test_a_child_does_not_remove_its_parents_file(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    pidfile = PidFile(LockFile.acquire(str(path)))
    with pidfile:
        pid = os.fork()
        if pid == 0:
            pidfile.__exit__(None, None, None)
            os._exit(0)
        os.waitpid(pid, 0)
        assert path.exists()


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("data")
    (tmp_path / "pid").symlink_to(tmp_path / "precious")
    with pytest.raises(StartError, match="pid"):
        LockFile.acquire(str(tmp_path / "pid"))
    assert (tmp_path / "precious").read_text() == "data"


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=f"{tmp_path}/no/pid: No such file"):
        LockFile.acquire(str(tmp_path / "no" / "pid"))
