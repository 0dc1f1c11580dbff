"""An account's storage and ledger without a daemon, and processes that die in the middle."""

from __future__ import annotations

import contextlib
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from forkd import syscalls
from forkd.config import Config, Server, Storage
from forkd.events.journal import UNTOLD, Ticket
from forkd.helpers.keeper import Keeper
from forkd.helpers.reaper import reap
from forkd.helpers.verify import compare
from forkd.ledger.file import DIRTY, LedgerFile, allocate
from forkd.limits import file as limits
from forkd.link import Link
from forkd.log import Log
from forkd.quota import MappedLedger
from forkd.scoreboard import Scoreboard
from forkd.storage.charged import ChargedTree
from forkd.storage.commit import Folders, Result
from forkd.storage.localtree import LocalTree
from forkd.storage.partials import Namer
from forkd.storage.store import STAGING, LocalStore

ALICE = 1
HOME = "alice"
ACCOUNTS = 8


class Place:
    """Folders and ledger below `folder`, with the account ALICE."""

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        self.folder = folder
        self.storage = str(folder / "data")
        self.state = folder / "state"
        self.home = folder / "data" / HOME
        self.staging = folder / "data" / STAGING / str(ALICE)
        self.state.mkdir()
        self.path = str(self.state / "ledger")
        self.events = str(self.state / "events")
        self.config = Config(
            server=Server(state_dir=str(self.state), runtime_dir=str(folder)),
            storage=Storage(path=self.storage),
        )
        allocate(self.path, ACCOUNTS)
        self.file = LedgerFile(self.path)
        ledger = MappedLedger(self.file, 0)
        ledger.adopt(ALICE, 0)
        ledger.set_limit(ALICE, HOME, limit)
        self._trees: list[LocalTree] = []
        self._files: list[LedgerFile] = []
        self.open_tree()

    def open_tree(self) -> LocalTree:
        tree = LocalStore(self.storage).open_tree(ALICE, HOME)
        self._trees.append(tree)
        return tree

    def ledger(self, slot: int) -> MappedLedger:
        """As a process in this slot has it; nobody holds the slot before."""
        file = LedgerFile(self.path)
        self._files.append(file)
        assert file.hold_slot(slot)
        return MappedLedger(file, slot)

    def files(self, slot: int = 1, born: int = 7) -> ChargedTree:
        return ChargedTree(self.open_tree(), self.ledger(slot), ALICE, Namer(slot, born))

    def close(self) -> None:
        for tree in self._trees:
            with contextlib.suppress(OSError):
                tree.close()
        for file in self._files:
            file.close()
        self.file.close()

    # what is

    @property
    def charged(self) -> int:
        return self.file.read_account(ALICE)[0]

    @property
    def dirty(self) -> bool:
        return bool(self.file.read_account(ALICE)[3] & DIRTY)

    def on_disk(self) -> int:
        """Bytes of visible and staged files, read without the code that is tested."""
        total = 0
        for top in (self.home, self.staging):
            for folder, _, names in os.walk(top):
                for name in names:
                    path = os.path.join(folder, name)
                    if not name.endswith(".j") and not os.path.islink(path):
                        total += os.lstat(path).st_size
        return total

    def staged(self) -> list[str]:
        return sorted(os.listdir(self.staging))

    # what the keeper does

    def keeper(self, board: Scoreboard, link: Link, log: Log) -> Keeper:
        """A keeper of this place, not under way."""
        limits.allocate(self.config, in_use=False)
        file = limits.LimitsFile(limits.limits_path(self.config))
        return Keeper(self.config, board, self.file, file, link, log)

    def reap(self, slot: int = 1) -> None:
        assert self.file.hold_slot(slot), "its process lives"
        try:
            reap(self.file, slot, self.storage, self.events)
        finally:
            self.file.drop_slot(slot)

    def mend(self) -> None:
        """Verify, as the keeper does with a DIRTY account."""
        found = compare(self.file, self.storage, ALICE, HOME, fix=True)
        assert found.exact
        assert found.drift >= 0, "a crash left the charge too small"


@contextlib.contextmanager
def place_in(folder: Path, limit: int | None = None) -> Iterator[Place]:
    place = Place(folder, limit)
    try:
        yield place
    finally:
        place.close()


def fork(work: Callable[[], object]) -> int:
    """The pid of a child that does `work` and exits with 0, or 99 after an exception."""
    pid = os.fork()
    if pid:
        return pid
    status = 99
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def wait(pid: int) -> int:
    """The child's exit status, or minus the number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@contextlib.contextmanager
def children() -> Iterator[list[int]]:
    """Pids that are appended here are killed and reaped at the end, however it comes."""
    pids: list[int] = []
    try:
        yield pids
    finally:
        for pid in pids:
            with contextlib.suppress(ChildProcessError, ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


_STORES = (
    (LedgerFile, ("write_charge", "write_lease", "cover_lease", "free_lease", "set_busy")),
    (LedgerFile, ("count_move",)),
    (os, ("open", "unlink", "ftruncate", "write", "mkdir", "rmdir")),
    (syscalls, ("rename",)),
)
"""Everything that changes disk or ledger, in the steps that a kill can separate."""


def die_before_store(number: int) -> None:
    """Let this process be killed by itself in place of its `number`th store from now on."""
    left = [number]

    def wrap(function: Callable[..., object]) -> Callable[..., object]:
        def counted(*args: object, **options: object) -> object:
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return function(*args, **options)

        return counted

    for owner, names in _STORES:
        for name in names:
            setattr(owner, name, wrap(getattr(owner, name)))


def killed_at_every_store(
    prepare: Callable[[], object], start: Callable[[], Callable[[], object]]
) -> Iterator[int]:
    """Kill a child before its 1st, 2nd, ... store, until it gets through.

    `prepare` is done by us each time, `start` in the child: what it returns is what is interrupted.
    Yields the number of stores that were made, once for each death.
    """
    number = 0
    while True:
        prepare()

        def doomed(stores: int = number) -> None:
            work = start()
            die_before_store(stores)
            work()

        status = wait(fork(doomed))
        if status == 0:
            assert number > 1, "nothing was interrupted"
            return
        assert status == -signal.SIGKILL, status
        yield number
        number += 1


@dataclass(frozen=True)
class Made:
    """A change made of functions."""

    data: int | None
    apply: Callable[[Folders], object]
    fail: Callable[[], None]
    done: Callable[[Result], None]
    ticket: Ticket = UNTOLD
