"""Names, paths and broken bytes from strangers: told what is wrong, and never let out."""

from __future__ import annotations

import json
import os
import random
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from peer import DATA, ERROR, HEADER, REPLY, REQUEST, Peer, RefusedError, noise
from rig import PASSWORD, Daemon

from forkd import syscalls

MIB = 1 << 20


@pytest.fixture
def peer(shared: Daemon, user: str) -> Peer:
    return shared.log_in(user)


@pytest.fixture
def home(shared: Daemon, user: str, peer: Peer) -> Path:
    """The account's folder; the log-in has made it."""
    return shared.home(user)


@pytest.fixture
def outside(shared: Daemon, user: str) -> Path:
    """A folder that is none of the account's business."""
    path = shared.data / f"outside-{user}"
    path.mkdir()
    (path / "secret").write_text("theirs")
    return path


@pytest.fixture(autouse=True)
def _no_worker_ends(shared: Daemon):
    before = {worker["pid"] for worker in shared.workers()}
    yield
    assert {worker["pid"] for worker in shared.workers()} == before


def code(peer: Peer, op: str, path: str, **more: Any) -> str:
    """The code with which a request is refused."""
    with pytest.raises(RefusedError) as refused:
        peer.ask({"op": op, "path": path, **more})
    return refused.value.code


def listing(peer: Peer, path: str = "") -> dict[str, dict[str, Any]]:
    _, content = peer.ask({"op": "list", "path": path})
    entries = [json.loads(line) for line in content.splitlines()]
    assert len({entry["name"] for entry in entries}) == len(entries)
    return {entry["name"]: entry for entry in entries}


# names


REFUSED = {
    "..": "outside",
    "a/../../b": "outside",
    "../user0": "outside",
    "a\0b": "bad-name",
    "x" * 256: "bad-name",
    "\N{SNOWMAN}" * 86: "bad-name",
    "a/" * 257 + "b": "bad-name",
    "n" * 4097: "bad-request",
    "\ud800": "bad-request",
}


def test_names_that_cannot_be_are_refused_by_every_verb(peer, home):
    peer.put("a", b"")
    for path, expected in REFUSED.items():
        for op in ("get", "list", "stat", "mkdir", "remove"):
            assert code(peer, op, path) == expected
        assert code(peer, "put", path, size=0) == expected
        assert code(peer, "put", path, size=2 * MIB, tag="t") == expected
        assert code(peer, "move", path, to="b") == expected
        assert code(peer, "move", "a", to=path) == expected
    assert os.listdir(home) == ["a"]


def test_odd_names_are_names(peer, home):
    for name in ("x" * 255, "\N{SNOWMAN}" * 85, "a b\n\x1b[31m", "-rf", ".forkd"):
        peer.put(name, b"odd")
        assert peer.get(name) == b"odd"
        assert os.listdir(home) == [name]
        assert listing(peer)[name]["size"] == 3
        peer.ask({"op": "move", "path": name, "to": "plain"})
        peer.ask({"op": "move", "path": "plain", "to": name})
        peer.ask({"op": "remove", "path": name})
        assert not os.listdir(home)


def test_a_path_begins_at_the_folder_however_it_is_written(peer, home):
    peer.put("/etc/./passwd//", b"mine", parents=True)
    assert (home / "etc" / "passwd").read_bytes() == b"mine"
    assert peer.get("//etc/passwd") == b"mine"
    for op in ("put", "mkdir", "remove"):
        assert code(peer, op, "/./", size=0) == "bad-name"


def test_names_that_are_no_text_can_be_told_and_asked_for(peer, home):
    names = {b"caf\xe9": "caf\uefe9", b"\xff\x80": "\uefff\uef80", "\uef80".encode(): None}
    for raw in names:
        Path(os.fsdecode(bytes(home) + b"/" + raw)).write_bytes(raw)
    told = listing(peer)
    assert len(told) == len(names)
    assert "caf\uefe9" in told
    assert "\uefff\uef80" in told
    contents = {peer.get(name) for name in told}
    assert contents == set(names)
    for number, name in enumerate(told):
        peer.ask({"op": "move", "path": name, "to": f"n{number}"})
        peer.ask({"op": "remove", "path": f"n{number}"})
    peer.put("back\uef80", b"")
    assert os.listdir(bytes(home)) == [b"back\x80"]


def test_a_path_a_hundred_deep(peer, home):
    deep = "/".join(["d"] * 100)
    assert code(peer, "put", f"{deep}/f", size=0) == "not-found"
    peer.put(f"{deep}/f", b"deep", parents=True)
    assert peer.get(f"{deep}/f") == b"deep"
    assert list(listing(peer, deep)) == ["f"]
    peer.ask({"op": "mkdir", "path": f"{deep}/e", "parents": True})
    removed, _ = peer.ask({"op": "remove", "path": "d", "recursive": True})
    assert removed == {"files": 1, "folders": 101}
    assert peer.ask({"op": "quota"})[0]["used"] == 0
    assert not os.listdir(home)


# links


def test_links_inside_the_folder_are_followed(peer, home):
    peer.put("real/f", b"content", parents=True)
    (home / "folder").symlink_to("real")
    (home / "file").symlink_to("real/f")
    assert peer.get("file") == peer.get("folder/f") == b"content"
    assert peer.ask({"op": "stat", "path": "file"})[0]["type"] == "file"
    assert list(listing(peer, "folder")) == ["f"]
    assert {name: entry["type"] for name, entry in listing(peer).items()} == {
        "real": "folder",
        "folder": "link",
        "file": "link",
    }
    peer.put("folder/g", b"through")
    assert (home / "real" / "g").read_bytes() == b"through"
    peer.ask({"op": "remove", "path": "folder", "recursive": True})
    assert (home / "real" / "g").exists()
    assert not (home / "folder").is_symlink()


@pytest.mark.parametrize("absolute", [True, False])
def test_links_out_of_the_folder_lead_nowhere(peer, home, outside, absolute):
    target = outside if absolute else os.path.relpath(outside, home)
    (home / "out").symlink_to(target)
    (home / "secret").symlink_to(f"{target}/secret")
    (home / "loop").symlink_to("loop")
    peer.put("mine", b"1")
    for path in ("secret", "out/secret", "loop", "loop/x"):
        assert code(peer, "get", path) == "outside"
        assert code(peer, "stat", path) == "outside"
    for path in ("out", "loop"):
        assert code(peer, "list", path) == "outside"
    for path in ("out/new", "loop/new"):
        assert code(peer, "put", path, size=0) == "outside"
        assert code(peer, "put", path, size=2 * MIB, tag="t", parents=True) == "outside"
        assert code(peer, "mkdir", path) == "outside"
        assert code(peer, "mkdir", path, parents=True) == "outside"
        assert code(peer, "move", "mine", to=path) == "outside"
    assert code(peer, "remove", "out/secret", recursive=True) == "outside"
    assert code(peer, "move", "out/secret", to="taken") == "outside"
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"secret": "theirs"}
    removed, _ = peer.ask({"op": "remove", "path": "secret"})
    assert removed == {"files": 1, "folders": 0}
    assert (outside / "secret").read_text() == "theirs"


def test_a_link_that_is_swapped_in_during_access_never_lets_out(peer, home, outside):
    peer.ask({"op": "mkdir", "path": "d"})
    peer.put("d/secret", b"mine")
    (home / "swap").symlink_to(outside)
    folder, stop, swaps = os.open(home, os.O_RDONLY | os.O_DIRECTORY), threading.Event(), []

    def swap() -> None:
        while not stop.is_set():
            syscalls.rename(folder, b"d", folder, b"swap", syscalls.RENAME_EXCHANGE)
            swaps.append(1)

    racer = threading.Thread(target=swap)
    racer.start()
    answers = set()
    try:
        for _ in range(60):
            idents = [
                *(peer.request({"op": "get", "path": "d/secret"}) for _ in range(3)),
                peer.request({"op": "put", "path": "d/new", "size": 3}, b"new"),
                peer.request({"op": "list", "path": "d"}),
                peer.request({"op": "mkdir", "path": "d/sub", "parents": True}),
                peer.request({"op": "move", "path": "d/new", "to": "d/moved", "replace": True}),
                peer.request({"op": "remove", "path": "d/moved"}),
                peer.request({"op": "remove", "path": "d/sub", "recursive": True}),
            ]
            for ident in idents:
                try:
                    answers.add(peer.answer(ident)[1])
                except RefusedError as refused:
                    answers.add(refused.code)
    finally:
        stop.set()
        racer.join()
        os.close(folder)
    assert swaps
    assert b"mine" in answers
    assert "outside" in answers
    assert not any(b"theirs" in answer for answer in answers if isinstance(answer, bytes))
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"secret": "theirs"}


# what the verbs mean


def test_mkdir(peer, home):
    peer.ask({"op": "mkdir", "path": "a"})
    assert code(peer, "mkdir", "a") == "exists"
    assert code(peer, "mkdir", "b/c") == "not-found"
    for _ in range(2):
        peer.ask({"op": "mkdir", "path": "b/c", "parents": True})
    peer.put("f", b"")
    assert code(peer, "mkdir", "f") == "exists"
    for parents in (False, True):
        assert code(peer, "mkdir", "f/x", parents=parents) == "not-a-folder"
    assert (home / "b" / "c").is_dir()


def test_move(peer, home):
    peer.put("one", b"1")
    peer.put("four", b"four")
    peer.put("folder/f", b"", parents=True)
    assert code(peer, "move", "one", to="four") == "exists"
    assert code(peer, "move", "none", to="x") == "not-found"
    assert code(peer, "move", "none", to="four", replace=True) == "not-found"
    assert code(peer, "move", "one", to="none/x") == "not-found"
    assert code(peer, "move", "one", to="folder", replace=True) == "is-a-folder"
    assert code(peer, "move", "folder", to="one", replace=True) == "is-a-folder"
    assert code(peer, "move", "folder", to="folder/sub") == "bad-name"
    assert code(peer, "move", "folder", to="folder/f/x") == "bad-name"
    assert peer.ask({"op": "quota"})[0]["used"] == 5
    moved, _ = peer.ask({"op": "move", "path": "one", "to": "four", "replace": True})
    assert moved == {"replaced": True}
    assert peer.ask({"op": "quota"})[0]["used"] == 1
    moved, _ = peer.ask({"op": "move", "path": "folder", "to": "other"})
    assert moved == {"replaced": False}
    assert sorted(os.listdir(home)) == ["four", "other"]
    assert peer.get("four") == b"1"


def test_remove(peer, home):
    peer.put("a/b/f", b"12345", parents=True)
    peer.put("a/g", b"123")
    assert code(peer, "remove", "a") == "not-empty"
    assert code(peer, "remove", "none") == "not-found"
    assert code(peer, "remove", "a/g/x") == "not-a-folder"
    assert peer.ask({"op": "remove", "path": "a/g"})[0] == {"files": 1, "folders": 0}
    assert peer.ask({"op": "quota"})[0]["used"] == 5
    removed, _ = peer.ask({"op": "remove", "path": "a", "recursive": True})
    assert removed == {"files": 1, "folders": 2}
    assert peer.ask({"op": "quota"})[0]["used"] == 0
    peer.ask({"op": "mkdir", "path": "empty"})
    assert peer.ask({"op": "remove", "path": "empty"})[0] == {"files": 0, "folders": 1}
    assert not os.listdir(home)


def test_modes_of_what_is_made(peer, home):
    peer.put("p/inline", b"1", parents=True)
    ident, _ = peer.begin("p/stream", 4, tag="t")
    peer.data(ident, b"1234", last=True)
    assert peer.answer(ident)[0]["size"] == 4
    peer.put("p/inline", b"replaced")
    peer.ask({"op": "mkdir", "path": "m"})
    modes = {path: stat.S_IMODE((home / path).stat().st_mode) for path in ("p", "m")}
    assert modes == {"p": 0o750, "m": 0o750}
    for path in ("p/inline", "p/stream"):
        assert stat.S_IMODE((home / path).stat().st_mode) == 0o640


def test_stat_tells_what_is_there(peer, home):
    peer.put("f", b"12345", mtime=1700000000.5)
    os.mkfifo(home / "fifo")
    assert peer.ask({"op": "stat", "path": "f"})[0] == {
        "name": "f",
        "type": "file",
        "size": 5,
        "mtime": 1700000000.5,
    }
    assert peer.ask({"op": "stat", "path": ""})[0]["type"] == "folder"
    assert peer.ask({"op": "stat", "path": "fifo"})[0]["type"] == "other"
    assert code(peer, "stat", "none") == "not-found"
    assert code(peer, "stat", "f/x") == "not-a-folder"
    assert code(peer, "list", "f") == "not-a-folder"
    assert code(peer, "list", "none") == "not-found"


@pytest.mark.parametrize("size", [1000, 300_000])
def test_ranges(peer, size):
    content = noise(size)
    peer.put("f", content)
    for offset, length in ((0, 0), (0, 1), (1, size), (size - 1, 5), (size, None), (size, 3)):
        end = size if length is None else offset + length
        assert peer.get("f", offset=offset, length=length) == content[offset:end]
    meta, _ = peer.ask({"op": "get", "path": "f", "offset": 7, "length": 1 << 60})
    assert (meta["size"], meta["offset"], meta["length"]) == (size, 7, size - 7)
    assert code(peer, "get", "f", offset=size + 1) == "bad-range"
    assert code(peer, "get", "f", offset=-1) == "bad-request"


def test_what_is_no_file_cannot_be_got(peer, home):
    peer.ask({"op": "mkdir", "path": "folder"})
    os.mkfifo(home / "fifo")
    assert code(peer, "get", "folder") == "is-a-folder"
    assert code(peer, "get", "") == "is-a-folder"
    assert code(peer, "get", "fifo") == "not-a-file"
    assert code(peer, "put", "folder", size=0) == "is-a-folder"
    assert code(peer, "put", "folder", size=2 * MIB, tag="t") == "is-a-folder"


def test_a_folder_of_twenty_thousand_entries_is_listed_whole(peer, home):
    (home / "many").mkdir()
    names = {f"{'n' * 40}{number}" for number in range(20_000)}
    for name in names:
        os.close(os.open(home / "many" / name, os.O_CREAT | os.O_WRONLY))
    assert set(listing(peer, "many")) == names


# broken bytes


def head(kind: int, meta: bytes = b"", length: int = 0, flags: int = 0) -> bytes:
    return HEADER.pack(kind, flags, len(meta), 1, length) + meta


BROKEN = {
    "another protocol": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "zeros": bytes(64),
    "an unknown type": head(0xF7),
    "an answer from a client": head(REPLY),
    "an unknown flag": head(DATA, flags=2),
    "a flag that only DATA has": head(REQUEST, flags=1),
    "meta over its limit": HEADER.pack(REQUEST, 0, 0xFFFF, 1, 0),
    "a payload over its limit": head(REQUEST, b'{"op": "bye"}', MIB + 1),
    "the longest payload there is": head(REQUEST, b'{"op": "bye"}', (1 << 64) - 1),
    "DATA over its limit": head(DATA, length=(1 << 30) + 1),
    "DATA without an upload": head(DATA, length=4) + b"data",
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_frames_are_told_and_end_the_connection(shared, what):
    for broken in (shared.connect(), shared.log_in()):
        broken.sock.sendall(BROKEN[what])
        kind, ident, meta, _ = broken.read()
        assert (kind, ident, meta["code"]) == (ERROR, 0, "bad-frame")
        assert (meta["retry"], meta["fault"]) == (False, "peer")
        with pytest.raises(EOFError):
            broken.read()


ODD_METAS = {
    "no JSON": b"\xff\xfe{",
    "cut JSON": b'{"op": "get", "path": "',
    "no object": b'["get"]',
    "empty": b"",
    "no op": b'{"path": "x"}',
    "an op that is no text": b'{"op": 7}',
    "a wrong type": b'{"op": "get", "path": 7}',
    "nested deeply": b'{"op": "get", "path": ' + b"[" * 8000,
    "a field missing": b'{"op": "put", "path": "x"}',
    "a negative size": b'{"op": "put", "path": "x", "size": -1}',
    "an immense size": b'{"op": "put", "path": "x", "size": 99999999999999999999}',
    "no digest": b'{"op": "put", "path": "x", "size": 1, "digest": "abc"}',
    "a time that cannot be": b'{"op": "put", "path": "x", "size": 1, "mtime": 1e300}',
}


def test_odd_requests_are_refused_and_the_session_goes_on(peer, home):
    for what, meta in ODD_METAS.items():
        peer.sock.sendall(head(REQUEST, meta))
        kind, ident, answer, _ = peer.read()
        assert (kind, ident, answer["code"]) == (ERROR, 1, "bad-request"), what
    for op in ("fly", "", "PUT", "x" * 1000):
        assert code(peer, op, "x") == "unknown-verb"
    with pytest.raises(RefusedError) as refused:
        peer.ask({"op": "put", "path": "x", "size": 4}, b"five!")
    assert refused.value.code == "bad-request"
    peer.put("x", b"fine")
    assert os.listdir(home) == ["x"]


def test_a_wrong_order_is_refused_and_the_session_goes_on(shared):
    newcomer = shared.connect()
    for op in ("get", "put", "list", "remove", "quota", "run"):
        with pytest.raises(RefusedError) as refused:
            newcomer.ask({"op": op, "path": "x", "size": 0, "command": "x"})
        assert refused.value.code == "auth-required"
    with pytest.raises(RefusedError) as refused:
        newcomer.ask({"op": "hello", "versions": [2, 3]})
    assert refused.value.code == "bad-version"
    newcomer.login("alice", PASSWORD)
    ident, _ = newcomer.begin("f", 4, tag="t")
    newcomer.data(ident, b"too much")
    with pytest.raises(RefusedError) as refused:
        newcomer.answer(ident)
    assert refused.value.code == "bad-request"
    newcomer.data(ident, b"and more", last=True)
    ident, _ = newcomer.begin("g", 4, tag="t")
    newcomer.data(ident, b"123", last=True)
    with pytest.raises(RefusedError) as refused:
        newcomer.answer(ident)
    assert refused.value.code == "bad-request"
    assert not {"f", "g"} & set(listing(newcomer))


def test_random_bytes_harm_nobody(shared):
    dice = random.Random(3675)
    frames = [
        head(REQUEST, b'{"op": "hello", "versions": [1]}'),
        head(DATA, length=9),
        *BROKEN.values(),
    ]
    addresses = (shared.unix_path, (shared.host, shared.port))
    for number in range(60):
        broken = shared.connect(addresses[number % 2])
        blob = bytearray(dice.choice(frames) + dice.randbytes(dice.randrange(200)))
        for _ in range(dice.randrange(4)):
            blob[dice.randrange(len(blob))] = dice.randrange(256)
        broken.sock.sendall(blob)
        broken.close()
    shared.log_in().put("still", b"served")
    assert not [event for event in shared.events() if event["level"] == "error"]
