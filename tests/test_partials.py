"""Partials and their sidecars: what is resumed, and what is never trusted."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from corerig import children, fork

from forkd.digest import BlockDigest
from forkd.errors import Refusal
from forkd.protocol import BLOCK
from forkd.storage import partials, sidecar
from forkd.storage.partials import Namer, Staged, find, owner_of
from forkd.storage.sidecar import Source

PATH = b"d/f"
PLAIN = Source("d/f", "c", 10_000, "v1", False, None)
CHECKED = Source("d/f", "c", 3 * BLOCK + 5, "", True, None)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def begin(folder: int, source: Source) -> Staged:
    return partials.create(folder, source, PATH, None)


def interrupted(folder: int, source: Source, content: bytes) -> bytes:
    """A partial with this content, left alone; its name."""
    staged = begin(folder, source)
    os.write(staged.fd, content)
    if staged.digest is not None:
        assert staged.sidecar_fd is not None
        staged.digest.update(content)
        sidecar.append(staged.sidecar_fd, staged.digest.blocks)
    staged.close()
    return staged.ident


def held_of(folder: int, source: Source) -> tuple[int | None, int, int]:
    """(bytes to resume, partials of other versions, spoiled ones)."""
    found = find(folder, source, PATH)
    everything = [*found.others, *found.spoiled, *([found.fitting] if found.fitting else [])]
    for staged in everything:
        staged.close()
    return found.fitting.held if found.fitting else None, len(found.others), len(found.spoiled)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_nothing_is_held_of_a_new_upload(folder: int) -> None:
    found = find(folder, PLAIN, PATH)
    assert (found.fitting, found.others, found.spoiled, found.free) == (None, (), (), 0)


def test_only_the_same_source_resumes(folder: int) -> None:
    interrupted(folder, PLAIN, b"x" * 100)
    assert held_of(folder, PLAIN) == (100, 0, 0)
    for other in ({"size": 9}, {"tag": "v2"}, {"check": True}, {"digest": "0" * 64}):
        changed = Source(
            **({name: getattr(PLAIN, name) for name in PLAIN.__struct_fields__} | other)
        )
        assert held_of(folder, changed) == (None, 1, 0)
    assert held_of(folder, Source("d/f", "someone", 10_000, "v1", False, None)) == (None, 0, 0)
    assert partials.key_of(b"a", "bc") != partials.key_of(b"ab", "c")


def test_the_longest_is_resumed(folder: int) -> None:
    first, second = begin(folder, PLAIN), begin(folder, PLAIN)
    os.write(first.fd, b"x" * 100)
    os.write(second.fd, b"x" * 300)
    assert held_of(folder, PLAIN) == (None, 0, 0)  # both are held
    first.close()
    second.close()
    assert held_of(folder, PLAIN) == (300, 1, 0)


def test_a_partial_is_free_when_its_process_died(folder: int) -> None:
    read, ready = os.pipe()

    def upload() -> None:
        begin(folder, PLAIN)
        os.write(ready, b".")
        signal.pause()

    with children() as pids:
        pids.append(fork(upload))
        os.read(read, 1)
        assert find(folder, PLAIN, PATH).free == 1
    assert held_of(folder, PLAIN) == (0, 0, 0)
    os.close(read)
    os.close(ready)


# with digests


def test_a_checked_partial_goes_on_at_a_block(folder: int) -> None:
    content = os.urandom(2 * BLOCK + 77)
    interrupted(folder, CHECKED, content)
    found = find(folder, CHECKED, PATH)
    assert found.fitting is not None
    assert (found.fitting.held, found.fitting.on_disk) == (2 * BLOCK, len(content))
    expected = BlockDigest()
    expected.update(content[: 2 * BLOCK])
    assert found.fitting.digest is not None
    assert found.fitting.digest.hexdigest() == expected.hexdigest()
    partials.cut(found.fitting, CHECKED)
    assert os.fstat(found.fitting.fd).st_size == 2 * BLOCK
    found.fitting.close()


@pytest.mark.parametrize(
    ("digests", "blocks"), [(b"", 0), (b"\x01" * 31, 0), (b"\x01" * 40, 1), (b"\x01" * 96, 2)]
)
def test_no_more_is_held_than_data_and_digests_both_have(
    folder: int, tmp_path: Path, digests: bytes, blocks: int
) -> None:
    ident = interrupted(folder, CHECKED, os.urandom(2 * BLOCK))
    journal = tmp_path / (ident.decode() + ".j")
    head = journal.read_bytes().partition(b"\n")[0] + b"\n"
    journal.write_bytes(head + digests)
    found = find(folder, CHECKED, PATH)
    assert found.fitting is not None
    assert found.fitting.held == blocks * BLOCK
    partials.cut(found.fitting, CHECKED)
    assert journal.read_bytes() == head + digests[: blocks * 32]
    found.fitting.close()


def other_boot(journal: Path) -> None:
    text = journal.read_bytes()
    assert sidecar.boot_id().encode() in text
    journal.write_bytes(text.replace(sidecar.boot_id().encode(), b"another boot"))


def test_after_a_boot_only_what_can_be_proven_is_held(folder: int, tmp_path: Path) -> None:
    content = bytearray(os.urandom(3 * BLOCK))
    ident = interrupted(folder, CHECKED, bytes(content))
    other_boot(tmp_path / (ident.decode() + ".j"))
    assert held_of(folder, CHECKED) == (3 * BLOCK, 0, 0)
    with open(tmp_path / ident.decode(), "r+b") as file:
        file.seek(BLOCK + 9)
        file.write(b"lost by the power cut")
    assert held_of(folder, CHECKED) == (BLOCK, 0, 0)
    os.truncate(tmp_path / ident.decode(), 100)
    assert held_of(folder, CHECKED) == (0, 0, 0)


def test_after_a_boot_nothing_is_held_that_cannot_be_proven(folder: int, tmp_path: Path) -> None:
    ident = interrupted(folder, PLAIN, b"x" * 100)
    other_boot(tmp_path / (ident.decode() + ".j"))
    found = find(folder, PLAIN, PATH)
    assert found.fitting is not None
    assert (found.fitting.held, found.fitting.on_disk) == (0, 100)
    partials.cut(found.fitting, PLAIN)
    found.fitting.close()
    assert held_of(folder, PLAIN) == (0, 0, 0)
    assert partials.size_on_disk(folder, ident) == 0


# damage and failures


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"{}\n", b"not json", b"\xff\xfe\n", b"[" * 5000 + b"\n", b"x" * 40_000]
)
def test_what_no_sidecar_describes_is_spoiled(folder: int, tmp_path: Path, content: bytes) -> None:
    ident = interrupted(folder, PLAIN, b"x" * 100)
    journal = tmp_path / (ident.decode() + ".j")
    journal.write_bytes(content)
    assert held_of(folder, PLAIN) == (None, 0, 1)
    assert not partials.is_resumable(folder, ident)
    journal.unlink()
    assert held_of(folder, PLAIN) == (None, 0, 1)
    assert not partials.is_resumable(folder, ident)


def test_a_failure_in_the_middle_leaves_nothing_open_and_nothing_locked(
    folder: int, tmp_path: Path
) -> None:
    first, second = begin(folder, PLAIN), begin(folder, PLAIN)
    first.close()
    second.close()
    journal = tmp_path / (second.ident.decode() + ".j")
    journal.unlink()
    journal.symlink_to("nowhere")  # opening it fails with ELOOP
    before = open_descriptors()
    for _ in range(3):
        with pytest.raises(OSError, match="symbolic"):
            find(folder, PLAIN, PATH)
    assert open_descriptors() == before
    journal.unlink()
    assert held_of(folder, PLAIN) == (0, 0, 1)


def test_a_full_disk_takes_no_half_of_a_sidecar(folder: int, monkeypatch) -> None:
    real, before = os.write, open_descriptors()
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda fd, data: real(fd, data[:10]))
        with pytest.raises(OSError, match="No space"):
            begin(folder, PLAIN)
    assert open_descriptors() == before
    assert os.listdir(folder) == []


def test_sixteen_partials_of_one_upload_and_no_more(folder: int) -> None:
    running = [begin(folder, PLAIN) for _ in range(16)]
    assert len({staged.ident for staged in running}) == 16
    with pytest.raises(Refusal) as refused:
        begin(folder, PLAIN)
    assert refused.value.code == "busy"
    for staged in running:
        staged.close()


def test_dropping_tells_whether_there_was_something(folder: int) -> None:
    ident = interrupted(folder, PLAIN, b"x")
    assert partials.drop(folder, ident) is True
    assert partials.drop(folder, ident) is False
    assert os.listdir(folder) == []
    assert partials.size_on_disk(folder, ident) == 0


def test_a_partial_becomes_this_process_s_own(folder: int) -> None:
    ident = interrupted(folder, PLAIN, b"x")
    partials.make_own(folder, ident, b"s1.2-3")
    assert os.listdir(folder) == ["s1.2-3"]
    assert held_of(folder, PLAIN) == (None, 0, 0)


def test_sidecars_without_data_go_and_no_others(folder: int, tmp_path: Path) -> None:
    ident = interrupted(folder, PLAIN, b"x")
    (tmp_path / "pdead-0.j").write_bytes(b"")
    (tmp_path / "s1.2-3").write_bytes(b"")
    partials.drop_orphan_sidecars(folder)
    assert sorted(os.listdir(folder)) == [ident.decode(), ident.decode() + ".j", "s1.2-3"]


# names of a process's own


def test_own_names_tell_their_process_and_never_come_twice() -> None:
    namer, later = Namer(3, 1000), Namer(3, 1001)
    names = [namer.upload(), namer.removal(), namer.upload(), later.upload(), later.removal()]
    assert len(set(names)) == 5
    assert [owner_of(name) for name in names] == [(3, 1000)] * 3 + [(3, 1001)] * 2
    assert max(len(name) for name in names) <= 40


@pytest.mark.parametrize("name", [b"pabc-0", b"s", b"s1", b"sx.1-1", b"t1.x-1", b"probe.1.0", b""])
def test_other_names_have_no_owner(name: bytes) -> None:
    assert owner_of(name) is None


@pytest.mark.parametrize("source", [PLAIN, CHECKED])
def test_what_the_disk_did_not_take_is_not_gone_on_with(
    folder: int, monkeypatch, source: Source
) -> None:
    """What the file shows may be only in the page cache, and the next flush may say nothing."""
    interrupted(folder, source, b"x" * (BLOCK + 1))

    def broken(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", broken)
        assert held_of(folder, source) == (None, 0, 1)


def test_a_spoiled_partial_is_resumed_by_nobody(folder: int) -> None:
    staged = begin(folder, PLAIN)
    os.write(staged.fd, b"x" * 100)
    assert partials.spoil(staged)
    staged.close()
    assert held_of(folder, PLAIN) == (None, 0, 1)
    assert not partials.is_resumable(folder, staged.ident)
