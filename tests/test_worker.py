"""A real worker under clients that behave badly."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from children import LONG
from corerig import children, fork
from peer import DATA, ERROR, HEADER, INTERIM, NOTICE, REPLY, REQUEST, Peer, RefusedError, noise
from workerrig import PASSWORD, Nest, nest_in, read_to_the_end, wait_for

from forkd.accounts import open_accounts
from forkd.messages import (
    AccountChanged,
    CloseDoors,
    Drain,
    Kick,
    ListSessions,
    OpenDoors,
    SessionPage,
)
from forkd.units import Bytes


@pytest.fixture
def nest(tmp_path: Path) -> Iterator[Nest]:
    with nest_in(tmp_path) as made:
        yield made
        assert "session-failed" not in made.log()
        assert "door-failed" not in made.log()


def gone(nest: Nest) -> bool:
    """No session is left but those that a test still holds."""
    return nest.row("sessions") == 0


# what clients leave open


def many_refusals(peer: Peer) -> None:
    """One of every kind of request that opens something and is refused then."""
    peer.put("f", b"old")
    asks = [
        {"op": "get", "path": "f", "offset": 99},
        {"op": "get", "path": ""},
        {"op": "get", "path": "none"},
        {"op": "list", "path": "f"},
        {"op": "list", "path": "none"},
        {"op": "stat", "path": "f/x"},
        {"op": "mkdir", "path": "f"},
        {"op": "move", "path": "f", "to": "none/f"},
        {"op": "move", "path": "none", "to": "f", "replace": True},
        {"op": "remove", "path": "none", "recursive": True},
        {"op": "put", "path": "no/where", "size": 9, "tag": "t"},
        {"op": "put", "path": "f", "size": 9, "tag": "t", "replace": False},
        {"op": "put", "path": "f", "size": 1 << 61, "tag": "t"},
        {"op": "put", "path": "f/x", "size": 9, "check": True},
    ]
    for ask in asks:
        with pytest.raises(RefusedError):
            peer.ask(ask)
    for name, content in (("no/where", b"x"), ("f/x", b"x")):
        with pytest.raises(RefusedError):
            peer.put(name, content)
    with pytest.raises(RefusedError):
        peer.put("f", b"new", digest="0" * 64)
    for end in ({"abort": True}, {"digest": "0" * 64}):
        ident, _ = peer.begin("g", 9, check=True)
        peer.data(ident, b"x" * 9, last=True, meta=end)
        assert peer.read()[0] == ERROR
    ident, _ = peer.begin("h", 9, tag="t", restart=True)
    peer.data(ident, b"x" * 10, last=True)
    assert peer.read()[0] == ERROR


def test_refusals_leave_no_descriptor_open(nest: Nest) -> None:
    peer = nest.alice()
    many_refusals(peer)
    before = nest.descriptors()
    for _ in range(15):
        many_refusals(peer)
    assert nest.descriptors() == before
    peer.ask({"op": "remove", "path": "f"})
    peer.ask({"op": "put", "path": "g", "size": 1, "restart": True}, b"x")
    wait_for(lambda: nest.charged == nest.on_disk())


def leave_early(peer: Peer, how: int) -> None:
    """Vanish in one of the states a session can be in."""
    if how == 1:
        peer.sock.send(HEADER.pack(REQUEST, 0, 100, 1, 0))
    if how >= 2:
        peer.login("alice", PASSWORD)
    if how == 3:
        ident, _ = peer.begin("up", 1 << 20, tag="t")
        peer.data(ident, b"x" * 1000)
    if how == 4:
        ident, _ = peer.begin("up", 1 << 20, check=True)
        peer.sock.send(HEADER.pack(DATA, 0, 0, ident, 5000) + b"x" * 100)
    if how == 5:
        peer.request({"op": "get", "path": "large"})
        assert peer.read()[0] == INTERIM
    if how == 6:
        for number in range(50):
            peer.request({"op": "put", "path": f"small{number}", "size": 1}, b"x")
    if how == 7:
        peer.request({"op": "list", "path": ""})
    if how == 8:
        ident, _ = peer.begin("full", 1000, tag="t")
        peer.data(ident, b"x" * 1000, last=True)
    if how == 9:
        peer.send(REQUEST, 77, {"op": "auth", "user": "alice", "password": PASSWORD})


@pytest.mark.parametrize("abruptly", [True, False])
def test_clients_that_vanish_leave_nothing_open(nest: Nest, abruptly: bool) -> None:
    held = nest.alice()
    held.put("large", b"")
    (nest.home / "large").write_bytes(bytes(8 << 20))
    stays = nest.descriptors()
    for _ in range(4):
        peers = []
        for how in range(10):
            peer = Peer(nest.address, LONG)
            peers.append(peer)
            leave_early(peer, how)
        for peer in peers:
            if abruptly:
                linger = struct.pack("ii", 1, 0)
                peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            peer.close()
        wait_for(lambda: nest.row("sessions") == 1)
        wait_for(lambda: not list(nest.file.leases(1)))
        wait_for(lambda: nest.descriptors() == stays)
    wait_for(lambda: nest.charged == nest.on_disk() - (8 << 20))


# what one client can do to the others


@pytest.mark.parametrize("payload", [b"", b"x" * 8, b"x" * 112])
def test_a_flood_of_tiny_frames_starves_nobody(nest: Nest, payload: bytes) -> None:
    uploader, other = nest.alice(), nest.alice()
    ident, _ = uploader.begin("up", 512 << 20, tag="t")
    flood = (HEADER.pack(DATA, 0, 0, ident, len(payload)) + payload) * 8000
    read, poured = os.pipe()

    def pour() -> None:
        while True:
            uploader.sock.sendall(flood)
            os.write(poured, b".")

    with children() as pids:
        pids.append(fork(pour))
        for number in range(10):
            os.read(read, 1)
            assert other.put(f"f{number}", b"x")["size"] == 1
        os.read(read, 1)
    os.close(read)
    os.close(poured)


def test_a_client_that_reads_no_answer_is_not_read_either(nest: Nest) -> None:
    deaf, other = nest.alice(), nest.alice()
    other.put("f", bytes(60_000))
    before = nest.memory()
    deaf.sock.settimeout(0.2)
    asks = b"".join(
        HEADER.pack(REQUEST, 0, len(meta), number + 9, 0) + meta
        for number in range(100)
        for meta in [b'{"op":"get","path":"f"}']
    )
    with pytest.raises(TimeoutError):
        deaf.sock.sendall(asks * 1000)
    assert nest.memory() - before < 8 << 20
    assert len(other.get("f")) == 60_000


def test_strangers_cannot_fill_the_memory(nest: Nest) -> None:
    before = nest.memory()
    for _ in range(40):
        peer = nest.stranger()
        peer.send(REQUEST, 9, {"op": "put", "path": "f", "size": 1 << 20}, bytes(1 << 20))
        kind, about, meta, _ = peer.read()
        assert (kind, about, meta["code"]) == (ERROR, 0, "bad-frame")
    assert nest.memory() - before < 8 << 20


def test_requests_during_an_upload_are_bounded(nest: Nest) -> None:
    peer = nest.alice()
    ident, _ = peer.begin("up", 100, tag="t")
    for number in range(5):
        peer.send(
            REQUEST, 100 + number, {"op": "put", "path": "f", "size": 1 << 20}, bytes(1 << 20)
        )
    told = [peer.read() for _ in range(5)]
    assert [(kind, about) for kind, about, _, _ in told] == [
        (ERROR, ident),
        *((REPLY, 100 + number) for number in range(3)),  # these were taken before it was too much
        (ERROR, 0),
    ]
    assert told[-1][2]["code"] == "bad-frame"
    wait_for(lambda: nest.charged == nest.on_disk() == 1 << 20)


def test_requests_during_an_upload_are_answered_after_it(nest: Nest) -> None:
    peer = nest.alice()
    ident, _ = peer.begin("up", 4, tag="t")
    quota = peer.request({"op": "quota"})
    put = peer.request({"op": "put", "path": "small", "size": 1}, b"x")
    peer.data(ident, b"abcd", last=True)
    told = [peer.read() for _ in range(3)]
    assert [(kind, about) for kind, about, _, _ in told] == [
        (REPLY, ident),
        (REPLY, quota),
        (REPLY, put),
    ]
    assert told[1][2]["used"] == 4


def test_uploads_that_are_refused_and_never_ended_are_bounded(nest: Nest) -> None:
    peer = nest.alice()
    refused = 0
    while refused < 2000:
        ident = peer.request({"op": "put", "path": "up", "size": 1, "tag": "t", "restart": True})
        if peer.read()[:2] != (INTERIM, ident):
            break
        peer.data(ident, b"too much")
        assert peer.read()[:2] == (ERROR, ident)
        refused += 1
    assert refused == 1025
    with pytest.raises((EOFError, ConnectionError)):
        read_to_the_end(peer)
    assert nest.alice().put("f", b"x")
    wait_for(lambda: nest.charged == 1 == nest.on_disk())


def test_more_small_puts_than_there_are_leases_are_all_taken(nest: Nest) -> None:
    peers = [nest.alice() for _ in range(12)]
    count = 250
    for who, peer in enumerate(peers):
        frames = []
        for number in range(count):
            meta = b'{"op":"put","path":"%d-%d","size":1}' % (who, number)
            frames.append(HEADER.pack(REQUEST, 0, len(meta), number + 9, 1) + meta + b"x")
        peer.sock.sendall(b"".join(frames))
    for peer in peers:
        assert [peer.read()[:2] for _ in range(count)] == [(REPLY, 9 + n) for n in range(count)]
    assert nest.charged == 12 * count == nest.on_disk()


# order and truth


def test_a_batch_takes_effect_in_its_order(nest: Nest) -> None:
    peer = nest.alice()
    peer.request({"op": "put", "path": "f", "size": 3}, b"one")
    peer.request({"op": "put", "path": "f", "size": 3}, b"two")
    peer.request({"op": "put", "path": "f", "size": 5, "replace": False}, b"three")
    peer.request({"op": "get", "path": "f"})
    peer.request({"op": "remove", "path": "f"})
    peer.request({"op": "put", "path": "f", "size": 4}, b"four")
    told = [peer.read() for _ in range(6)]
    assert [kind for kind, *_ in told] == [REPLY, REPLY, ERROR, REPLY, REPLY, REPLY]
    assert [about for _, about, *_ in told] == list(range(told[0][1], told[0][1] + 6))
    assert (told[0][2]["replaced"], told[1][2]["replaced"]) == (False, True)
    assert told[2][2]["code"] == "exists"
    assert told[3][3] == b"two"
    assert (nest.home / "f").read_bytes() == b"four"
    assert nest.charged == 4 == nest.on_disk()


def test_an_upload_whose_folder_vanishes_is_refused(nest: Nest) -> None:
    peer, other = nest.alice(), nest.alice()
    other.ask({"op": "mkdir", "path": "d"})
    ident, _ = peer.begin("d/f", 4, tag="t")
    peer.data(ident, b"ab")
    other.ask({"op": "remove", "path": "d"})
    peer.data(ident, b"cd", last=True)
    kind, _, meta, _ = peer.read()
    assert (kind, meta["code"]) == (ERROR, "not-found")
    assert nest.charged == 4 == nest.on_disk()
    other.ask({"op": "mkdir", "path": "d"})
    ident, offer = peer.begin("d/f", 4, tag="t")
    assert offer["offset"] == 4
    peer.data(ident, last=True)
    assert peer.read()[0] == REPLY
    assert (nest.home / "d" / "f").read_bytes() == b"abcd"


def test_an_upload_into_a_folder_that_moves_arrives_by_its_name(nest: Nest) -> None:
    peer, other = nest.alice(), nest.alice()
    other.ask({"op": "mkdir", "path": "d"})
    ident, _ = peer.begin("d/f", 4, tag="t", parents=True)
    other.ask({"op": "move", "path": "d", "to": "e"})
    peer.data(ident, b"abcd", last=True)
    assert peer.read()[0] == REPLY
    assert sorted(os.listdir(nest.home)) == ["d", "e"]
    assert (nest.home / "d" / "f").read_bytes() == b"abcd"
    other.ask({"op": "remove", "path": "d", "recursive": True})
    assert nest.charged == 0 == nest.on_disk()


def test_a_file_that_shrinks_while_it_is_sent_breaks_the_connection(nest: Nest) -> None:
    peer = nest.alice()
    peer.put("f", b"")
    (nest.home / "f").write_bytes(bytes(32 << 20))
    peer.request({"op": "get", "path": "f"})
    assert peer.read()[0] == INTERIM
    os.truncate(nest.home / "f", 1000)
    with pytest.raises((EOFError, ConnectionError)):
        peer.read()
    assert nest.alice().ask({"op": "stat", "path": "f"})[0]["size"] == 1000


@pytest.mark.parametrize("durability", ["full", "group", "none"])
def test_every_durability_serves_alike(tmp_path: Path, durability: str) -> None:
    with nest_in(tmp_path, durability=durability) as nest:
        peer = nest.alice()
        idents = []
        for number in range(300):
            meta = {"op": "put", "path": f"d/{number}", "size": 4, "parents": True}
            idents.append(peer.request(meta, b"%04d" % number))
        large = noise(3 << 20)
        peer_told = [peer.read()[:2] for _ in idents]
        assert peer_told == [(REPLY, ident) for ident in idents]
        # an inline put and, without waiting, requests that run on threads
        put = peer.request({"op": "put", "path": "x", "size": 1}, b"x")
        listed = peer.request({"op": "list", "path": "d"})
        ident, _ = begin_after(peer, [put, listed], "big", len(large))
        peer.data(ident, large, last=True)
        assert peer.read()[0] == REPLY
        assert peer.get("big") == large
        assert nest.charged == nest.on_disk() == 1200 + 1 + (3 << 20)
        assert "session-failed" not in nest.log()


@pytest.mark.parametrize("durability", ["group", "none"])
def test_nobody_steps_a_session_that_is_in_a_job(tmp_path: Path, durability: str) -> None:
    """Without durability, a put is answered within the step that begins the next request's job."""
    with nest_in(tmp_path, durability=durability) as nest:
        peer = nest.alice()
        for number in range(1500):
            (nest.home / f"some file {number}").touch()
        frames, wanted = [], []
        for number in range(10):
            for kind in ("put", "list"):
                ident = 100 + len(wanted)
                path = f"f{number}" if kind == "put" else ""
                meta = json.dumps({"op": kind, "path": path, "size": 1}).encode()
                payload = b"x" if kind == "put" else b""
                frames.append(HEADER.pack(REQUEST, 0, len(meta), ident, len(payload)))
                frames.append(meta + payload)
                wanted.append(ident)
        peer.sock.sendall(b"".join(frames))
        for ident in wanted:
            content = peer.answer(ident)[1]
            if (ident - 100) % 2:
                assert len(content.splitlines()) == 1500 + (ident - 100) // 2 + 1
        assert "session-failed" not in nest.log()


def begin_after(peer: Peer, before: list[int], path: str, size: int) -> tuple[int, dict]:
    ident = peer.request({"op": "put", "path": path, "size": size, "tag": "t"})
    while True:
        kind, about, meta, _ = peer.read()
        assert kind in (REPLY, INTERIM, DATA)
        assert about in (*before, ident)
        if about == ident:
            return ident, meta


# what comes from outside


def test_draining_lets_a_transfer_finish_and_tells_the_idle(nest: Nest) -> None:
    idle, busy = nest.alice(), nest.alice()
    ident, _ = busy.begin("f", 8, tag="t")
    nest.worker.link.send(Drain(None))
    assert idle.read()[2] == {"notice": "going-away"}
    busy.data(ident, b"abcdefgh", last=True)
    kinds = [busy.read()[0], busy.read()[0]]
    assert sorted(kinds) == [REPLY, NOTICE]
    idle.close()
    busy.close()
    assert nest.worker.wait() == "status 0"
    assert (nest.home / "f").read_bytes() == b"abcdefgh"


@pytest.mark.parametrize("orders", [(CloseDoors(0.5), Drain(None)), (Drain(None), CloseDoors(0.5))])
def test_the_time_of_a_drain_holds_for_who_a_reload_replaced(
    nest: Nest, orders: tuple[CloseDoors | Drain, ...]
) -> None:
    peer = nest.alice()
    peer.begin("f", 8, tag="t")
    for order in orders:
        nest.worker.link.send(order)
    with pytest.raises((EOFError, ConnectionError)):
        read_to_the_end(peer)
    assert nest.worker.wait() == "status 0"


def test_undrain_gives_back_the_time_to_who_leaves(nest: Nest) -> None:
    peer = nest.alice()
    ident, _ = peer.begin("f", 8, tag="t")
    for order in (CloseDoors(0.5), Drain(None), OpenDoors()):
        nest.worker.link.send(order)
    time.sleep(2.5)  # the worker looks once a second
    peer.data(ident, b"abcdefgh", last=True)
    assert peer.answer(ident)[0]["size"] == 8
    peer.close()
    assert nest.worker.wait() == "status 0"


def put_on(peer: Peer) -> None:
    while True:
        peer.put("late", b"1")
        time.sleep(0.05)


def test_who_ignores_the_farewell_is_refused_after_a_while(nest: Nest) -> None:
    peer = nest.alice()
    nest.worker.link.send(Drain(None))
    assert peer.read()[2] == {"notice": "going-away"}
    assert peer.put("early", b"1")["size"] == 1
    with pytest.raises(RefusedError) as refused:
        put_on(peer)
    assert refused.value.code == "going-away"
    with pytest.raises(EOFError):
        peer.read()
    assert nest.worker.wait() == "status 0"


def test_without_a_master_it_leaves_when_its_clients_have(nest: Nest) -> None:
    peer = nest.alice()
    nest.worker.leave_alone()
    assert peer.read()[2] == {"notice": "going-away"}
    assert peer.put("f", b"last")["size"] == 4
    peer.close()
    assert nest.worker.wait() == "status 0"


def test_a_kick_ends_a_session_in_any_state(nest: Nest) -> None:
    uploader, waiting, stranger = nest.alice(), nest.alice(), nest.stranger()
    ident, _ = uploader.begin("f", 1 << 20, tag="t")
    uploader.data(ident, b"x" * 1000)
    for peer in (uploader, waiting, stranger):
        nest.worker.link.send(Kick(5, peer.hello["session"]))
        assert nest.worker.told().body == {"kicked": True}
        with pytest.raises((EOFError, ConnectionError)):
            read_to_the_end(peer)
    wait_for(lambda: nest.charged == nest.on_disk())


def test_an_account_that_is_switched_off_loses_its_sessions(nest: Nest) -> None:
    peer = nest.alice()
    accounts = open_accounts(nest.config)
    accounts.change("alice", enabled=False)
    nest.worker.link.send(AccountChanged("alice"))
    kind, _, meta, _ = peer.read()
    assert (kind, meta["code"]) == (ERROR, "kicked")
    accounts.close()


def test_a_change_during_a_log_in_is_not_overlooked(tmp_path: Path) -> None:
    """The record was read before the change, the session became the account's after it."""
    with nest_in(tmp_path, slow_login=True) as nest:
        accounts = open_accounts(nest.config)
        for quota in range(1000, 1004):
            peer = nest.stranger()
            login = peer.request({"op": "auth", "user": "alice", "password": PASSWORD})
            time.sleep(0.01)  # most likely the record is read and the password being hashed
            account = accounts.change("alice", quota=Bytes(quota))
            nest.ledger.set_limit(account.id, "alice", quota)
            nest.worker.link.send(AccountChanged("alice"))
            peer.answer(login)
            wait_for(lambda p=peer, q=quota: p.ask({"op": "quota"})[0]["limit"] == q)
        accounts.close()


def test_all_sessions_are_told_however_long_their_paths(nest: Nest) -> None:
    deep = "/".join(["x" * 250] * 15)
    peers = [nest.alice() for _ in range(20)]
    for number, peer in enumerate(peers):
        peer.begin(f"{deep}/{number}", 1 << 20, tag="t", parents=True)
    nest.worker.link.send(ListSessions(3))
    sessions = []
    while True:
        page = nest.worker.told()
        assert isinstance(page, SessionPage)
        sessions += page.sessions
        if not page.more:
            break
    assert len(sessions) == 20
    assert all(len(session.path) > 3000 for session in sessions)


def test_a_killed_worker_leaves_what_a_reaper_mends(nest: Nest) -> None:
    peer = nest.alice()
    content = noise(5 << 20)
    ident, _ = peer.begin("f", len(content), check=True)
    peer.data(ident, content[: (4 << 20) + 99])
    wait_for(lambda: nest.on_disk() == (4 << 20) + 99)
    nest.worker.signal(signal.SIGKILL)
    nest.worker.wait()
    assert nest.charged == len(content)
    nest.start()
    assert nest.charged == nest.on_disk() == (4 << 20) + 99
    again = nest.alice()
    ident, offer = again.begin("f", len(content), check=True)
    assert offer["offset"] == 4 << 20


# limits


def test_refused_connections_are_told_and_leave_nothing(tmp_path: Path) -> None:
    with nest_in(tmp_path, sessions_per_address=2) as nest:
        held = [nest.stranger(), nest.alice()]
        before = nest.descriptors()
        silent = []
        for _ in range(80):
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(LONG)
            sock.connect(nest.address)
            silent.append(sock)
        wait_for(lambda: nest.row("refusals_total:too-many") == 80)
        assert sum(bool(sock.recv(1)) for sock in silent) >= 64  # the rest was just closed
        for sock in silent:
            sock.close()
        wait_for(lambda: nest.descriptors() == before)
        with pytest.raises(RefusedError) as caught:
            nest.stranger()
        assert caught.value.code == "too-many"
        held[1].put("f", b"x")
        held[0].close()
        wait_for(lambda: _gets_in(nest))


def _gets_in(nest: Nest) -> bool:
    try:
        nest.stranger()
    except RefusedError:
        return False
    return True


# strangers and slow ones


def test_a_stranger_has_one_time_for_all_he_does(tmp_path: Path) -> None:
    with nest_in(tmp_path, login_timeout=1.0) as nest:
        peer = nest.stranger()
        head = HEADER.pack(REQUEST, 0, 5000, 1, 0)
        peer.sock.sendall(head)
        over = threading.Event()
        dripping = threading.Thread(target=lambda: drip(peer, over))
        dripping.start()
        try:
            wait_for(lambda: nest.row("timeouts_total:login") == 1 and gone(nest))
        finally:
            over.set()
            dripping.join()


def drip(peer: Peer, over: threading.Event) -> None:
    with contextlib.suppress(ConnectionError):
        while not over.wait(0.1):
            peer.sock.sendall(b" ")


def test_an_upload_that_stalls_is_ended_and_kept(tmp_path: Path) -> None:
    with nest_in(tmp_path, stall_timeout=1.0) as nest:
        peer = nest.alice()
        ident, _ = peer.begin("f", 1000, tag="t")
        peer.data(ident, b"x" * 100)
        with pytest.raises((EOFError, ConnectionError)):
            peer.read()
        again = nest.alice()
        assert again.begin("f", 1000, tag="t")[1]["offset"] == 100
        assert nest.row("timeouts_total:transfer") == 1


def test_idleness_ends_with_a_word(tmp_path: Path) -> None:
    with nest_in(tmp_path, idle_timeout=1.0) as nest:
        peer = nest.alice()
        kind, _, meta, _ = peer.read()
        assert (kind, meta["code"], meta["retry"]) == (ERROR, "timeout", True)
        assert nest.row("timeouts_total:idle") == 1
        assert not nest.row("timeouts_total:transfer") + nest.row("timeouts_total:login")


# TLS


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[Nest]:
    with nest_in(tmp_path, tls=True) as made:
        yield made
        assert "session-failed" not in made.log()


def test_transfers_over_tls(secure: Nest) -> None:
    peer = secure.over_tls()
    content = noise(6 << 20)
    ident, _ = peer.begin("f", len(content), tag="t")
    peer.data(ident, content, last=True)
    assert peer.read()[0] == REPLY
    assert peer.get("f") == content
    assert peer.hello["tls"] is True


def test_an_upload_over_tls_that_ends_without_close_notify_is_broken_off(secure: Nest) -> None:
    peer = secure.over_tls()
    ident, _ = peer.begin("f", 1000, tag="t")
    peer.data(ident, b"x" * 100)
    wait_for(lambda: secure.on_disk() == 100)
    os.close(peer.sock.detach())
    wait_for(lambda: not list(secure.file.leases(1)))
    assert secure.charged == 100
    assert not (secure.home / "f").exists()


HANDSHAKES: dict[str, Callable[[socket.socket], None]] = {
    "nothing": lambda sock: None,
    "one byte": lambda sock: sock.sendall(b"\x16"),
    "a torn hello": lambda sock: sock.sendall(b"\x16\x03\x01\x02\x00\x01"),
    "garbage": lambda sock: sock.sendall(b"\x16" + bytes(500)),
    "http": lambda sock: sock.sendall(b"GET / HTTP/1.1\r\n\r\n"),
}


@pytest.mark.parametrize("reset", [False, True])
def test_broken_handshakes_end_quietly(secure: Nest, reset: bool) -> None:
    secure.alice()
    before = secure.descriptors()
    for _ in range(5):
        for hello in HANDSHAKES.values():
            with socket.create_connection(("127.0.0.1", secure.port), LONG) as sock:
                hello(sock)
                if reset:
                    linger = struct.pack("ii", 1, 0)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    assert secure.stranger().hello["tls"] is False  # whoever came before was taken before
    wait_for(lambda: secure.row("sessions") == 2)
    assert secure.descriptors() == sorted([*before, "socket"])


def test_one_that_is_ready_has_a_heartbeat(nest: Nest) -> None:
    """Before the first turn of its loop: one that stands still then must be found as well."""
    assert nest.row("beat_ns") > 0
