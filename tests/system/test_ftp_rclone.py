"""rclone: copy, check and sync, in clear, explicit and implicit TLS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ftpclients import blob, digests, needs, plant, run
from ftppeer import Site, serving_ftp
from rig import PASSWORD

pytestmark = needs("rclone")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with serving_ftp(
        tmp_path_factory.mktemp("rclone"), ftp={"data_session": '"prefer"'}
    ) as serving:
        yield serving


@pytest.fixture
def user(site: Site) -> str:
    return site.new_user()


@pytest.mark.parametrize("tls", ["no", "explicit", "implicit"])
def test_rclone(site: Site, user: str, tmp_path: Path, tls: str) -> None:
    port = site.ftps_port if tls == "implicit" else site.port
    how = [] if tls == "no" else ["--ftp-no-check-certificate"]
    how += {"no": [], "explicit": ["--ftp-explicit-tls"], "implicit": ["--ftp-tls"]}[tls]
    hidden = run("rclone", "obscure", PASSWORD).strip()

    def rclone(*args: str | Path) -> str:
        where = ("--ftp-host", "127.0.0.1", "--ftp-port", str(port))
        who = ("--ftp-user", user, "--ftp-pass", hidden)
        once = ("--config", "/dev/null", "--retries", "1")
        return run("rclone", *args, *where, *who, *how, *once)

    up, home = tmp_path / "up", site.daemon.home(user) / "tree"
    planted = plant(up)
    rclone("copy", up, ":ftp:tree")
    assert digests(home) == planted
    rclone("check", "--download", up, ":ftp:tree")
    assert "Copied" not in rclone("sync", "-v", up, ":ftp:tree")
    (up / "empty").unlink()
    blob(up / "with space", 5000)
    rclone("sync", up, ":ftp:tree")
    assert digests(home) == digests(up)
    rclone("sync", ":ftp:tree", tmp_path / "down")
    assert digests(tmp_path / "down") == digests(up)
