"""The pumps: every byte once, whatever way it takes, and a true count of what was consumed."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forkd.config import Config, Server, Tls
from forkd.digest import BlockDigest, digest_of
from forkd.errors import Refusal
from forkd.protocol import BLOCK, Engine, Role, Type, head
from forkd.serving import tlscontext, transfer
from forkd.serving.transfer import Kit, Kits, Pace, Receiver, Sender, ShortFileError, Turn
from forkd.serving.transport import Plain, Transport, wait_briefly
from forkd.serving.transport import Tls as TlsTransport
from forkd.storage import partials
from forkd.storage.partials import Staged
from forkd.storage.sidecar import Source

LONG = 30.0
Ends = tuple[Transport, socket.socket]


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PATIENCE", 0.01)


@pytest.fixture(scope="module")
def server_context(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    config = Config(
        server=Server(state_dir=str(tmp_path_factory.mktemp("state"))), tls=Tls(mode="auto")
    )
    tlscontext.ensure_certificate(config)
    context = tlscontext.server_context(config)
    assert context is not None
    return context


@pytest.fixture(params=["tcp", "unix", "tls"])
def ends(request: pytest.FixtureRequest, server_context: ssl.SSLContext) -> Iterator[Ends]:
    """(server's transport, client's blocking socket)."""
    with Connected(request.param, server_context) as made:
        yield made


class Connected:
    """A server's transport and its client, over what `kind` says."""

    def __init__(self, kind: str, context: ssl.SSLContext) -> None:
        if kind == "unix":
            server, client = socket.socketpair()
        else:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                client = socket.create_connection(listener.getsockname())
                server, _ = listener.accept()
        client.settimeout(LONG)
        server.setblocking(False)
        self.transport: Transport
        if kind != "tls":
            self.transport, self.client = Plain(server), client
            return
        ours = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        ours.check_hostname, ours.verify_mode = False, ssl.CERT_NONE
        made: list[ssl.SSLSocket] = []
        shaking = threading.Thread(target=lambda: made.append(ours.wrap_socket(client)))
        shaking.start()
        self.transport = TlsTransport(server, context)
        while not self.transport.handshake():
            wait_briefly(self.transport, LONG)
        shaking.join()
        self.client = made[0]

    def __enter__(self) -> Ends:
        return self.transport, self.client

    def __exit__(self, *_: object) -> None:
        self.transport.sock.close()
        self.client.close()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def plain_file(folder: int) -> Staged:
    return partials.create_own(folder, b"s1.1-1")


def checked_file(folder: int) -> Staged:
    return partials.create(folder, Source("f", "c", 1 << 40, "", True, None), b"f", None)


MAKERS = (plain_file, checked_file)
Maker = Callable[[int], Staged]


def in_background(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def receive(receiver: Receiver, transport: Transport, size: int) -> None:
    kit = Kit()
    while receiver.consumed < size:
        step = receiver.pump(transport, size - receiver.consumed, kit)
        assert step.pace is not Pace.EOF
        if step.pace is Pace.BLOCKED:
            assert wait_briefly(transport, LONG)
    kit.spoil_pipe()


def content_of(staged: Staged) -> bytes:
    with open(os.dup(staged.fd), "rb") as file:
        file.seek(0)
        return file.read()


# up


@pytest.mark.parametrize("make", MAKERS)
def test_an_upload_arrives_whole(ends: Ends, folder: int, make: Maker) -> None:
    transport, client = ends
    content = os.urandom(2 * BLOCK + 12_345)
    sending = in_background(lambda: client.sendall(content))
    staged = make(folder)
    receiver = Receiver(staged, "f")
    receive(receiver, transport, len(content))
    sending.join()
    assert content_of(staged) == content
    assert receiver.position == receiver.consumed == len(content)
    if staged.digest is not None:
        assert staged.digest.hexdigest() == digest_of(content)
        journal = os.pread(staged.sidecar_fd or -1, 1 << 20, 0).partition(b"\n")[2]
        assert journal == staged.digest.blocks
        assert len(journal) == 64
    staged.close()


@pytest.mark.parametrize("make", MAKERS)
def test_no_byte_beyond_the_limit_is_taken(ends: Ends, folder: int, make: Maker) -> None:
    transport, client = ends
    client.sendall(b"0123456789the next frame")
    staged = make(folder)
    receiver = Receiver(staged, "f")
    receiver.absorb(b"+")
    assert wait_briefly(transport, LONG)
    receive(receiver, transport, 10)
    assert content_of(staged) == b"+0123456789"
    assert (receiver.consumed, receiver.position) == (10, 11)
    assert transport.receive_into(memoryview(bytearray(99))) == 14
    staged.close()


@pytest.mark.parametrize("make", MAKERS)
def test_a_step_ends_with_its_bytes_its_time_its_peer_or_the_end(
    ends: Ends, folder: int, make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport, client = ends
    staged, kit = make(folder), Kit()
    receiver = Receiver(staged, "f")
    step = receiver.pump(transport, 100, kit)
    assert (step.moved, step.pace) == (0, Pace.BLOCKED)
    client.sendall(bytes(100_000))
    step = receiver.pump(transport, 50, kit)
    assert (step.moved, step.pace) == (50, Pace.DONE)
    with monkeypatch.context() as patched:
        patched.setattr(transfer, "STEP_SECONDS", 0.0)
        patched.setattr(transfer, "_FILL", 1000)
        patched.setattr(transfer, "BUFFER", 1000)
        patched.setattr(transfer, "_PIPE", 1000)
        step = receiver.pump(transport, 90_000, kit)
        assert (step.moved, step.pace) == (1000, Pace.MORE)
    receive(receiver, transport, 100_000)
    ending = in_background(lambda: end(client))
    assert wait_briefly(transport, LONG)
    pace = Pace.BLOCKED
    while pace is Pace.BLOCKED:
        pace = receiver.pump(transport, 100, kit).pace
    assert pace is Pace.EOF
    transport.shutdown()
    ending.join()
    staged.close()


def test_a_transfer_keeps_its_thread_while_nobody_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transfer, "STEP_BYTES", 1000)
    scarce, plenty = Turn(Kit(lambda: False)), Turn(Kit(lambda: True))
    assert not scarce.is_over(999)
    assert scarce.is_over(1000)
    assert not plenty.is_over(1 << 40)
    monkeypatch.setattr(transfer, "STEP_SECONDS", 0.0)
    assert Turn(Kit(lambda: True)).is_over(0)


@pytest.mark.parametrize("make", MAKERS)
def test_where_threads_are_scarce_a_step_ends_after_its_share(
    ends: Ends, folder: int, make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "STEP_BYTES", 1000)
    transport, client = ends
    staged, kit = make(folder), Kit(lambda: False)
    receiver = Receiver(staged, "f")
    client.sendall(bytes(5000))
    assert wait_briefly(transport, LONG)
    moved = []
    while sum(moved) < 5000:
        step = receiver.pump(transport, 5000, kit)
        assert step.pace in (Pace.MORE, Pace.DONE, Pace.BLOCKED)
        moved += [step.moved] if step.moved else []
    assert max(moved) <= 1000
    staged.close()


def end(client: socket.socket) -> None:
    """As a client that has said all; with TLS it waits for the same from the server."""
    if isinstance(client, ssl.SSLSocket):
        client.unwrap()
    else:
        client.shutdown(socket.SHUT_WR)


def test_what_came_before_a_break_is_kept(folder: int, server_context: ssl.SSLContext) -> None:
    with Connected("tls", server_context) as (transport, client):
        client.sendall(b"x" * 50_000)
        assert isinstance(client, ssl.SSLSocket)
        with socket.socket(fileno=client.detach()) as raw:
            raw.shutdown(socket.SHUT_WR)  # without close_notify
            receiver = Receiver(plain_file(folder), "f")
            with pytest.raises(ConnectionError):
                receive(receiver, transport, 1 << 20)
    assert receiver.consumed == receiver.position == 50_000
    assert content_of(receiver.staged) == b"x" * 50_000


class Full:
    """A tmpfs of `size` bytes."""

    def __init__(self, where: Path, size: int) -> None:
        self.where = where
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(where)]
        if os.getuid() or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("a small filesystem cannot be mounted here")

    def __enter__(self) -> int:
        self.fd = os.open(self.where, os.O_RDONLY | os.O_DIRECTORY)
        return self.fd

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)
        subprocess.run(["umount", str(self.where)], check=True)


@pytest.mark.parametrize("make", MAKERS)
def test_a_full_disk_refuses_and_the_count_stays_true(
    ends: Ends, tmp_path: Path, make: Maker
) -> None:
    """What was consumed is told to the engine, so the next frame is found behind the payload."""
    transport, client = ends
    content = os.urandom(3 << 20)
    following = head(Type.REQUEST, 9, {"op": "quota"})
    sending = in_background(lambda: client.sendall(content + following))
    with Full(tmp_path, 1 << 20) as folder:
        staged = make(folder)
        receiver, kit, engine = Receiver(staged, "f"), Kit(), Engine(Role.SERVER)
        engine.receive(head(Type.DATA, 1, None, len(content)))
        engine.next_event()
        with pytest.raises(Refusal) as refused:
            pump_all(receiver, transport, engine, kit)
        assert refused.value.code == "no-space"
        assert receiver.position <= receiver.consumed < len(content)
        assert content_of(staged) == content[: receiver.position]
        assert engine.payload_left == len(content) - receiver.consumed
        staged.close()
    while engine.payload_left or engine.next_event() is None:
        skip(transport, engine)
    sending.join()
    fresh = Staged(b"g", os.open(tmp_path / "g", os.O_RDWR | os.O_CREAT), 0, 0, False)
    client.sendall(b"clean")  # nothing of the failed one is left in the kit's pipe
    again = Receiver(fresh, "g")
    while again.consumed < 5:
        again.pump(transport, 5 - again.consumed, kit)
    assert content_of(fresh) == b"clean"
    fresh.close()


def pump_all(receiver: Receiver, transport: Transport, engine: Engine, kit: Kit) -> None:
    while engine.payload_left:
        before = receiver.consumed
        try:
            receiver.pump(transport, engine.payload_left, kit)
        finally:
            engine.bypass(receiver.consumed - before)


def skip(transport: Transport, engine: Engine) -> None:
    buffer = memoryview(bytearray(1 << 16))
    count = transport.receive_into(buffer)
    if count is None:
        assert wait_briefly(transport, LONG)
        return
    engine.receive(buffer[:count])
    while engine.take(1 << 20):
        pass


def test_a_journal_that_cannot_be_written_refuses(folder: int, tmp_path: Path) -> None:
    staged = checked_file(folder)
    receiver = Receiver(staged, "f")
    assert staged.sidecar_fd is not None
    read_only = os.open(tmp_path / (staged.ident.decode() + ".j"), os.O_RDONLY)
    os.dup2(read_only, staged.sidecar_fd)
    os.close(read_only)
    with pytest.raises(Refusal) as refused:
        receiver.absorb(bytes(BLOCK))
    assert refused.value.code == "io-error"
    assert receiver.position == BLOCK
    staged.close()


# down


@pytest.mark.parametrize("check", [False, True])
def test_a_download_arrives_whole(ends: Ends, tmp_path: Path, check: bool) -> None:
    transport, client = ends
    content = os.urandom(6 << 20)
    (tmp_path / "f").write_bytes(content)
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    digest = BlockDigest() if check else None
    sender = Sender(fd, 1000, len(content) - 3000, digest)
    wanted, got = content[1000:-2000], bytearray()
    reading = in_background(lambda: read_into(client, got, len(wanted)))
    kit, blocked = Kit(), 0
    while sender.remaining:
        step = sender.pump(transport, min(sender.remaining, 1 << 20), kit)
        assert step.moved <= 1 << 20
        if step.pace is Pace.BLOCKED:
            blocked += 1
            assert wait_briefly(transport, LONG)
    reading.join()
    assert got == wanted
    if digest is not None:
        assert digest.hexdigest() == digest_of(wanted)
    os.close(fd)


def read_into(client: socket.socket, got: bytearray, count: int) -> None:
    while len(got) < count:
        got.extend(client.recv(1 << 16))


def test_a_thread_that_is_not_to_spare_waits_for_nobody(
    ends: Ends, folder: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport, client = ends
    waits: list[float] = []

    def waited(transport: Transport, seconds: float) -> bool:
        waits.append(seconds)
        return False

    monkeypatch.setattr(transfer, "wait_briefly", waited)
    staged = plain_file(folder)
    receiver = Receiver(staged, "f")
    client.sendall(b"x")
    assert wait_briefly(transport, LONG)
    assert receiver.pump(transport, 100, Kit(lambda: False)).pace is Pace.BLOCKED
    assert (receiver.moved, waits) == (1, [])
    assert receiver.pump(transport, 100, Kit()).pace is Pace.BLOCKED
    assert waits == [transfer.PATIENCE]
    staged.close()


@pytest.mark.parametrize("check", [False, True])
def test_a_reader_that_stalls_blocks_the_step_and_loses_nothing(
    ends: Ends, tmp_path: Path, check: bool
) -> None:
    transport, client = ends
    content = os.urandom(24 << 20)
    (tmp_path / "f").write_bytes(content)
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    sender = Sender(fd, 0, len(content), BlockDigest() if check else None)
    kit, other = Kit(), Kit()
    while sender.pump(transport, sender.remaining, kit).pace is not Pace.BLOCKED:
        assert sender.remaining
    got = bytearray()
    reading = in_background(lambda: read_into(client, got, len(content)))
    while sender.remaining:  # with another thread's kit: nothing is kept in the first
        if sender.pump(transport, sender.remaining, other).pace is Pace.BLOCKED:
            assert wait_briefly(transport, LONG)
    reading.join()
    assert got == content
    os.close(fd)


@pytest.mark.parametrize("check", [False, True])
def test_a_file_that_became_shorter_is_told(ends: Ends, tmp_path: Path, check: bool) -> None:
    transport, _ = ends
    (tmp_path / "f").write_bytes(bytes(1000))
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    sender = Sender(fd, 0, 2000, BlockDigest() if check else None)
    kit = Kit()
    with pytest.raises(ShortFileError):
        sender.pump(transport, 2000, kit)
    assert sender.remaining == 1000
    os.close(fd)


@pytest.mark.parametrize("check", [False, True])
def test_a_disk_that_fails_is_not_the_peer_s_fault(
    ends: Ends, tmp_path: Path, check: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport, _ = ends

    def broken(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "sendfile", broken)
    monkeypatch.setattr(os, "preadv", broken)
    sender = Sender(-1, 0, 10, BlockDigest() if check else None, "/f")
    with pytest.raises(Refusal) as refused:
        sender.pump(transport, 10, Kit())
    assert refused.value.code == "io-error"


def test_a_reader_that_is_gone_breaks_the_connection(ends: Ends, tmp_path: Path) -> None:
    transport, client = ends
    (tmp_path / "f").write_bytes(bytes(8 << 20))
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    client.close()
    sender, kit = Sender(fd, 0, 8 << 20, None), Kit()
    with pytest.raises(ConnectionError):
        send_all(sender, transport, kit)
    os.close(fd)


def send_all(sender: Sender, transport: Transport, kit: Kit) -> None:
    while sender.remaining:
        sender.pump(transport, sender.remaining, kit)


def test_kits_are_used_again() -> None:
    kits = Kits()
    first, second = kits.take(), kits.take()
    assert first is not second
    kits.give_back(first)
    assert kits.take() is first
    reader, writer = first.pipe()
    assert first.pipe() == (reader, writer)
    os.write(writer, b"stuck")
    first.spoil_pipe()
    with pytest.raises(BlockingIOError):
        os.read(first.pipe()[0], 5)
    first.spoil_pipe()
