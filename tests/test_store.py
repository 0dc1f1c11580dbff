"""The confined tree on a real disk: what readers see, what nobody reaches."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from corerig import children, fork

from forkd import syscalls
from forkd.config import Config, Storage
from forkd.errors import Refusal
from forkd.storage import store
from forkd.storage.localtree import LocalTree
from forkd.storage.store import LocalStore


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[LocalTree]:
    opened = LocalStore(str(tmp_path)).open_tree(3, "team/alice")
    yield opened
    opened.close()


@pytest.fixture
def home(tree: LocalTree, tmp_path: Path) -> Path:
    return tmp_path / "team" / "alice"


@pytest.fixture
def staging(tree: LocalTree, tmp_path: Path) -> Path:
    return tmp_path / ".forkd" / "3"


def code_of(act) -> str:
    with pytest.raises(Refusal) as refused:
        act()
    return refused.value.code


def put_in(tree: LocalTree, ident: bytes, name: bytes, replace: bool) -> int | None:
    folder = tree.open_folder((), parents=False)
    try:
        return tree.put_in(ident, folder, name, replace)
    finally:
        os.close(folder)


# looking


def test_reading_and_what_cannot_be_read(tree: LocalTree, home: Path) -> None:
    (home / "d").mkdir()
    (home / "f").write_bytes(b"content")
    os.mkfifo(home / "fifo")
    found = tree.open_read((b"f",))
    assert (os.read(found.fd, 99), found.size) == (b"content", 7)
    os.close(found.fd)
    before = len(os.listdir("/proc/self/fd"))
    assert code_of(lambda: tree.open_read((b"d",))) == "is-a-folder"
    assert code_of(lambda: tree.open_read((b"fifo",))) == "not-a-file"
    assert code_of(lambda: tree.open_read((b"none",))) == "not-found"
    assert code_of(lambda: tree.open_read((b"f", b"x"))) == "not-a-folder"
    assert len(os.listdir("/proc/self/fd")) == before


def test_links_are_followed_inside_only(tree: LocalTree, home: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"s")
    (home / "f").write_bytes(b"content")
    (home / "in").symlink_to("f")
    (home / "out").symlink_to("../../secret")
    (home / "up").symlink_to("..")
    (home / "dangling").symlink_to("none")
    assert tree.stat((b"in",)).size == 7
    assert tree.stat_here((b"in",)).type == "link"
    for parts in ((b"out",), (b"up", b"alice", b"f"), (b"up",)):
        assert code_of(lambda p=parts: tree.stat(p)) == "outside"
        assert code_of(lambda p=parts: tree.open_read(p)) == "outside"
    assert code_of(lambda: tree.make_folder((b"up", b"new"), parents=True)) == "outside"
    assert code_of(lambda: tree.take_out((b"up", b"alice", b"f"), b"t1")) == "outside"
    assert code_of(lambda: tree.move((b"f",), (b"up", b"f"), True, b"t1")) == "outside"
    assert code_of(lambda: tree.stat((b"dangling",))) == "not-found"


def test_what_is_found_under_a_name_and_where_nothing_is(
    tree: LocalTree, home: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(b"s")
    (home / "d").mkdir()
    (home / "d" / "f").write_bytes(b"content")
    for name, to in (("in", "d/f"), ("dangling", "none"), ("out", "../../secret")):
        (home / name).symlink_to(to)
    before = len(os.listdir("/proc/self/fd"))
    for parts in ((b"d", b"f"), (b"in",)):
        found = tree.find(parts)
        assert found is not None
        assert (found.type, found.size) == ("file", 7)
    assert tree.find((b"d", b"none")) is None
    assert tree.find((b"dangling",)) is None
    assert code_of(lambda: tree.find((b"none", b"f"))) == "not-found"
    assert code_of(lambda: tree.find((b"d", b"f", b"x"))) == "not-a-folder"
    assert code_of(lambda: tree.find((b"out",))) == "outside"
    assert len(os.listdir("/proc/self/fd")) == before


def test_listing_tells_everything_in_slices(tree: LocalTree, home: Path) -> None:
    for number in range(1200):
        (home / f"f{number}").write_bytes(b"x" * (number % 7))
    (home / "d").mkdir()
    (home / "link").symlink_to("d")
    with open(os.path.join(os.fsencode(home), b"\xff"), "wb"):
        pass
    slices = list(tree.list(()))
    assert max(map(len, slices)) <= 512
    found = {entry.name: (entry.type, entry.size) for part in slices for entry in part}
    assert len(found) == 1203
    assert found["f13"] == ("file", 6)
    assert found["d"] == ("folder", 0)
    assert found["link"] == ("link", 0)
    assert found["\uefff"] == ("file", 0)


def test_a_listing_that_is_given_up_leaves_nothing_open(tree: LocalTree, home: Path) -> None:
    for number in range(600):
        (home / f"f{number}").write_bytes(b"")
    before = len(os.listdir("/proc/self/fd"))
    slices = tree.list(())
    assert len(next(slices)) == 512
    slices.close()  # type: ignore[attr-defined]
    assert len(os.listdir("/proc/self/fd")) == before


# changing


def test_a_new_name_and_a_taken_one(tree: LocalTree, home: Path, staging: Path) -> None:
    (staging / "s1").write_bytes(b"one")
    assert put_in(tree, b"s1", b"f", replace=False) is None
    (staging / "s2").write_bytes(b"second")
    assert code_of(lambda: put_in(tree, b"s2", b"f", replace=False)) == "exists"
    assert (home / "f").read_bytes() == b"one"
    assert put_in(tree, b"s2", b"f", replace=True) == 3
    assert (home / "f").read_bytes() == b"second"
    assert (staging / "s2").read_bytes() == b"one"
    assert code_of(lambda: put_in(tree, b"gone", b"f", replace=True)) == "not-found"
    (home / "d").mkdir()
    assert code_of(lambda: put_in(tree, b"s2", b"d", replace=True)) == "is-a-folder"
    assert (staging / "s2").read_bytes() == b"one"


def test_readers_see_the_old_file_or_the_new_one(
    tree: LocalTree, home: Path, staging: Path
) -> None:
    (home / "f").write_bytes(b"0" * 5000)

    def replace_for_ever() -> None:
        number = 0
        while True:
            number = (number + 1) % 10
            (staging / "s1").write_bytes(b"%d" % number * 5000)
            put_in(tree, b"s1", b"f", replace=True)
            (staging / "s1").unlink()

    seen = set()
    with children() as pids:
        pids.append(fork(replace_for_ever))
        for _ in range(1500):
            found = tree.open_read((b"f",))
            content = os.read(found.fd, 10_000)
            os.close(found.fd)
            assert len(content) == 5000
            assert len(set(content)) == 1
            seen.add(content[:1])
    assert len(seen) > 1


def test_two_replacers_and_a_remover_lose_no_file(
    tree: LocalTree, home: Path, staging: Path
) -> None:
    """Whoever takes a name gets exactly one object: the numbers of objects stay balanced."""
    rounds = 300

    def replacer(own: bytes) -> None:
        for _ in range(rounds):
            (staging / own.decode()).write_bytes(b"x" * 10)
            if put_in(tree, own, b"f", replace=True) is not None:
                os.unlink(own, dir_fd=tree.staging_fd)

    def remover() -> None:
        for _ in range(rounds):
            try:
                assert tree.take_out((b"f",), b"t") == 10
            except Refusal as refusal:
                if refusal.code != "not-found":
                    raise
            else:
                os.unlink(b"t", dir_fd=tree.staging_fd)

    with children() as pids:
        pids += [fork(lambda: replacer(b"s1")), fork(lambda: replacer(b"s2")), fork(remover)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        pids.clear()
    assert codes == [0, 0, 0]
    assert list(staging.iterdir()) == []


def test_taking_out(tree: LocalTree, home: Path, staging: Path) -> None:
    (home / "f").write_bytes(b"content")
    (home / "d").mkdir()
    (home / "link").symlink_to("f")
    assert tree.take_out((b"link",), b"t0") == 0
    assert tree.take_out((b"f",), b"t1") == 7
    assert sorted(os.listdir(staging)) == ["t0", "t1"]
    assert code_of(lambda: tree.take_out((b"f",), b"t2")) == "not-found"
    assert code_of(lambda: tree.take_out((b"d",), b"t2")) == "is-a-folder"


def test_moving(tree: LocalTree, home: Path, staging: Path) -> None:
    (home / "a").write_bytes(b"aaa")
    (home / "b").write_bytes(b"bb")
    (home / "d").mkdir()
    assert code_of(lambda: tree.move((b"a",), (b"b",), False, b"t")) == "exists"
    assert code_of(lambda: tree.move((b"a",), (b"d",), True, b"t")) == "is-a-folder"
    assert code_of(lambda: tree.move((b"d",), (b"a",), True, b"t")) == "is-a-folder"
    assert code_of(lambda: tree.move((b"none",), (b"b",), True, b"t")) == "not-found"
    assert code_of(lambda: tree.move((b"a",), (b"none", b"b"), True, b"t")) == "not-found"
    assert code_of(lambda: tree.move((b"d",), (b"d", b"e"), True, b"t")) == "bad-name"
    assert code_of(lambda: tree.move((b"a",), (b"a",), True, b"t")) == "bad-name"
    assert tree.move((b"a",), (b"b",), True, b"t") == 2
    assert ((home / "b").read_bytes(), (staging / "t").read_bytes()) == (b"aaa", b"bb")
    assert tree.move((b"b",), (b"d", b"c"), False, b"t2") is None
    assert (home / "d" / "c").read_bytes() == b"aaa"


def test_a_file_put_where_one_was_moved_away_is_not_taken_for_the_replaced_one(
    tree: LocalTree, home: Path, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "a").write_bytes(b"aaa")
    (home / "b").write_bytes(b"bb")
    real = syscalls.rename

    def rename(src_fd: int, src: bytes, dst_fd: int, dst: bytes, flags: int = 0) -> None:
        """Between the exchange and what follows, an upload takes the free name."""
        real(src_fd, src, dst_fd, dst, flags)
        if flags == syscalls.RENAME_EXCHANGE and src == b"a":
            (staging / "s1").write_bytes(b"uploaded")
            real(tree.staging_fd, b"s1", src_fd, b"a", syscalls.RENAME_EXCHANGE)

    monkeypatch.setattr(syscalls, "rename", rename)
    assert tree.move((b"a",), (b"b",), True, b"t") == 0
    assert (home / "b").read_bytes() == b"aaa"
    assert (home / "a").read_bytes() == b"uploaded"
    assert not (staging / "t").exists()


def test_folders(tree: LocalTree, home: Path) -> None:
    tree.make_folder((b"a", b"b", b"c"), parents=True)
    tree.make_folder((b"a", b"b", b"c"), parents=True)
    assert code_of(lambda: tree.make_folder((b"a",), parents=False)) == "exists"
    assert code_of(lambda: tree.make_folder((b"x", b"y"), parents=False)) == "not-found"
    (home / "f").write_bytes(b"")
    assert code_of(lambda: tree.make_folder((b"f", b"y"), parents=True)) == "not-a-folder"
    assert code_of(lambda: tree.remove_folder((b"a",))) == "not-empty"
    tree.remove_folder((b"a", b"b", b"c"))
    assert code_of(lambda: tree.remove_folder((b"f",))) == "not-a-folder"


# opening


def test_a_home_may_be_a_link_on_the_same_disk(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "alice").symlink_to("elsewhere")
    tree = LocalStore(str(tmp_path)).open_tree(1, "alice")
    tree.make_folder((b"d",), parents=False)
    assert (tmp_path / "elsewhere" / "d").is_dir()
    tree.close()


def test_a_home_on_another_disk_is_refused_at_once(tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second filesystem")
    (tmp_path / "alice").symlink_to(other)
    before = len(os.listdir("/proc/self/fd"))
    assert code_of(lambda: LocalStore(str(tmp_path)).open_tree(1, "alice")) == "io-error"
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_home_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "alice").write_bytes(b"")
    assert code_of(lambda: LocalStore(str(tmp_path)).open_tree(1, "alice")) == "exists"


def test_preparing_leaves_nothing_behind_and_can_be_repeated(tmp_path: Path) -> None:
    config = Config(storage=Storage(path=str(tmp_path / "new" / "storage")))
    for _ in range(2):
        store.prepare(config)
    assert os.listdir(tmp_path / "new" / "storage") == [".forkd"]
    assert os.listdir(tmp_path / "new" / "storage" / ".forkd") == []
    assert os.stat(tmp_path / "new" / "storage" / ".forkd").st_mode & 0o777 == 0o700


def test_a_filesystem_that_cannot_exchange_names_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rename(*args: object) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(syscalls, "rename", rename)
    with pytest.raises(OSError, match="cannot exchange names"):
        store.prepare(Config(storage=Storage(path=str(tmp_path))))
    assert os.listdir(tmp_path / ".forkd") == []
