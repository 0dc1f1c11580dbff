"""The block digest against an independent statement of docs/protocol.md "Digests"."""

from __future__ import annotations

import hashlib
import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forkd.digest import DIGEST_SIZE, BlockDigest, digest_of
from forkd.protocol import BLOCK

CONTENT = random.Random(3675).randbytes(3 * BLOCK + 17)


def page_digest(content: bytes) -> str:
    """The page's two sentences, word by word."""
    blocks = [content[i : i + BLOCK] for i in range(0, len(content), BLOCK)]
    if len(blocks) <= 1:
        return hashlib.sha256(content).hexdigest()
    joined = b"".join(hashlib.sha256(block).digest() for block in blocks)
    return hashlib.sha256(joined).hexdigest()


SIZES = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 5, 3 * BLOCK, len(CONTENT)]


@pytest.mark.parametrize("size", SIZES)
def test_whole_content(size: int) -> None:
    assert digest_of(CONTENT[:size]) == page_digest(CONTENT[:size])


def test_up_to_one_block_it_is_plain_sha256() -> None:
    assert digest_of(CONTENT[:BLOCK]) == hashlib.sha256(CONTENT[:BLOCK]).hexdigest()
    assert digest_of(CONTENT[: BLOCK + 1]) != hashlib.sha256(CONTENT[: BLOCK + 1]).hexdigest()


@settings(deadline=None, max_examples=30)
@given(
    size=st.sampled_from(SIZES),
    cuts=st.lists(st.integers(0, len(CONTENT)), max_size=6),
)
def test_the_pieces_do_not_matter(size: int, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, size) for cut in cuts), size]
    digest = BlockDigest()
    for start, end in itertools.pairwise(edges):
        digest.update(memoryview(CONTENT)[start:end])
    assert digest.length == size
    assert digest.hexdigest() == page_digest(CONTENT[:size])


@pytest.mark.parametrize("held", [0, 1, 2, 3])
@pytest.mark.parametrize("more", [0, 1, 17])
def test_continue_at_a_block_boundary(held: int, more: int) -> None:
    first = BlockDigest()
    first.update(CONTENT[: held * BLOCK + 5])
    kept = first.blocks
    assert len(kept) == held * DIGEST_SIZE

    second = BlockDigest.from_blocks(kept)
    assert second.length == held * BLOCK
    assert second.hexdigest() == page_digest(CONTENT[: held * BLOCK])
    second.update(CONTENT[held * BLOCK : held * BLOCK + more])
    assert second.hexdigest() == page_digest(CONTENT[: held * BLOCK + more])


def test_hexdigest_does_not_end_the_digest() -> None:
    digest = BlockDigest()
    for end in (3, BLOCK + 4, 2 * BLOCK):
        digest.update(CONTENT[digest.length : end])
        assert digest.hexdigest() == page_digest(CONTENT[:end])


def test_a_cut_block_digest_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes each, got 33"):
        BlockDigest.from_blocks(bytes(33))
