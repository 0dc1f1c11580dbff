"""A file of any size goes through a worker whose memory stays as it is."""

from __future__ import annotations

import hashlib
import os
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from measure import KIB, MIB, growth, worker_pids
from peer import DATA, HEADER, INTERIM, REPLY, Peer
from rig import PASSWORD, Daemon
from torture import Tell, scale

BLOCK = 4 * MIB
SIZE = scale(256 * MIB, 4096 * MIB) + 12_345
ROOM = 32 * MIB
FRAME = 256 * MIB
_NOISE = os.urandom(MIB)

pytestmark = pytest.mark.torture


class Content:
    """Bytes that are known everywhere and nowhere the same, without being kept."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._piece = bytearray(_NOISE)

    def piece(self, at: int) -> memoryview:
        """What is at `at`, a multiple of MIB, up to the next; good until the next call."""
        self._piece[: 8 * KIB] = at.to_bytes(8, "big") * KIB
        return memoryview(self._piece)[: min(MIB, self.size - at)]

    def pieces(self, start: int = 0, end: int | None = None) -> Iterator[memoryview]:
        for at in range(start, self.size if end is None else end, MIB):
            yield self.piece(at)

    def digest(self) -> str:
        blocks = []
        for start in range(0, self.size, BLOCK):
            block = hashlib.sha256()
            for piece in self.pieces(start, min(start + BLOCK, self.size)):
                block.update(piece)
            blocks.append(block.digest())
        return hashlib.sha256(b"".join(blocks)).hexdigest()


def upload(peer: Peer, content: Content, digest: str | None) -> None:
    ident, told = peer.begin("big", content.size, check=digest is not None)
    assert told["offset"] == 0
    for start in range(0, content.size, FRAME):
        end = min(start + FRAME, content.size)
        peer.sock.sendall(HEADER.pack(DATA, 0, 0, ident, end - start))
        for piece in content.pieces(start, end):
            peer.sock.sendall(piece)
    peer.data(ident, last=True, meta={"digest": digest} if digest else None)
    assert peer.answer(ident)[0] == {"size": content.size, "digest": digest, "replaced": False}


def download(peer: Peer, content: Content, digest: str | None) -> None:
    """Read it all and compare every byte."""
    ident = peer.request({"op": "get", "path": "big", "check": digest is not None})
    kind, about, meta, _ = peer.read()
    assert (kind, about, meta["length"]) == (INTERIM, ident, content.size)
    at, ahead = 0, 0
    buffer = memoryview(bytearray(MIB))
    while at < content.size:
        wanted = content.piece(at)
        filled = 0
        while filled < len(wanted):
            if not ahead:
                kind, _, meta_length, about, ahead = HEADER.unpack(peer._exactly(HEADER.size))
                assert (kind, about) == (DATA, ident)
                peer._exactly(meta_length)
            count = peer.sock.recv_into(buffer[filled : min(len(wanted), filled + ahead)])
            assert count, "the server ended the connection"
            filled += count
            ahead -= count
        assert buffer[:filled] == wanted, f"other bytes at {at}"
        at += filled
    kind, about, meta, _ = peer.read()
    assert (kind, about, meta.get("digest")) == (REPLY, ident, digest)


@pytest.mark.parametrize("digested", [False, True], ids=["as-it-is", "digested"])
@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "tls"])
def test_a_huge_file_passes_through_flat_memory(
    shared: Daemon,
    user: str,
    client_tls: ssl.SSLContext,
    wrapped: bool,
    digested: bool,
    tell: Tell,
) -> None:
    assert shared.ctl("user", "set", user, "--quota", "unlimited").returncode == 0
    content = Content(SIZE)
    digest = content.digest() if digested else None
    peer = Peer((shared.host, shared.port), tls=client_tls if wrapped else None)
    peer.login(user, PASSWORD)
    with growth(worker_pids(shared)) as up:
        upload(peer, content, digest)
    with growth(worker_pids(shared)) as down:
        download(peer, content, digest)
    assert same_on_disk(shared.home(user) / "big", content)
    peer.ask({"op": "remove", "path": "big"})
    peer.close()
    tell(
        size=f"{SIZE // MIB} MiB",
        upload_grew=f"{up.worst / MIB:.1f} MiB",
        download_grew=f"{down.worst / MIB:.1f} MiB",
    )
    assert up.worst < ROOM
    assert down.worst < ROOM


def same_on_disk(path: Path, content: Content) -> bool:
    with path.open("rb") as file:
        return all(file.read(len(piece)) == piece for piece in content.pieces()) and not file.read()
