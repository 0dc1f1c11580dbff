"""A client from docs/protocol.md alone: nothing but the standard library.

The client knows nothing of forkd: nothing but the page was read to write it.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import socket
import ssl
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rig import Daemon, running

HEAD = struct.Struct(">BBHIQ")
REQUEST, DATA, INTERIM, REPLY, ERROR, NOTICE = 0xF1, 0xF2, 0xF3, 0xF4, 0xF5, 0xF6
LAST = 0x01
BLOCK = 4_194_304
CONTENT = random.Random(3675).randbytes(3 * BLOCK + 1000)


class Refused(Exception):
    def __init__(self, meta: dict[str, Any]) -> None:
        super().__init__(f"{meta['code']}: {meta['message']}")
        self.meta = meta
        self.code = meta["code"]


class PageClient:
    """As little as gets along."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(60)
        self.file = sock.makefile("rb")
        self.id = 0

    def close(self) -> None:
        self.file.close()
        self.sock.close()

    def send(
        self, kind: int, ident: int, meta: Any = None, payload: bytes = b"", flags: int = 0
    ) -> None:
        text = b"" if meta is None else json.dumps(meta).encode()
        self.sock.sendall(HEAD.pack(kind, flags, len(text), ident, len(payload)) + text + payload)

    def receive(self) -> tuple[int, int, dict[str, Any], bytes]:
        kind, flags, meta_length, ident, length = HEAD.unpack(self.exactly(HEAD.size))
        assert flags == 0
        meta = self.exactly(meta_length)
        return kind, ident, json.loads(meta) if meta else {}, self.exactly(length)

    def exactly(self, count: int) -> bytes:
        data = self.file.read(count)
        if len(data) != count:
            raise EOFError
        return data

    def ask(self, op: str, payload: bytes = b"", **fields: Any) -> int:
        self.id += 1
        self.send(REQUEST, self.id, {"op": op, **fields}, payload)
        return self.id

    def answer(self, ident: int) -> tuple[list[dict[str, Any]], bytes]:
        """The metas of all frames of an answer, and its content."""
        metas: list[dict[str, Any]] = []
        content = b""
        while True:
            kind, about, meta, payload = self.receive()
            if kind == NOTICE:
                continue
            assert about == ident, (kind, about, meta)
            if kind == ERROR:
                raise Refused(meta)
            metas.append(meta)
            content += payload
            if kind == REPLY:
                return metas, content

    def do(self, op: str, payload: bytes = b"", **fields: Any) -> dict[str, Any]:
        return self.answer(self.ask(op, payload, **fields))[0][-1]

    def begin(self, path: str, **fields: Any) -> tuple[int, dict[str, Any]]:
        ident = self.ask("put", path=path, size=len(CONTENT), **fields)
        kind, about, meta, payload = self.receive()
        assert (about, payload) == (ident, b"")
        if kind == ERROR:
            raise Refused(meta)
        assert kind == INTERIM
        return ident, meta


def page_digest(content: bytes) -> str:
    blocks = [content[at : at + BLOCK] for at in range(0, len(content), BLOCK)] or [b""]
    if len(blocks) == 1:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha256(b"".join(hashlib.sha256(block).digest() for block in blocks)).hexdigest()


def dial(daemon: Daemon, how: str) -> PageClient:
    if how == "unix":
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(daemon.unix_path)
        return PageClient(sock)
    sock = socket.create_connection((daemon.host, daemon.port))
    if how == "tls":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        sock = context.wrap_socket(sock, suppress_ragged_eofs=False)
    return PageClient(sock)


def log_in(daemon: Daemon, how: str, user: str) -> PageClient:
    client = dial(daemon, how)
    client.do("hello", versions=[1], agent="page")
    client.do("auth", user=user, password=daemon.users[user])
    return client


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """One for all tests here: each has an account of its own."""
    folder = Path(tempfile.mkdtemp(prefix="forkd-"))
    try:
        with running(folder) as started:
            yield started
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["plain", "tls", "unix"])
def how(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def user(daemon: Daemon) -> str:
    name = f"user{len(daemon.users)}"
    daemon.add_user(name)
    return name


@pytest.fixture
def client(daemon: Daemon, how: str, user: str) -> Iterator[PageClient]:
    client = log_in(daemon, how, user)
    yield client
    client.close()


def test_hello_and_auth(daemon: Daemon, how: str, user: str) -> None:
    client = dial(daemon, how)
    with pytest.raises(Refused) as caught:
        client.do("list", path="")
    assert caught.value.code in ("bad-request", "auth-required")
    hello = client.do("hello", versions=[1, 99], agent="page", unknown_field=True)
    assert hello["version"] == 1
    assert hello["tls"] is (how == "tls")
    assert (hello["inline_max"], hello["data_max"], hello["block"]) == (1 << 20, 1 << 30, BLOCK)
    assert hello["session"]
    with pytest.raises(Refused) as caught:
        client.do("list", path="")
    assert caught.value.code == "auth-required"
    with pytest.raises(Refused) as caught:
        client.do("auth", user=user, password="wrong")
    assert caught.value.code == "auth-failed"
    told = client.do("auth", user=user, password=daemon.users[user])
    assert told["user"] == user
    assert "read" in told["permissions"]
    assert told["quota"]["used"] == 0
    assert client.do("bye") == {}
    with pytest.raises(EOFError):
        client.receive()
    client.close()


def test_pipelined_puts_and_everything_after_them(client: PageClient) -> None:
    contents = {f"many/{i:04}": bytes([i % 256]) * (i % 300) for i in range(1000)}
    puts = [
        client.ask("put", data, path=path, size=len(data), parents=True, mtime=1_600_000_000.5)
        for path, data in contents.items()
    ]
    listing = client.ask("list", path="/many/")
    for put in puts:
        metas, _ = client.answer(put)
        assert metas[-1]["replaced"] is False
    _, lines = client.answer(listing)
    entries = {entry["name"]: entry for entry in map(json.loads, lines.splitlines())}
    assert {f"many/{name}": entry["size"] for name, entry in entries.items()} == {
        path: len(data) for path, data in contents.items()
    }
    assert entries["0007"]["type"] == "file"
    assert abs(entries["0007"]["mtime"] - 1_600_000_000.5) < 1e-6

    gets = [client.ask("get", path=path) for path in contents]
    for get, data in zip(gets, contents.values(), strict=True):
        metas, content = client.answer(get)
        assert content == data
        assert metas[0]["size"] == metas[0]["length"] == len(data)
    assert client.do("quota")["used"] == sum(map(len, contents.values()))


def test_a_digest_is_proved(client: PageClient) -> None:
    right = hashlib.sha256(b"content").hexdigest()
    told = client.do("put", b"content", path="f", size=7, digest=right)
    assert (told["size"], told["digest"]) == (7, right)
    with pytest.raises(Refused) as caught:
        client.do("put", b"CONTENT", path="f", size=7, digest=right)
    assert (caught.value.code, caught.value.meta["retry"]) == ("digest-mismatch", True)
    metas, content = client.answer(client.ask("get", path="f", check=True))
    assert (content, metas[-1]["digest"]) == (b"content", right)


def test_a_stream_interrupted_and_resumed(daemon: Daemon, how: str, user: str) -> None:
    fields = {"check": True, "client": "page", "tag": "v1"}
    first = log_in(daemon, how, user)
    ident, offer = first.begin("big", **fields)
    assert offer == {"offset": 0, "proof": None}
    first.send(DATA, ident, None, CONTENT[: 2 * BLOCK + 5])
    first.send(DATA, ident, {"abort": True}, flags=LAST)
    with pytest.raises(Refused) as caught:
        first.answer(ident)
    assert caught.value.code == "bad-request"
    first.close()

    client = log_in(daemon, how, user)
    with pytest.raises(Refused) as caught:
        client.do("stat", path="big")
    assert caught.value.code == "not-found", "nothing half-done is shown"
    with pytest.raises(Refused) as caught:
        client.begin("big", **{**fields, "tag": "v2"})
    assert caught.value.code == "source-changed"
    ident, offer = client.begin("big", **fields)
    assert offer == {"offset": 2 * BLOCK, "proof": page_digest(CONTENT[: 2 * BLOCK])}
    rest = CONTENT[2 * BLOCK :]
    client.send(DATA, ident, None, rest[:1])
    client.send(DATA, ident)
    client.send(DATA, ident, None, rest[1:])
    client.send(DATA, ident, {"digest": page_digest(CONTENT)}, flags=LAST)
    metas, _ = client.answer(ident)
    assert metas[-1] == {"size": len(CONTENT), "digest": page_digest(CONTENT), "replaced": False}

    metas, content = client.answer(client.ask("get", path="big", check=True))
    assert content == CONTENT
    assert metas[-1]["digest"] == page_digest(CONTENT)
    at = BLOCK + 7
    metas, content = client.answer(client.ask("get", path="big", offset=at, length=2 * BLOCK))
    assert content == CONTENT[at : at + 2 * BLOCK]
    assert metas[0]["offset"] == at
    _, content = client.answer(client.ask("get", path="big", offset=len(CONTENT) - 3, length=99))
    assert content == CONTENT[-3:]
    client.close()


def test_a_stream_that_starts_again(client: PageClient) -> None:
    ident, _ = client.begin("big", check=True)
    client.send(DATA, ident, None, CONTENT[:BLOCK])
    client.send(DATA, ident, {"abort": True}, flags=LAST)
    with pytest.raises(Refused):
        client.answer(ident)
    ident, offer = client.begin("big", check=True, restart=True)
    assert offer["offset"] == 0
    client.send(DATA, ident, {"digest": page_digest(CONTENT)}, CONTENT, flags=LAST)
    assert client.answer(ident)[0][-1]["size"] == len(CONTENT)


def test_a_stream_without_check_and_requests_within_it(client: PageClient) -> None:
    ident, offer = client.begin("plain")
    assert offer["proof"] is None
    client.send(DATA, ident, None, CONTENT[:1000])
    inside = client.ask("stat", path="plain")
    client.send(DATA, ident, None, CONTENT[1000:], flags=LAST)
    assert client.answer(ident)[0][-1]["digest"] is None
    metas, _ = client.answer(inside)  # answered after the upload, so it sees it
    assert metas[-1]["size"] == len(CONTENT)


def test_too_few_and_too_many_bytes_change_nothing(client: PageClient) -> None:
    client.do("put", b"old", path="f", size=3)
    for content in (CONTENT[:-1], CONTENT + b"x"):
        ident, _ = client.begin("f", restart=True)
        client.send(DATA, ident, None, content)
        client.send(DATA, ident, None, flags=LAST)
        with pytest.raises(Refused) as caught:
            client.answer(ident)
        assert caught.value.code == "bad-request"
    assert client.answer(client.ask("get", path="f"))[1] == b"old"


def test_folders_moves_and_removal(client: PageClient) -> None:
    assert client.do("mkdir", path="a/b", parents=True) == {}
    client.do("put", b"1", path="a/b/c", size=1)
    client.do("put", b"2", path="d", size=1)
    for fields, code in [
        ({"op": "mkdir", "path": "a"}, "exists"),
        ({"op": "move", "path": "d", "to": "a/b/c"}, "exists"),
        ({"op": "put", "path": "d", "size": 0, "replace": False}, "exists"),
        ({"op": "remove", "path": "a"}, "not-empty"),
        ({"op": "list", "path": "nope"}, "not-found"),
        ({"op": "list", "path": "d"}, "not-a-folder"),
        ({"op": "get", "path": "a"}, "is-a-folder"),
        ({"op": "get", "path": "../x"}, "outside"),
        ({"op": "get", "path": "a\0"}, "bad-name"),
        ({"op": "get", "path": "x" * 256}, "bad-name"),
        ({"op": "get", "path": "d", "offset": 2}, "bad-range"),
        ({"op": "get"}, "bad-request"),
        ({"op": "get", "path": 5}, "bad-request"),
        ({"op": "frobnicate"}, "unknown-verb"),
        ({"op": "run", "command": "nope"}, "unknown-command"),
    ]:
        op = str(fields.pop("op"))
        with pytest.raises(Refused) as caught:
            client.do(op, **fields)
        assert caught.value.code == code, (op, fields)
        assert caught.value.meta["fault"] in ("peer", "policy")
    assert client.do("move", path="d", to="a/b/c", replace=True) == {"replaced": True}
    assert client.answer(client.ask("get", path="a/b/c"))[1] == b"2"
    assert client.do("stat", path="a")["type"] == "folder"
    assert client.do("remove", path="a", recursive=True) == {"files": 1, "folders": 2}
    assert client.do("quota")["used"] == 0


def test_names_that_are_no_utf8(client: PageClient) -> None:
    client.do("put", b"x", path="caf\uefe9", size=1)
    _, lines = client.answer(client.ask("list", path=""))
    assert [json.loads(line)["name"] for line in lines.splitlines()] == ["caf\uefe9"]
    assert client.do("stat", path="caf\uefe9")["size"] == 1


def test_empty_messages_are_legal(client: PageClient) -> None:
    told = client.do("put", b"", path="empty", size=0)
    assert told["size"] == 0
    metas, content = client.answer(client.ask("get", path="empty", check=True))
    assert (metas[0]["length"], content) == (0, b"")
    assert metas[-1]["digest"] == hashlib.sha256().hexdigest()
    _, lines = client.answer(client.ask("list", path=""))
    assert len(lines.splitlines()) == 1


BROKEN = [
    HEAD.pack(0xF7, 0, 0, 1, 0),
    HEAD.pack(REPLY, 0, 0, 1, 0),
    HEAD.pack(REQUEST, LAST, 0, 1, 0),
    HEAD.pack(DATA, 0x02, 0, 1, 0),
    HEAD.pack(REQUEST, 0, 16_385, 1, 0),
    HEAD.pack(REQUEST, 0, 0, 1, (1 << 20) + 1),
    HEAD.pack(DATA, 0, 0, 1, (1 << 30) + 1),
]


@pytest.mark.parametrize("frame", BROKEN, ids=bytes.hex)
def test_a_broken_frame_ends_the_connection(daemon: Daemon, how: str, frame: bytes) -> None:
    client = dial(daemon, how)
    client.do("hello", versions=[1])
    client.sock.sendall(frame)
    kind, ident, meta, _ = client.receive()
    assert (kind, ident, meta["code"]) == (ERROR, 0, "bad-frame")
    with pytest.raises((EOFError, ConnectionError)):
        client.receive()
    client.close()


def test_the_password_changes(daemon: Daemon, client: PageClient, how: str, user: str) -> None:
    old = daemon.users[user]
    with pytest.raises(Refused) as caught:
        client.do("passwd", old="wrong", new="a new password 1")
    assert caught.value.code == "auth-failed"
    with pytest.raises(Refused) as caught:
        client.do("passwd", old=old, new="short")
    assert caught.value.code == "weak-password"
    assert client.do("passwd", old=old, new="a new password 1") == {}
    daemon.users[user] = "a new password 1"
    log_in(daemon, how, user).close()


def test_nobody_registers_where_that_is_off(daemon: Daemon, how: str) -> None:
    client = dial(daemon, how)
    assert client.do("hello", versions=[1])["register"] is False
    with pytest.raises(Refused) as caught:
        client.do("register", user="mallory", password="a password 123")
    assert caught.value.code == "register-closed"
    client.close()


def test_an_unknown_version(daemon: Daemon, how: str) -> None:
    client = dial(daemon, how)
    with pytest.raises(Refused) as caught:
        client.do("hello", versions=[2])
    assert caught.value.code == "bad-version"
    client.close()
