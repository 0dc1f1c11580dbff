"""How a native session ends: whatever goes wrong, its error is told and nothing is left of it."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from peer import ERROR, HEADER, INTERIM, REPLY, REQUEST, Peer
from workerrig import PASSWORD, Nest, nest_in, wait_for

from forkd import messages
from forkd.storage.charged import ChargedTree

SKIPPED_MAX = 1024


@pytest.fixture
def nest(tmp_path: Path) -> Iterator[Nest]:
    with nest_in(tmp_path) as made:
        yield made
        assert "traceback" not in made.log()


def refuse_upload(peer: Peer) -> int:
    """Have an upload refused in its middle, and never end it; its id."""
    ident, _ = peer.begin("f", 1)
    peer.data(ident, b"xx")
    kind, about, meta, _ = peer.read()
    assert (kind, about, meta["code"]) == (ERROR, ident, "bad-request")
    return ident


def read_all(peer: Peer) -> list[tuple[int, int, dict]]:
    """(type, id, meta) of all that comes until the server ends the connection."""
    found = []
    with contextlib.suppress(EOFError):
        while True:
            kind, about, meta, _ = peer.read()
            found.append((kind, about, meta))
    return found


# broken streams


@pytest.mark.parametrize("end", ["another's data", "too many bytes"])
def test_one_refused_upload_too_many_ends_in_order(nest: Nest, end: str) -> None:
    peer = nest.alice()
    for _ in range(SKIPPED_MAX):
        refuse_upload(peer)
    ident, _ = peer.begin("last", 1)
    if end == "another's data":
        peer.data(ident + 1000, b"x")
    else:
        peer.data(ident, b"xx")
    told = [(kind, about, meta["code"]) for kind, about, meta in read_all(peer)]
    assert told[0][:2] == (ERROR, ident)
    assert told[1:] == [(ERROR, 0, "bad-frame")]
    wait_for(lambda: nest.row("sessions") == 0)
    assert nest.charged == 0


def test_what_was_put_off_before_a_broken_frame_is_answered(nest: Nest) -> None:
    peer = nest.alice()
    peer.put("here", b"before")
    upload, _ = peer.begin("f", 100)
    behind = [
        peer.request({"op": "get", "path": "here"}),
        peer.request({"op": "put", "path": "stream", "size": 100}),
        peer.request({"op": "mkdir", "path": "made"}),
    ]
    peer.data(upload + 1000, b"of no upload")
    told = [(kind, about) for kind, about, _ in read_all(peer)]
    assert told == [
        (ERROR, upload),
        (REPLY, behind[0]),
        (INTERIM, behind[1]),
        (ERROR, behind[1]),
        (REPLY, behind[2]),
        (ERROR, 0),
    ]
    assert sorted(os.listdir(nest.home)) == ["here", "made"]


# strangers


def test_a_stranger_who_never_reads_has_no_more_time_than_others(tmp_path: Path) -> None:
    with nest_in(tmp_path, login_timeout=1, stall_timeout=3600, idle_timeout=3600) as nest:
        peer = nest.stranger()
        with pytest.raises(ConnectionError):
            flood(peer)
        wait_for(lambda: nest.row("sessions") == 0)


def test_a_stranger_who_never_stops_has_no_more_time_than_others(tmp_path: Path) -> None:
    with nest_in(tmp_path, login_timeout=1, stall_timeout=3600, idle_timeout=3600) as nest:
        peer = nest.stranger()

        def send() -> None:
            with contextlib.suppress(OSError):
                flood(peer)

        thread = threading.Thread(target=send)
        thread.start()
        try:
            told = codes_until_the_end(peer)
        finally:
            peer.close()
            thread.join()
        assert set(told) <= {"timeout"}


def flood(peer: Peer) -> None:
    """Say hello until the connection breaks, which raises OSError."""
    meta = json.dumps({"op": "hello", "versions": [1]}).encode()
    hello = (HEADER.pack(REQUEST, 0, len(meta), 7, 0) + meta) * 100
    while True:
        peer.sock.sendall(hello)


def codes_until_the_end(peer: Peer) -> list[str]:
    """The codes of the errors that came."""
    found = []
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            kind, _, meta, _ = peer.read()
            if kind == ERROR:
                found.append(meta["code"])
    return found


# the account is lost


def test_an_upload_of_an_account_that_cannot_be_looked_up_is_not_published(nest: Nest) -> None:
    peer = nest.alice()
    ident, _ = peer.begin("f", 10, check=True)
    peer.data(ident, b"01234")
    wait_for(lambda: nest.on_disk() == 5)
    with contextlib.closing(sqlite3.connect(nest.folder / "accounts.db")) as db, db:
        db.execute("ALTER TABLE account RENAME TO hidden")
    nest.worker.link.send(messages.AccountChanged("alice"))
    kind, about, meta, _ = peer.read()
    assert (kind, about, meta["code"]) == (ERROR, ident, "io-error")
    with contextlib.suppress(ConnectionError):
        peer.data(ident, b"56789", last=True, meta={})
    assert [(kind, about) for kind, about, _ in read_all(peer)] == [(ERROR, 0)]
    assert os.listdir(nest.home) == []
    assert nest.charged == 5 == nest.on_disk()  # as after a kick, the partial may be resumed
    assert not list(nest.file.leases())


def test_of_two_password_changes_at_once_one_wins(tmp_path: Path) -> None:
    with nest_in(tmp_path, slow_login=True) as nest:
        peers = {new: nest.alice() for new in ("the first one", "the second one")}
        for new, peer in peers.items():
            peer.request({"op": "passwd", "old": PASSWORD, "new": new})
        won = [new for new, peer in peers.items() if peer.read()[0] == REPLY]
        assert len(won) == 1
        nest.stranger().login("alice", won[0])


# faults of ours


@pytest.mark.parametrize("method", ["publishing", "begin_fresh"])
@pytest.mark.parametrize("streamed", [False, True], ids=["small", "streamed"])
def test_a_fault_on_the_way_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, streamed: bool
) -> None:
    original = getattr(ChargedTree, method)

    def broken(self: ChargedTree, *args: object) -> object:
        if (tmp_path / "broken").exists():
            raise ValueError("a fault of ours")
        return original(self, *args)

    monkeypatch.setattr(ChargedTree, method, broken)
    with nest_in(tmp_path) as nest:
        peer = nest.alice()
        peer.put("here", b"before")
        before = nest.descriptors()
        (tmp_path / "broken").touch()
        if streamed:
            ident = peer.request({"op": "put", "path": "f", "size": 5})
            if method == "publishing":
                assert peer.read()[:2] == (INTERIM, ident)
                peer.data(ident, b"01234", last=True, meta={})
        else:
            ident = peer.request({"op": "put", "path": "f", "size": 5}, b"01234")
        kind, about, meta, _ = peer.read()
        assert (kind, about, meta["code"]) == (ERROR, ident, "internal")
        (tmp_path / "broken").unlink()
        assert peer.get("here") == b"before"
        assert nest.descriptors() == before
        assert nest.charged == 6 == nest.on_disk()
        assert not list(nest.file.leases())


def test_each_small_put_hears_of_a_fault_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: ChargedTree, *args: object) -> object:
        raise ValueError("a fault of ours")

    monkeypatch.setattr(ChargedTree, "begin_fresh", broken)
    with nest_in(tmp_path) as nest:
        peer = nest.alice()
        frames = []
        for ident in (11, 12, 13):
            meta = json.dumps({"op": "put", "path": f"f{ident}", "size": 1}).encode()
            frames.append(HEADER.pack(REQUEST, 0, len(meta), ident, 1) + meta + b"x")
        peer.sock.sendall(b"".join(frames))
        told = [peer.read() for _ in frames]
        assert [(kind, about) for kind, about, *_ in told] == [(ERROR, n) for n in (11, 12, 13)]
        assert peer.ask({"op": "quota"})[0]["used"] == 0
