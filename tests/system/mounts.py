"""Filesystems of their own for tests: small ones, full ones, such as cannot do everything.

Each is mounted for the time of a block and unmounted whatever happens in it.  That needs root and
the right to mount; who lacks them skips the test, with the reason.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

MIB = 1 << 20
_SECONDS = 60


def call(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, whatever that is."""
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=_SECONDS)


def need(*programs: str) -> None:
    """Skip the test where it cannot mount, or where a program is missing."""
    for program in ("mount", "umount", *programs):
        if not shutil.which(program):
            pytest.skip(f"there is no {program}")
    if why := _cannot_mount():
        pytest.skip(why)


@functools.cache
def _cannot_mount() -> str:
    if os.geteuid() != 0:
        return "only root can mount"
    tried = call("unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt")
    return f"this machine does not let us mount: {tried.stderr.strip()}" if tried.returncode else ""


@contextlib.contextmanager
def mounted(at: Path, *what: str | Path) -> Iterator[Path]:
    """mount(8) with the arguments `what` on the folder `at`, which is made.  Skips if refused."""
    at.mkdir(parents=True, exist_ok=True)
    done = call("mount", *what, at)
    if done.returncode:
        pytest.skip(f"mount {' '.join(map(str, what))}: {done.stderr.strip()}")
    try:
        yield at
    finally:
        if call("umount", at).returncode:
            call("umount", "--lazy", at)


@contextlib.contextmanager
def tmpfs(at: Path, size: int, inodes: int = 0) -> Iterator[Path]:
    """Of `size` bytes and so many inodes (0: no limit)."""
    need()
    with mounted(at, "-t", "tmpfs", "-o", f"size={size},nr_inodes={inodes},mode=755", "tmpfs"):
        yield at


@contextlib.contextmanager
def ext4(at: Path, size: int, *options: str) -> Iterator[Path]:
    """On an image of `size` bytes beside `at`; `options` are those of mke2fs(8)."""
    need("mkfs.ext4", "losetup")
    image = at.with_name(f"{at.name}.img")
    make_ext4(image, size, *options)
    try:
        with mounted(at, "-t", "ext4", "-o", "loop", image):
            yield at
    finally:
        image.unlink()


def make_ext4(image: Path, size: int, *options: str) -> None:
    """A file with an empty filesystem, of which root has no share of its own."""
    with image.open("wb") as file:
        file.truncate(size)
    made = call("mkfs.ext4", "-q", "-F", "-m", "0", *options, image)
    assert made.returncode == 0, made.stderr


def free_bytes(folder: Path) -> int:
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def fill(folder: Path, leave: int = 0) -> Path:
    """A file that takes all space of the filesystem but about `leave` bytes; remove it to end."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        while (left := free_bytes(folder) - leave) > 0:
            try:
                file.write(bytes(min(left, MIB)))
            except OSError:
                break
        if not leave:
            with contextlib.suppress(OSError):
                while file.write(bytes(512)):
                    pass
    return ballast
