"""The block digest: SHA-256 over blocks, so that a proven prefix never needs a second reading.

docs/protocol.md "Digests" is the contract:

- Content of at most one block (4 MiB): its SHA-256.
- Longer content: the SHA-256 of the SHA-256 values of its blocks, joined in order.

So 32 bytes for each 4 MiB are all that must be kept to continue at a block boundary: 256 KiB for
a partial of 32 GiB.  The cost is one SHA-256 pass over the content (1 to 2 GB/s with SHA
instructions, a quarter of that without) and one more hash of 32 bytes for each block.  `update`
holds no GIL while it hashes 2 KiB or more.
"""

from __future__ import annotations

import hashlib

from forkd.protocol import BLOCK

DIGEST_SIZE = 32
"""Bytes of one block's digest."""


class BlockDigest:
    """Digests content that comes in pieces of any sizes.  Not for use by two threads at once."""

    __slots__ = ("_blocks", "_current", "_filled")

    def __init__(self) -> None:
        self._blocks = bytearray()
        self._current = hashlib.sha256()
        self._filled = 0

    @classmethod
    def from_blocks(cls, prefix: bytes) -> BlockDigest:
        """Continue after whole blocks whose digests (`blocks`) are known.

        Raises ValueError when `prefix` is not a multiple of DIGEST_SIZE bytes.
        """
        if len(prefix) % DIGEST_SIZE:
            raise ValueError(f"block digests are {DIGEST_SIZE} bytes each, got {len(prefix)} bytes")
        digest = cls()
        digest._blocks += prefix
        return digest

    @property
    def length(self) -> int:
        """Bytes of content seen, those before `from_blocks` included."""
        return len(self._blocks) // DIGEST_SIZE * BLOCK + self._filled

    @property
    def blocks(self) -> bytes:
        """The digests of all finished blocks, joined: what `from_blocks` takes."""
        return bytes(self._blocks)

    def blocks_after(self, count: int) -> bytes:
        """The digests of the finished blocks but the first `count`, joined."""
        return bytes(self._blocks[count * DIGEST_SIZE :])

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Add content; it may span any number of blocks."""
        view = memoryview(data).cast("B")
        while view:
            piece = view[: BLOCK - self._filled]
            self._current.update(piece)
            self._filled += len(piece)
            if self._filled == BLOCK:
                self._blocks += self._current.digest()
                self._current = hashlib.sha256()
                self._filled = 0
            view = view[len(piece) :]

    def hexdigest(self) -> str:
        """The digest of all content so far, 64 hexadecimal digits; more content may follow."""
        if not self._blocks:
            return self._current.hexdigest()
        if len(self._blocks) == DIGEST_SIZE and not self._filled:
            return self._blocks.hex()
        whole = hashlib.sha256(self._blocks)
        if self._filled:
            whole.update(self._current.digest())
        return whole.hexdigest()


def digest_of(data: bytes | bytearray | memoryview) -> str:
    """The digest of content that is in memory as a whole, 64 hexadecimal digits."""
    digest = BlockDigest()
    digest.update(data)
    return digest.hexdigest()
