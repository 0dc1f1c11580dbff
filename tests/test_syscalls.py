"""The kernel's own confinement, on real folders."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from corerig import children, fork, wait

from forkd import syscalls
from forkd.syscalls import RENAME_EXCHANGE, RENAME_NOREPLACE, open_beneath


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    inside = tmp_path / "root"
    (inside / "d").mkdir(parents=True)
    (inside / "d" / "f").write_bytes(b"in")
    (tmp_path / "secret").write_bytes(b"out")
    fd = os.open(inside, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def opened(root: int, path: bytes) -> bytes:
    fd = open_beneath(root, path, os.O_RDONLY)
    try:
        assert not os.get_inheritable(fd)
        return os.read(fd, 100)
    finally:
        os.close(fd)


def test_what_is_below_can_be_opened(root: int, tmp_path: Path) -> None:
    (tmp_path / "root" / "link").symlink_to("d/../d/f")
    for path in (b"d/f", b"./d//f", b"d/../d/f", b"link"):
        assert opened(root, path) == b"in"


@pytest.mark.parametrize(
    "path", [b"../secret", b"d/../../secret", b"/etc/passwd", b"out", b"up/secret", b"abs"]
)
def test_nothing_else_can(root: int, tmp_path: Path, path: bytes) -> None:
    inside = tmp_path / "root"
    (inside / "out").symlink_to("../secret")
    (inside / "up").symlink_to("..")
    (inside / "abs").symlink_to(tmp_path / "root" / "d" / "f")
    with pytest.raises(OSError, match="ross-device") as caught:
        open_beneath(root, path, os.O_RDONLY)
    assert caught.value.errno == errno.EXDEV


def test_a_magic_link_leads_nowhere(tmp_path: Path) -> None:
    proc = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY)
    with pytest.raises(OSError, match=r"symbolic|ross") as caught:
        open_beneath(proc, b"fd/%d/root" % proc, os.O_RDONLY)
    assert caught.value.errno in (errno.ELOOP, errno.EXDEV)
    os.close(proc)


def test_a_loop_of_links_is_told(root: int, tmp_path: Path) -> None:
    (tmp_path / "root" / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="symbolic") as caught:
        open_beneath(root, b"loop", os.O_RDONLY)
    assert caught.value.errno == errno.ELOOP


def test_a_race_of_renames_never_leads_out(root: int, tmp_path: Path) -> None:
    inside = tmp_path / "root"
    (inside / "there").mkdir()
    (inside / "evil").symlink_to("../")
    (inside / "d" / "secret").write_bytes(b"in")

    def swap() -> None:
        while True:
            syscalls.rename(root, b"d", root, b"evil", RENAME_EXCHANGE)

    seen = set()
    with children() as pids:
        pids.append(fork(swap))
        for _ in range(3000):
            try:
                seen.add(opened(root, b"d/secret"))
            except OSError as error:
                seen.add(error.errno)
    assert b"out" not in seen
    assert seen <= {b"in", errno.EXDEV, errno.EAGAIN}


def test_renames_say_what_is_in_the_way(root: int, tmp_path: Path) -> None:
    inside = tmp_path / "root"
    (inside / "a").write_bytes(b"A")
    (inside / "b").write_bytes(b"B")
    with pytest.raises(FileExistsError):
        syscalls.rename(root, b"a", root, b"b", RENAME_NOREPLACE)
    syscalls.rename(root, b"a", root, b"b", RENAME_EXCHANGE)
    assert ((inside / "a").read_bytes(), (inside / "b").read_bytes()) == (b"B", b"A")
    with pytest.raises(FileNotFoundError):
        syscalls.rename(root, b"a", root, b"c", RENAME_EXCHANGE)
    syscalls.rename(root, b"a", root, b"c", RENAME_NOREPLACE)
    assert (inside / "c").read_bytes() == b"B"


def test_writeback_begins_or_says_why_not(tmp_path: Path) -> None:
    with open(tmp_path / "f", "wb") as file:
        file.write(bytes(100_000))
        file.flush()
        syscalls.start_writeback(file.fileno())
    read, write = os.pipe()
    with pytest.raises(OSError, match="seek") as caught:
        syscalls.start_writeback(write)
    assert caught.value.errno == errno.ESPIPE
    os.close(read)
    os.close(write)


def test_a_child_goes_with_its_parent() -> None:
    read, write = os.pipe()

    def parent() -> None:
        """Leave as soon as the child is armed."""
        grandchild = fork(lambda: (syscalls.die_with_parent(), os.write(write, b"."), wait_long()))
        os.read(read, 1)
        os.write(write, b"%d" % grandchild)

    assert wait(fork(parent)) == 0
    grandchild = int(os.read(read, 20))
    while True:  # its death closes the pipe's last writer but ours
        try:
            os.kill(grandchild, 0)
            state = Path(f"/proc/{grandchild}/stat").read_text().rpartition(")")[2].split()[0]
        except (ProcessLookupError, FileNotFoundError):
            break
        if state == "Z":
            break
    os.close(read)
    os.close(write)


def wait_long() -> None:
    signal.pause()


def test_no_new_privs_holds() -> None:
    def check() -> None:
        syscalls.no_new_privs()
        assert "NoNewPrivs:\t1" in Path("/proc/self/status").read_text()

    assert wait(fork(check)) == 0


def test_a_landlock_that_forbids_renames_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for abi in (0, 1):
        monkeypatch.setattr(syscalls, "landlock_abi", lambda abi=abi: abi)
        with pytest.raises(OSError, match="too old") as caught:
            syscalls.landlock_restrict(["/"])
        assert caught.value.errno == errno.EOPNOTSUPP
