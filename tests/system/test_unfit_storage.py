"""Storage that cannot do what is asked of it is refused, with a sentence that tells why."""

from __future__ import annotations

import subprocess
from pathlib import Path

import mounts
import pytest
import strace
from mounts import MIB
from peer import RefusedError, noise
from rig import BIN, Daemon, running


def refusal(folder: Path, *wrapper: str) -> str:
    """Why a daemon in this folder does not start."""
    daemon = Daemon(folder)
    try:
        done = subprocess.run(
            [*wrapper, BIN / "forkd", "serve", "-c", daemon.config],
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        daemon.destroy()
    assert done.returncode not in (0, None)
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_filesystem_that_cannot_exchange_names(folder):
    strace.need()
    for error in ("EINVAL", "ENOSYS"):
        inject = ("-e", "trace=renameat2", "-e", f"inject=renameat2:error={error}")
        why = refusal(folder, "strace", "-D", "-f", "-q", *inject, "-o", str(folder / "trace"))
        assert f"storage.path {folder}/data: its filesystem cannot exchange names" in why
        assert "use ext4, xfs, btrfs or tmpfs" in why


def test_a_read_only_filesystem(folder):
    mounts.need()
    with mounts.mounted(folder / "data", "-t", "tmpfs", "-o", "ro", "tmpfs"):
        assert f"storage.path: {folder}/data is on a read-only filesystem" in refusal(folder)


def test_a_full_filesystem(folder):
    with mounts.ext4(folder / "data", 32 * MIB, "-N", "16") as disk:
        for number in range(20):
            try:
                (disk / str(number)).touch()
            except OSError:
                break
        assert f"storage.path {folder}/data: No space left on device" in refusal(folder)


def test_overlayfs_is_fit(folder):
    """What containers have."""
    with mounts.tmpfs(folder / "layers", 64 * MIB) as layers:
        for name in ("lower", "upper", "work"):
            (layers / name).mkdir()
        options = ",".join(f"{name}dir={layers}/{name}" for name in ("lower", "upper", "work"))
        with (
            mounts.mounted(folder / "data", "-t", "overlay", "-o", options, "overlay"),
            running(folder) as daemon,
        ):
            alice = daemon.log_in()
            for content in (noise(1000), noise(2000)):
                alice.put("a/b/f", content, parents=True)
                assert alice.get("a/b/f") == content
            alice.ask({"op": "move", "path": "a/b", "to": "c"})
            alice.ask({"op": "remove", "path": "c/f"})
            assert [told["drift"] for told in daemon.verify()] == [0]


def test_an_account_on_another_filesystem_than_the_staging_folder(folder):
    with running(folder) as daemon, mounts.tmpfs(daemon.home(), MIB):
        with pytest.raises(RefusedError) as told:
            daemon.log_in()
        assert told.value.code == "io-error"
        assert "another filesystem" in str(told.value)


def test_a_folder_of_an_account_on_another_filesystem(folder):
    with running(folder) as daemon:
        alice = daemon.log_in()
        alice.put("f", b"old")
        with mounts.tmpfs(daemon.home() / "mounted", MIB) as mounted:
            (mounted / "theirs").write_bytes(b"readable")
            assert alice.get("mounted/theirs") == b"readable"
            tries = [
                ({"op": "put", "path": "mounted/f", "size": 3}, b"new"),
                ({"op": "move", "path": "f", "to": "mounted/f"}, b""),
                ({"op": "remove", "path": "mounted/theirs"}, b""),
            ]
            for request, content in tries:
                with pytest.raises(RefusedError) as told:
                    alice.ask(request, content)
                assert told.value.code == "io-error"
                assert "another filesystem" in str(told.value)
            assert alice.get("f") == b"old"
            assert sorted(path.name for path in mounted.iterdir()) == ["theirs"]
        assert alice.ask({"op": "quota"})[0]["used"] == 3
        assert [told["drift"] for told in daemon.verify()] == [0]
