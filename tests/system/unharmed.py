"""What must be as it was after an attack on the FTP door."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from disk import leases, staged
from ftppeer import Site
from measure import MIB, anonymous, descriptors, worker_pids
from rig import wait_for

from forkd.admin.controlclient import ControlClient
from forkd.controlmessages import Sessions

LIMITS = {
    "login_timeout": '"3s"',
    "stall_timeout": '"2s"',
    "idle_timeout": '"30s"',
    "ban_after": "0",
}
"""Of a daemon that is attacked: what is never ended shows soon, and the attacks go on."""
KEPT = b"before"
"""The content of the file `kept`."""
LEAK_BYTES = 32 * MIB
"""Memory that a worker may have more after an attack: its allocator keeps what was freed."""


def sessions(site: Site) -> int:
    answer = ControlClient(str(site.daemon.run / "control.sock")).call(Sessions())
    return len(answer["sessions"])


def gone(site: Site) -> None:
    """Wait until the daemon has no session any more; who is still there is not hung up."""
    wait_for(lambda: not sessions(site), 180)


@contextmanager
def unharmed(site: Site) -> Iterator[None]:
    """Around an attack: no session, descriptor, seat, lease, partial, memory, complaint is left.

    The attack may leave uploads to be gone on with, as long as the ledger knows them.
    """
    daemon = site.daemon
    site.log_in().stor("kept", KEPT)
    site.hang_up()
    gone(site)
    pids = worker_pids(daemon)
    held = {pid: descriptors(pid, daemon.data) for pid in pids}
    memory = {pid: anonymous(pid) for pid in pids}
    seen = len(daemon.events())
    yield
    site.hang_up()
    daemon.hang_up()
    gone(site)
    wait_for(lambda: {pid: descriptors(pid, daemon.data) for pid in pids} == held)
    assert worker_pids(daemon) == pids, "a worker died"
    assert all(worker["beat_age"] < 5 for worker in daemon.workers())
    assert not [event for event in daemon.events()[seen:] if complaint(event)]
    assert all(anonymous(pid) - memory[pid] < LEAK_BYTES for pid in pids)
    wait_for(lambda: not leases(daemon))
    assert {account["drift"] for account in daemon.verify()} == {0}
    # partials, which are named for it, may wait for their client; nothing else may be staged
    assert not [name for name in staged(daemon) if not name.startswith("p")]
    assert site.log_in().retr("kept") == KEPT
    site.hang_up()


def complaint(event: dict[str, object]) -> bool:
    """A line about a fault of the server's own."""
    return "traceback" in event or event["level"] == "error"


def said(sock: socket.socket) -> bytes:
    """All that the server says until it ends the connection, whichever way."""
    data = bytearray()
    with suppress(ConnectionError):
        while piece := sock.recv(1 << 16):
            data += piece
    return bytes(data)


def shove(sock: socket.socket, data: bytes) -> int:
    """Send as much as the other end takes; bytes that it took."""
    sock.setblocking(False)
    view, sent = memoryview(data), 0
    with suppress(BlockingIOError, ConnectionError):
        while sent < len(view):
            sent += sock.send(view[sent:])
    return sent


def client_hello(context: ssl.SSLContext) -> bytes:
    """The first bytes of a handshake."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing).do_handshake()
    return outgoing.read()
