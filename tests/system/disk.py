"""What is on the disk and in the ledger, seen from outside while the daemon works."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

from rig import Daemon

from forkd.ledger.file import LeaseCell, LedgerFile


def held_at_once(*folders: Path) -> int:
    """Bytes that lay below these folders at one and the same moment, at least.

    A walk is no moment: what it counted may go, and make room for what it counts later.  So every
    file is opened first, which keeps its inode from being used again, and looked at a second time
    when all are open: what still has a name then had it at the moment between.  Each file counts
    once, under however many names it was met, with the smaller of its two sizes.
    """
    found: dict[tuple[int, int], tuple[int, int]] = {}
    try:
        for path in _files(folders):
            with suppress(OSError):
                fd = os.open(path, os.O_PATH | os.O_NOFOLLOW)
                status = os.fstat(fd)
                known, _ = found.setdefault((status.st_dev, status.st_ino), (fd, status.st_size))
                if known != fd:
                    os.close(fd)
        total = 0
        for fd, size in found.values():
            status = os.fstat(fd)
            total += min(size, status.st_size) if status.st_nlink else 0
        return total
    finally:
        for fd, _ in found.values():
            os.close(fd)


def _files(folders: tuple[Path, ...]) -> Iterator[str]:
    """Files and partials; sidecars are not charged."""
    for top in folders:
        for folder, _, names in os.walk(top):
            for name in names:
                if not name.endswith(".j"):
                    yield os.path.join(folder, name)


class Sampler:
    """For `with`: a thread that looks at the disk as often as it can.  One account only."""

    def __init__(self, daemon: Daemon, user: str = "alice") -> None:
        self._folders = (daemon.home(user), daemon.data / ".forkd")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.most = 0
        self.samples = 0

    def _run(self) -> None:
        while not self._stop.is_set():
            self.most = max(self.most, held_at_once(*self._folders))
            self.samples += 1

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def staged(daemon: Daemon) -> list[str]:
    """Every name in every staging folder, sidecars too."""
    base = daemon.data / ".forkd"
    return [name for folder in os.listdir(base) for name in os.listdir(base / folder)]


def leases(daemon: Daemon) -> list[LeaseCell]:
    """All leases in the ledger, of the living and the dead."""
    with closing(LedgerFile(str(daemon.state / "ledger"))) as file:
        return list(file.leases())


def charged(daemon: Daemon, account: int = 1) -> int:
    """Bytes that the ledger charges, whether or not the daemon runs."""
    with closing(LedgerFile(str(daemon.state / "ledger"))) as file:
        return file.read_account(account)[0]
