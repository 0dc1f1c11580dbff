"""Clients that wait, and those that are slow on purpose, cost little and hold nobody up."""

from __future__ import annotations

import resource
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from corerig import children, fork
from measure import KIB, MIB, Pulse, growth, milliseconds, proportional, worker_pids
from peer import DATA, HEADER, REQUEST, Peer, RefusedError, noise
from rig import QUICK, Daemon, running, wait_for
from torture import FULL, Tell, scale

IDLE = scale(400, 2000)
SLOW = scale(100, 500)
SECONDS = scale(4, 30)
FAST_ENOUGH = 0.05 if FULL else 1.0
"""Seconds for a small put and a get: the promise is the long form's."""
PARKED = 25 * KIB
HASHES = 3 * 64 * MIB
"""What verifying passwords may cost a worker: each takes 64 MiB."""

pytestmark = pytest.mark.torture


@pytest.fixture(autouse=True)
def many_descriptors() -> Iterator[None]:
    """For this process; a worker sees to itself."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def patient(folder: Path) -> Iterator[Daemon]:
    """A daemon that lets in everybody quickly, and cuts off nobody while a crowd gathers."""
    limits = {"login_timeout": '"30m"', "stall_timeout": '"30m"'}
    with running(folder, {"limits": limits}, *QUICK) as daemon:
        yield daemon


def gather(daemon: Daemon, count: int, tls: ssl.SSLContext | None = None) -> list[Peer]:
    """So many sessions that are logged in; they end with the daemon."""
    address = (daemon.host, daemon.port)
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda _: daemon.log_in(address=address, tls=tls), range(count)))


@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "tls"])
def test_a_parked_session_is_small(
    patient: Daemon, client_tls: ssl.SSLContext, wrapped: bool, tell: Tell
) -> None:
    tls = client_tls if wrapped else None
    gather(patient, 100, tls)  # threads and their memory are there from now on
    pids = worker_pids(patient)
    before = sum(map(proportional, pids))
    crowd = gather(patient, IDLE, tls)
    each = (sum(map(proportional, pids)) - before) / IDLE
    tell(sessions=IDLE, each=f"{each / KIB:.1f} KiB")
    assert each < PARKED
    for peer in crowd[:: max(1, IDLE // 20)]:
        assert peer.ask({"op": "stat"})[0]["type"] == "folder"


# a byte a second


def halting_stranger(daemon: Daemon) -> Callable[[], object]:
    """Not logged in, and never done with its first request."""
    sock = socket.create_connection((daemon.host, daemon.port), 60)
    sock.sendall(HEADER.pack(REQUEST, 0, 16_000, 1, 0))
    return lambda: sock.send(b" ")


def halting_writer(daemon: Daemon) -> Callable[[], object]:
    """In the middle of a small file."""
    peer = daemon.log_in(address=(daemon.host, daemon.port))
    meta = b'{"op":"put","path":"never","size":60000}'
    peer.sock.sendall(HEADER.pack(REQUEST, 0, len(meta), 9, 60_000) + meta + bytes(1000))
    return lambda: peer.sock.send(b"w")


def halting_uploader(daemon: Daemon) -> Callable[[], object]:
    """In the middle of a streamed upload."""
    peer = daemon.log_in(address=(daemon.host, daemon.port))
    ident, _ = peer.begin("never", MIB)
    peer.sock.sendall(HEADER.pack(DATA, 1, 0, ident, MIB))
    return lambda: peer.sock.send(b"u")


def halting_reader(daemon: Daemon) -> Callable[[], object]:
    """Reads a download byte by byte."""
    peer = daemon.connect((daemon.host, daemon.port))
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.login("alice", daemon.users["alice"])
    peer.request({"op": "get", "path": "large"})
    return lambda: peer.sock.recv(1)


KINDS = (halting_stranger, halting_writer, halting_uploader, halting_reader)


@contextmanager
def dripping(actions: list[Callable[[], object]]) -> Iterator[None]:
    """Each action once a second, spread evenly over it."""
    over = threading.Event()

    def drip() -> None:
        began = time.monotonic()
        for number in range(10**9):
            if over.wait(max(0.0, began + number / len(actions) - time.monotonic())):
                return
            actions[number % len(actions)]()

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        yield
        assert thread.is_alive(), "a slow client was cut off"
    finally:
        over.set()
        thread.join()


def test_slow_clients_hold_nobody_up(patient: Daemon, tell: Tell) -> None:
    quick = patient.log_in(address=(patient.host, patient.port))
    quick.put("large", b"")
    (patient.home() / "large").write_bytes(noise(64 * MIB))
    gather(patient, IDLE)
    with ThreadPoolExecutor(8) as pool:
        slow = list(pool.map(lambda i: KINDS[i % len(KINDS)](patient), range(SLOW)))
    pulse = Pulse(quick)
    with dripping(slow):
        ends = time.monotonic() + SECONDS
        while time.monotonic() < ends:
            pulse.beat()
    told = patient.status()
    assert sum(worker["sessions"] for worker in told["workers"]) >= IDLE + SLOW
    assert max(worker["beat_age"] for worker in told["workers"]) < 5
    tell(idle=IDLE, slow=SLOW, **pulse.figures())
    assert pulse.median < FAST_ENOUGH, milliseconds(pulse.median)


# strangers


class Guesser(threading.Thread):
    """Tries one wrong password after the other, on as many connections as that takes."""

    def __init__(self, daemon: Daemon, over: threading.Event) -> None:
        super().__init__()
        self.refused = 0
        self._address = (daemon.host, daemon.port)
        self._over = over

    def run(self) -> None:
        while not self._over.is_set():
            with suppress(OSError, EOFError):
                try:
                    peer = Peer(self._address)
                except RefusedError:  # not even listened to any more
                    self.refused += 1
                    self._over.wait(0.1)
                    continue
                with closing(peer):
                    self._guess(peer)

    def _guess(self, peer: Peer) -> None:
        while not self._over.is_set():
            with suppress(RefusedError):
                peer.login("alice", "a wrong one")
                raise AssertionError("a wrong password was taken for the right one")
            self.refused += 1


def test_a_flood_of_log_ins_holds_nobody_up(daemon: Daemon, tell: Tell) -> None:
    pulse = Pulse(daemon.log_in())
    pulse.beat()
    over = threading.Event()
    guessers = [Guesser(daemon, over) for _ in range(scale(30, 150))]
    with growth(worker_pids(daemon)) as grown:
        for guesser in guessers:
            guesser.start()
        try:
            with pulse.beating():
                wait_for(lambda: sum(g.refused for g in guessers) >= scale(15, 200), 600)
        finally:
            over.set()
            for guesser in guessers:
                guesser.join()
    refused = sum(guesser.refused for guesser in guessers)
    tell(guesses=refused, grew=f"{grown.worst / MIB:.0f} MiB a worker", **pulse.figures())
    assert grown.worst < HASHES
    assert pulse.median < FAST_ENOUGH


# who has much to do


def devour(daemon: Daemon, readers: int) -> None:
    """Get a large file again and again on so many connections, as fast as one process can."""
    ready = select.epoll()
    peers = {}
    for _ in range(readers):
        peer = Peer((daemon.host, daemon.port))
        peer.login("alice", daemon.users["alice"])
        for ident in range(100, 1100):
            peer.send(REQUEST, ident, {"op": "get", "path": "large", "check": True})
        peers[peer.sock.fileno()] = peer.sock
        ready.register(peer.sock, select.EPOLLIN)
    buffer = bytearray(256 * KIB)
    while True:
        for fd, _ in ready.poll():
            peers[fd].recv_into(buffer)


def test_bulk_transfers_hold_no_small_file_up(patient: Daemon, tell: Tell) -> None:
    quick = patient.log_in()
    quick.put("large", b"")
    (patient.home() / "large").write_bytes(noise(64 * MIB))
    pulse = Pulse(quick)
    readers = scale(60, 150)
    with children() as pids:
        pids.append(fork(lambda: devour(patient, readers)))
        wait_for(lambda: sum(w["transfers"] for w in patient.workers()) > readers * 0.9)
        with pulse.beating():
            time.sleep(SECONDS)
    tell(readers=readers, **pulse.figures())
    assert pulse.median < FAST_ENOUGH
