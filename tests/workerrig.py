"""One real worker without a master: forked, seated and linked by the test."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from argon2 import PasswordHasher
from children import LONG, Child
from corerig import ALICE
from peer import Peer

from forkd.accounts import ALL_PERMISSIONS, enrol, open_accounts, passwords
from forkd.config import Config, Limits, Log, Server, Storage, Tls
from forkd.helpers.reaper import reap
from forkd.ledger.file import LedgerFile
from forkd.listen import ListenAddress
from forkd.quota import MappedLedger
from forkd.scoreboard import Scoreboard
from forkd.seat import BoundListener, ChildSeat
from forkd.supervisor import prepare

PASSWORD = "correct horse 42"


class Nest:
    """The folders, listeners and board of a worker that sits in slot 1."""

    def __init__(
        self, folder: Path, *, tls: bool = False, durability: str = "group", **limits: Any
    ) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.home = self.data / "alice"
        self.staging = self.data / ".forkd" / str(ALICE)
        self.config = Config(
            server=Server(state_dir=str(folder), runtime_dir=str(folder)),
            storage=Storage(path=str(self.data), durability=durability),  # type: ignore[arg-type]
            tls=Tls(mode="auto" if tls else "off"),
            limits=Limits(**limits),
            log=Log(file=str(folder / "log"), level="debug", format="json"),
        )
        prepare.prepare(self.config)
        self.file = LedgerFile(str(folder / "ledger"))
        self.ledger = MappedLedger(self.file, 0)
        accounts = open_accounts(self.config)
        accounts.add(
            "alice",
            PASSWORD,
            prepare=enrol.for_admin(self.config, self.ledger, 0),
            permissions=ALL_PERMISSIONS,
        )
        accounts.close()
        self.board = Scoreboard.create(str(folder / "scoreboard"))
        self.address = str(folder / "sock")
        self._unix = socket.socket(socket.AF_UNIX)
        self._unix.bind(self.address)
        self._tcp = socket.create_server(("127.0.0.1", 0))
        self.port = self._tcp.getsockname()[1]
        listeners = []
        for sock, where in (
            (self._unix, ListenAddress("unix", self.address, 0)),
            (self._tcp, ListenAddress("inet", "127.0.0.1", self.port)),
        ):
            sock.listen(512)
            sock.setblocking(False)
            listeners.append(BoundListener(where, sock))
        self._listeners = tuple(listeners)
        self._peers: list[Peer] = []
        self.worker = self.start()

    def start(self) -> Child:
        def seat(link: socket.socket) -> ChildSeat:
            return ChildSeat("worker", 1, 1, 1, self.config, self.board, link, self._listeners)

        self.worker = Child(seat).ready()
        return self.worker

    def end(self) -> None:
        for peer in self._peers:
            peer.close()
        self.worker.end()
        self._unix.close()
        self._tcp.close()
        self.file.close()

    # clients

    def stranger(self) -> Peer:
        peer = Peer(self.address, LONG)
        self._peers.append(peer)
        return peer

    def alice(self) -> Peer:
        peer = self.stranger()
        peer.login("alice", PASSWORD)
        return peer

    def over_tls(self) -> Peer:
        """Logged in over TCP with TLS."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        peer = Peer.__new__(Peer)
        sock = socket.create_connection(("127.0.0.1", self.port), LONG)
        peer.sock = context.wrap_socket(sock)
        peer._next = 0
        self._peers.append(peer)
        peer.hello = peer.ask({"op": "hello", "versions": [1]})[0]
        peer.login("alice", PASSWORD)
        return peer

    # what is

    @property
    def charged(self) -> int:
        return self.file.read_account(ALICE)[0]

    def on_disk(self) -> int:
        return sum(
            path.lstat().st_size
            for top in (self.home, self.staging)
            for path in top.rglob("*")
            if path.is_file() and path.suffix != ".j"
        )

    def descriptors(self) -> list[str]:
        """What the worker has open for sessions: sockets, files and folders of accounts."""
        folder = f"/proc/{self.worker.pid}/fd"
        found = []
        for name in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):
                found.append(os.readlink(f"{folder}/{name}"))
        return sorted(
            "socket" if what.startswith("socket:") else what
            for what in found
            if what.startswith(("socket:", str(self.data)))
        )

    def memory(self) -> int:
        """Bytes of the worker that nobody shares."""
        for line in Path(f"/proc/{self.worker.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Private_Dirty"):
                return int(line.split()[1]) * 1024
        raise AssertionError("smaps_rollup is not understood")

    def row(self, name: str) -> int:
        return self.board.rows[1].get(name)

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def reap(self) -> None:
        assert self.file.hold_slot(1)
        reap(self.file, 1, str(self.data), str(self.folder / "events"))
        self.file.drop_slot(1)


def read_to_the_end(peer: Peer) -> None:
    """Whatever comes until the connection is over."""
    while True:
        peer.read()


def wait_for(what: Callable[[], Any]) -> Any:
    """The first true answer of `what`."""
    ends = time.monotonic() + LONG
    while not (answer := what()):
        assert time.monotonic() < ends, f"waited in vain for {what}"
        time.sleep(0.01)
    return answer


@contextlib.contextmanager
def nest_in(folder: Path, *, slow_login: bool = False, **settings: Any) -> Iterator[Nest]:
    """A worker that serves; passwords are hashed in no time unless `slow_login`."""
    quick = partial(PasswordHasher, time_cost=1, memory_cost=8, parallelism=1)
    hasher = PasswordHasher if slow_login else quick
    with mock.patch.object(passwords, "PasswordHasher", hasher):
        nest = Nest(folder, **settings)
    try:
        yield nest
    finally:
        nest.end()
