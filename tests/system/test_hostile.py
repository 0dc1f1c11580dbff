"""Whatever a stranger or a user sends: a clear error or the end, and no trace of it is left."""

from __future__ import annotations

import json
import os
import random
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from measure import MIB, Pulse, descriptors, growth, worker_pids
from peer import DATA, ERROR, HEADER, INTERIM, NOTICE, REPLY, REQUEST, Peer, RefusedError, noise
from rig import PASSWORD, Daemon, wait_for
from torture import Tell, scale

from forkd.admin.controlclient import ControlClient
from forkd.controlmessages import Sessions
from forkd.errors import CODES

pytestmark = pytest.mark.torture

_ABORT = struct.pack("ii", 1, 0)  # SO_LINGER of no seconds: close() sends RST; socket(7)
_ALERT = b"\x15"  # what TLS says to what is no TLS; RFC 8446 section 5.1
_HELLO = b'{"op":"hello","versions":[1]}'


@pytest.fixture
def target(swift: Daemon) -> Daemon:
    return swift


@pytest.fixture(autouse=True)
def unharmed(target: Daemon) -> Iterator[None]:
    """Nothing is left of a test: no session, descriptor, lease, staged file, complaint."""
    target.log_in().put("here", b"before")
    target.hang_up()
    wait_for(lambda: not sessions(target))
    pids = worker_pids(target)
    held = {pid: descriptors(pid, target.data) for pid in pids}
    seen = len(target.events())
    yield
    target.hang_up()
    wait_for(lambda: not sessions(target), 30)
    wait_for(lambda: {pid: descriptors(pid, target.data) for pid in pids} == held)
    assert worker_pids(target) == pids
    assert all(worker["beat_age"] < 5 for worker in target.workers())
    assert [account["drift"] for account in target.verify()] == [0]
    assert not [name for name in staged(target) if not name.startswith("p")]
    assert not [event for event in target.events()[seen:] if complaint(event)]
    peer = target.log_in()
    assert peer.get("here") == b"before"
    assert peer.ask({"op": "quota"})[0]["used"] == target.bytes_on_disk()
    target.hang_up()


def sessions(daemon: Daemon) -> int:
    answer = ControlClient(str(daemon.run / "control.sock")).call(Sessions())
    return len(answer["sessions"])


def staged(daemon: Daemon) -> list[str]:
    return [name for _, _, names in os.walk(daemon.data / ".forkd") for name in names]


def complaint(event: dict) -> bool:
    """A line about a fault of the server's own."""
    return "traceback" in event or event["level"] == "error"


def address(daemon: Daemon) -> tuple[str, int]:
    return (daemon.host, daemon.port)


def abort(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
    sock.close()


def told(sock: socket.socket) -> list[tuple[int, dict]]:
    """All (type, meta) that the server has to say until it ends the connection."""
    data = bytearray()
    with suppress(ConnectionError):
        while piece := sock.recv(MIB):
            data += piece
    assert b"Traceback" not in data
    if data[:1] == _ALERT:
        return []
    found = []
    while data:
        kind, _, meta_length, _, length = HEADER.unpack_from(data)
        assert kind in (DATA, INTERIM, REPLY, ERROR, NOTICE), bytes(data[:40])
        end = HEADER.size + meta_length
        meta = json.loads(data[HEADER.size : end]) if meta_length else {}
        if kind == ERROR:
            assert meta["code"] in CODES
            assert meta["code"] != "internal", meta
        found.append((kind, meta))
        del data[: end + length]
    return found


def request(meta: bytes, payload: bytes = b"", ident: int = 7) -> bytes:
    return HEADER.pack(REQUEST, 0, len(meta), ident, len(payload)) + meta + payload


# any bytes


def rubbish(rng: random.Random) -> bytes:
    """Bytes in all degrees between noise and a conversation."""
    kind = rng.randrange(7)
    if kind == 0:
        return rng.randbytes(rng.randrange(1, 4000))
    if kind == 1:  # a head of any lengths
        lengths = (
            rng.choice([0, 3, 16_384, 65_535]),
            rng.choice([0, 5, 1 << 20, 1 << 40, 2**64 - 1]),
        )
        head = HEADER.pack(rng.randrange(0xEF, 0xF8), rng.randrange(3), lengths[0], 9, lengths[1])
        return head + rng.randbytes(rng.randrange(200))
    if kind == 2:  # the end is missing
        whole = request(_HELLO)
        return whole[: rng.randrange(1, len(whole))]
    if kind == 3:  # one byte is another
        whole = bytearray(request(_HELLO) * 3)
        whole[rng.randrange(len(whole))] = rng.randrange(256)
        return bytes(whole)
    if kind == 4:
        return request(_HELLO) + rng.randbytes(rng.randrange(1, 200_000))
    if kind == 5:  # TLS, so it says
        return b"\x16\x03\x01" + rng.randbytes(rng.randrange(1, 2000))
    return b"".join(request(rng.randbytes(rng.randrange(60))) for _ in range(200))


@pytest.mark.parametrize("known", [False, True], ids=["stranger", "user"])
def test_any_bytes(target: Daemon, known: bool, tell: Tell) -> None:
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    count, ends = scale(150, 3000), {"answered": 0, "aborted": 0, "left_open": 0}
    for _ in range(count):
        sock = target.log_in(address=address(target)).sock if known else connected(target)
        with suppress(ConnectionError):
            sock.sendall(rubbish(rng))
        end = rng.choice(list(ends))
        ends[end] += 1
        if end == "aborted":
            abort(sock)
        elif end == "answered":
            with suppress(OSError):
                sock.shutdown(socket.SHUT_WR)
            told(sock)
            sock.close()
        elif not known:  # the rig holds the others
            target.held.append(sock)
    tell(connections=count, seed=seed, **ends)


def connected(daemon: Daemon) -> socket.socket:
    return socket.create_connection(address(daemon), 30)


# hostile values

DEEP = b'{"op":"quota","x":' + b"[" * 8000 + b"]" * 8000 + b"}"
HOSTILE = {
    "deep": DEEP,
    "deep-open": b'{"op":"get","path":' + b'{"a":' * 3000,
    "nan": b'{"op":"put","path":"a","size":1,"mtime":NaN}',
    "infinite": b'{"op":"put","path":"a","size":1,"mtime":1e999}',
    "long-ago": b'{"op":"put","path":"a","size":0,"mtime":-99999999999}',
    "huge-size": b'{"op":"put","path":"a","size":' + b"9" * 4000 + b"}",
    "more-than-there-is": b'{"op":"put","path":"a","size":4611686018427387904,"check":true}',
    "no-number": b'{"op":"get","path":"here","offset":"1"}',
    "huge-offset": b'{"op":"get","path":"here","offset":4611686018427387904}',
    "surrogate": b'{"op":"get","path":"\\ud800"}',
    "surrogates": b'{"op":"stat","path":"\\udc80\\udcff"}',
    "not-utf-8": b'{"op":"get","path":"\xff\xfe"}',
    "not-utf-8-op": b'{"op":"\xff"}',
    "nul": b'{"op":"get","path":"a\\u0000b"}',
    "controls": b'{"op":"get","path":"' + b"\\u0001" * 250 + b'"}',
    "controls-all-over": b'{"op":"stat","path":"'
    + b"/".join([b"\\u001b[2J" * 31] * 16)[:16_000].rpartition(b"\\")[0]
    + b'"}',
    "line-breaks": b'{"op":"put","path":"a\\nb/\\r\\n","size":0}',
    "private-use": '{"op":"get","path":"\uef80\uefff\ueeee"}'.encode(),
    "long-name": b'{"op":"put","path":"' + "ü".encode() * 128 + b'","size":0}',
    "long-path": b'{"op":"list","path":"' + b"a/" * 2048 + b'"}',
    "wide-path": b'{"op":"list","path":"' + "\U0001f980/".encode() * 2048 + b'"}',
    "up": b'{"op":"get","path":"../../../../etc/passwd"}',
    "proc": b'{"op":"get","path":"/proc/self/environ"}',
    "16-kib": b'{"op":"get","path":"here","junk":"' + b"x" * 16_000 + b'"}',
    "twice": b'{"op":"get","op":"fly","path":"here"}',
    "no-object": b"[1,2,3]",
    "nothing": b"",
    "spaces": b" " * 16_384,
    "user-of-4000": b'{"op":"auth","user":"' + b"u" * 4000 + b'","password":"x"}',
    "sql": b'{"op":"auth","user":"a\' OR 1=1 --","password":"x"}',
    "password-of-nul": b'{"op":"auth","user":"alice","password":"\\u0000"}',
    "no-command": b'{"op":"run","command":"/bin/sh"}',
    "into-itself": b'{"op":"move","path":"here","to":"here/here"}',
    "root": b'{"op":"remove","path":"/","recursive":true}',
    "root-moved": b'{"op":"move","path":".","to":"x"}',
    "staging": b'{"op":"list","path":"../.forkd"}',
    "versions": b'{"op":"hello","versions":[' + b"1," * 5000 + b"-1]}",
}


@pytest.mark.parametrize("known", [False, True], ids=["stranger", "user"])
def test_hostile_values(target: Daemon, known: bool) -> None:
    for name, meta in HOSTILE.items():
        peer = target.log_in(address=address(target)) if known else target.connect(address(target))
        peer.sock.sendall(request(meta) + request(b'{"op":"bye"}', ident=8))
        answers = told(peer.sock)
        first, last = answers[0], answers[-1]
        assert first[0] in (ERROR, REPLY), (name, answers)
        assert last == (REPLY, {}), (name, answers)
        for _, about in answers:
            assert len(about.get("message", "")) < 4000, name
        peer.close()
    assert set(os.listdir(target.home())) <= {"here", "a", "a\nb"}


def test_data_that_belongs_to_nothing(target: Daemon) -> None:
    for prefix in ([], [{"op": "put", "path": "no/such/folder/x", "size": 70_000}]):
        peer = target.log_in(address=address(target))
        for meta in prefix:
            with pytest.raises(RefusedError):
                peer.ask(meta)
        for ident in (0, 99, 2**32 - 1):
            peer.data(ident, noise(1000), last=True)
        codes = [meta["code"] for kind, meta in told(peer.sock) if kind == ERROR]
        assert codes == ["bad-frame"]
        peer.close()


# uploads that break


@pytest.mark.parametrize("how", ["reset", "end", "tls-without-close-notify"])
def test_an_upload_that_breaks_anywhere_leaves_nothing(
    target: Daemon, client_tls: ssl.SSLContext, how: str, tell: Tell
) -> None:
    content = noise(300_000)
    head = request(b'{"op":"put","path":"broken","size":300000}', ident=2)
    stream = HEADER.pack(DATA, 1, 0, 2, len(content)) + content
    offsets = sorted(random.sample(range(len(stream)), scale(30, 300)))
    offsets += range(HEADER.size + 2)
    for offset in offsets:
        tls = client_tls if how.startswith("tls") else None
        peer = Peer(address(target), tls=tls)
        peer.login("alice", PASSWORD)
        peer.sock.sendall(head)
        assert peer.read()[:2] == (INTERIM, 2)
        peer.sock.sendall(stream[:offset])
        if how == "reset":
            abort(peer.sock)
        else:
            socket.socket.shutdown(peer.sock, socket.SHUT_WR)
            peer.close()
    wait_for(lambda: not sessions(target))
    assert not (target.home() / "broken").exists()
    assert not staged(target)
    tell(breaks=len(offsets))


def test_requests_that_break_anywhere(target: Daemon, tell: Tell) -> None:
    stream = b"".join(
        request(json.dumps(meta).encode(), payload, ident)
        for ident, (meta, payload) in enumerate(
            [
                ({"op": "put", "path": "d/1", "size": 500, "parents": True}, bytes(500)),
                ({"op": "put", "path": "d/2", "size": 3}, b"abc"),
                ({"op": "get", "path": "here"}, b""),
                ({"op": "list", "path": "d"}, b""),
                ({"op": "move", "path": "d/2", "to": "d/3", "replace": True}, b""),
                ({"op": "remove", "path": "d", "recursive": True}, b""),
            ],
            100,
        )
    )
    step = scale(23, 1)
    for offset in range(0, len(stream), step):
        peer = target.log_in(address=address(target))
        peer.sock.sendall(stream[:offset])
        abort(peer.sock) if offset % 2 else peer.close()
    tell(breaks=len(range(0, len(stream), step)))


# TLS


def client_hello(context: ssl.SSLContext) -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing).do_handshake()
    return outgoing.read()


def test_a_client_hello_in_pieces(target: Daemon, client_tls: ssl.SSLContext, tell: Tell) -> None:
    hello = client_hello(client_tls)
    rng = random.Random(7)
    count = scale(60, 1000)
    for number in range(count):
        sock = connected(target)
        changed = bytearray(hello)
        if number % 3:
            changed[rng.randrange(1, len(changed))] ^= 1 << rng.randrange(8)
        cut = rng.randrange(1, len(changed))
        with suppress(ConnectionError):
            sock.sendall(changed[:cut])
            if number % 2:
                sock.sendall(changed[cut:])
                sock.sendall(request(_HELLO))  # plain, in the middle of a handshake
        if number % 5:
            abort(sock)
        else:
            target.held.append(sock)
    assert Peer(address(target), tls=client_tls).hello["tls"] is True
    tell(handshakes=count)


# a peer that does not read


def test_thousands_of_requests_whose_answers_nobody_reads(target: Daemon, tell: Tell) -> None:
    quick = target.log_in()
    quick.put("page", noise(60_000))
    asked = 0
    deaf = [target.log_in(address=address(target)) for _ in range(8)]
    questions = [b'{"op":"get","path":"page"}', b'{"op":"list"}', b'{"op":"fly"}', b"rubbish"]
    with growth(worker_pids(target)) as grown, Pulse(quick).beating() as pulse:
        for number, peer in enumerate(deaf):
            peer.sock.setblocking(False)
            many = request(questions[number % len(questions)]) * 1000
            ends = time.monotonic() + 10
            with suppress(BlockingIOError):
                while time.monotonic() < ends:
                    asked += peer.sock.send(many) // (len(many) // 1000)
        wait_for(lambda: len(pulse.seconds) > 20)
    tell(requests=asked, grew=f"{grown.worst / MIB:.1f} MiB", **pulse.figures())
    assert grown.worst < 16 * MIB
    assert pulse.median < 1.0
    quick.ask({"op": "remove", "path": "page"})
    quick.ask({"op": "remove", "path": "pulse"})
    quick.close()
