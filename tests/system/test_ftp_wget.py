"""wget: goes on with downloads, and reads our LIST to fetch trees."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ftpclients import beginning, blob, digest, digests, needs, plant, run
from ftppeer import Site, serving_ftp
from rig import PASSWORD

pytestmark = needs("wget")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with serving_ftp(tmp_path_factory.mktemp("wget"), ftp={"data_session": '"require"'}) as serving:
        yield serving


@pytest.fixture
def user(site: Site) -> str:
    return site.new_user()


def test_wget_goes_on(site: Site, user: str, tmp_path: Path) -> None:
    source = blob(site.daemon.home(user) / "f")
    beginning(source, tmp_path / "f")
    log_in = (f"--user={user}", f"--password={PASSWORD}")
    run("wget", "-nv", "-t", "1", "-c", "-P", tmp_path, *log_in, f"ftp://127.0.0.1:{site.port}/f")
    assert digest(tmp_path / "f") == digest(source)


def test_wget_fetches_a_tree(site: Site, user: str, tmp_path: Path) -> None:
    planted = plant(site.daemon.home(user) / "tree")
    log_in = (f"--user={user}", f"--password={PASSWORD}")
    url = f"ftp://127.0.0.1:{site.port}/tree/"
    run("wget", "-nv", "-t", "1", "-r", "-nH", "-P", tmp_path, *log_in, url)
    assert digests(tmp_path / "tree") == planted
