"""tnftp, the classic client: mput, mget and reget, passive and active."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ftpclients import attempt, beginning, digests, needs, plant
from ftppeer import Site, serving_ftp
from rig import PASSWORD

pytestmark = needs("tnftp")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with serving_ftp(
        tmp_path_factory.mktemp("tnftp"), ftp={"data_session": '"require"'}
    ) as serving:
        yield serving


@pytest.fixture
def user(site: Site) -> str:
    return site.new_user()


@pytest.mark.parametrize("mode", ["-p", "-A"], ids=["passive", "active"])
def test_tnftp(site: Site, user: str, tmp_path: Path, mode: str) -> None:
    planted = plant(tmp_path / "up")["deep/er/large"]
    (tmp_path / "down").mkdir()
    beginning(tmp_path / "up/deep/er/large", tmp_path / "down/resumed")
    commands = [
        f'user {user} "{PASSWORD}"',
        "binary",
        "mkdir folder",
        "cd folder",
        f"lcd {tmp_path}/up/many",
        "mput *",
        f"put {tmp_path}/up/deep/er/large resumed",
        f"lcd {tmp_path}/down",
        "mget 1*",
        "reget resumed",
        "bye",
    ]
    told = attempt(
        "tnftp", "-n", "-i", mode, "127.0.0.1", str(site.port), stdin="\n".join(commands)
    )
    assert told.returncode == 0, told.stdout
    many = digests(tmp_path / "up/many")
    assert digests(site.daemon.home(user) / "folder") == many | {"resumed": planted}
    ones = {name: value for name, value in many.items() if name.startswith("1")}
    assert digests(tmp_path / "down") == ones | {"resumed": planted}
