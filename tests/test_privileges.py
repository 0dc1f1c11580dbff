from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

import pytest

from forkd.config import Config, Server, Storage
from forkd.errors import StartError
from forkd.supervisor.privileges import check_writable, identity, make_folders


def config(folder: Path, **server: str) -> Config:
    return Config(
        server=Server(state_dir=f"{folder}/state", runtime_dir=f"{folder}/run", **server),
        storage=Storage(path=f"{folder}/deep/files"),
    )


def test_missing_folders_are_made_with_their_modes(tmp_path: Path) -> None:
    make_folders(config(tmp_path), None)
    modes = {
        name: stat.S_IMODE((tmp_path / name).stat().st_mode)
        for name in ("state", "run", "deep/files")
    }
    assert modes == {"state": 0o700, "run": 0o755, "deep/files": 0o700}
    check_writable(config(tmp_path))


def test_folders_that_are_there_are_left_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    os.chmod(tmp_path / "state", 0o750)
    make_folders(config(tmp_path), None)
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o750


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "deep").write_text("in the way")
    with pytest.raises(StartError, match=f"cannot make the folder {tmp_path}/deep/files: Not a"):
        make_folders(config(tmp_path), None)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give folders away")
def test_new_folders_belong_to_whom_the_daemon_becomes(tmp_path: Path) -> None:
    wanted = config(tmp_path, user="nobody")
    make_folders(wanted, identity(wanted))
    nobody = pwd.getpwnam("nobody")
    for name in ("state", "run", "deep/files"):
        status = (tmp_path / name).stat()
        assert (status.st_uid, status.st_gid) == (nobody.pw_uid, nobody.pw_gid)
    assert (tmp_path / "deep").stat().st_uid == 0


def test_without_a_user_the_daemon_stays_who_it_is(tmp_path: Path) -> None:
    assert identity(config(tmp_path)) is None


@pytest.mark.parametrize("who", [{"user": "no-such-user"}, {"user": "root", "group": "no-such"}])
def test_users_and_groups_that_are_not_there_are_named(tmp_path: Path, who: dict[str, str]) -> None:
    with pytest.raises(StartError, match=r"there is no (user|group) 'no-such"):
        identity(config(tmp_path, **who))


@pytest.mark.skipif(os.geteuid() == 0, reason="root can become anybody")
def test_only_root_becomes_another(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="only root can become 'root'"):
        identity(config(tmp_path, user="root"))


def test_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    make_folders(config(tmp_path), None)
    (tmp_path / "run").rmdir()
    with pytest.raises(StartError, match=r"server\.runtime_dir"):
        check_writable(config(tmp_path))
