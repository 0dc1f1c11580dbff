"""Small puts that came together are written together, and still each has its own answer."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from peer import ERROR, HEADER, REPLY, REQUEST, Peer
from workerrig import Nest, nest_in

from forkd.doors.native import smallputs
from forkd.storage import partials
from forkd.storage.charged import Incoming
from forkd.verbs import Put


@pytest.fixture(params=["none", "group"])
def nest(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Nest]:
    with nest_in(tmp_path, durability=request.param) as made:
        yield made


def send_at_once(peer: Peer, puts: list[tuple[str, bytes, dict[str, Any]]]) -> list[int]:
    """All of them in one write; their ids."""
    frames, idents = [], []
    for path, content, more in puts:
        peer._next += 1
        idents.append(peer._next)
        meta = json.dumps({"op": "put", "path": path, "size": len(content), **more}).encode()
        frames.append(HEADER.pack(REQUEST, 0, len(meta), peer._next, len(content)) + meta + content)
    peer.sock.sendall(b"".join(frames))
    return idents


def test_answers_keep_their_turn_whatever_is_refused_between(nest: Nest) -> None:
    peer = nest.alice()
    puts = [
        ("a", b"1", {}),
        ("../b", b"2", {}),
        ("c", b"3", {"digest": "0" * 64}),
        ("none/d", b"4", {}),
        ("e", b"5", {"mtime": 1_000_000_000}),
        ("e", b"66", {}),
        ("e", b"7", {"replace": False}),
        ("", b"8", {}),
        ("f", b"9", {}),
    ]
    idents = send_at_once(peer, puts)
    told = [peer.read() for _ in puts]
    assert [about for _, about, *_ in told] == idents
    codes = [meta["code"] if kind == ERROR else "ok" for kind, _, meta, _ in told]
    assert codes == [
        *("ok", "outside", "digest-mismatch", "not-found", "ok"),
        *("ok", "exists", "bad-name", "ok"),
    ]
    assert told[5][2]["replaced"] is True
    assert sorted(os.listdir(nest.home)) == ["a", "e", "f"]
    assert (nest.home / "e").read_bytes() == b"66"
    assert nest.charged == 4 == nest.on_disk()
    assert not os.listdir(nest.staging)
    assert not list(nest.file.leases())


def test_where_not_all_fit_each_is_looked_at_alone(nest: Nest) -> None:
    peer = nest.alice()
    with nest.file.locked(1):
        nest.file.write_limit(1, "alice", 10)
    puts = [("a", b"x" * 4, {}), ("b", b"x" * 7, {}), ("c", b"x" * 6, {}), ("d", b"x", {})]
    send_at_once(peer, puts)
    told = [peer.read() for _ in puts]
    assert [kind for kind, *_ in told] == [REPLY, ERROR, REPLY, ERROR]
    assert {meta["code"] for kind, _, meta, _ in told if kind == ERROR} == {"quota"}
    assert nest.charged == 10 == nest.on_disk()


def test_several_batches_and_other_requests_between(nest: Nest) -> None:
    peer = nest.alice()
    puts = [(f"f{n}", b"x" * 100, {}) for n in range(300)]
    idents = send_at_once(peer, puts)
    asked = peer.request({"op": "get", "path": "f299"})
    more = send_at_once(peer, [("last", b"y", {})])
    told = [peer.read() for _ in range(302)]
    assert [about for _, about, *_ in told] == [*idents, asked, *more]
    assert told[300][3] == b"x" * 100
    assert nest.charged == 30001 == nest.on_disk()


def test_a_fault_of_one_is_not_that_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = partials.create_own

    def failing(folder: int, ident: bytes) -> partials.Staged:
        if ident.endswith(b"-2"):
            raise OSError(errno.ENOSPC, "full")
        return create(folder, ident)

    def broken(_: Incoming, put: Put) -> None:
        if put.path == "f2":
            raise ValueError("a fault of ours")

    monkeypatch.setattr(partials, "create_own", failing)
    monkeypatch.setattr(smallputs, "set_time", broken)
    with nest_in(tmp_path) as nest:
        peer = nest.alice()
        puts = [(f"f{n}", b"x", {}) for n in range(4)]
        send_at_once(peer, puts)
        told = [peer.read() for _ in puts]
        assert [kind for kind, *_ in told] == [REPLY, ERROR, ERROR, REPLY]
        assert [meta.get("code") for _, _, meta, _ in told][1:3] == ["no-space", "internal"]
        assert sorted(os.listdir(nest.home)) == ["f0", "f3"]
        assert len(list(nest.file.leases())) == 0


def test_what_came_before_a_broken_frame_is_taken(nest: Nest) -> None:
    peer = nest.alice()
    meta = b'{"op":"put","path":"f","size":1}'
    whole = HEADER.pack(REQUEST, 0, len(meta), 9, 1) + meta + b"x"
    peer.sock.sendall(whole + b"this is no frame")
    told = [peer.read() for _ in range(2)]
    assert [(kind, about) for kind, about, *_ in told] == [(REPLY, 9), (ERROR, 0)]
    assert told[1][2]["code"] == "bad-frame"
    assert (nest.home / "f").read_bytes() == b"x"
