"""lftp: many sessions at once, mirrors, resumed and split transfers, with and without TLS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ftpclients import (
    LFTP_CLEAR,
    LFTP_TLS,
    attempt,
    beginning,
    blob,
    digest,
    digests,
    interrupt,
    lftp_script,
    needs,
    plant,
    run,
)
from ftppeer import Site, serving_ftp

pytestmark = needs("lftp")

MIB = 1 << 20
WAYS = pytest.mark.parametrize("way", [LFTP_CLEAR, LFTP_TLS], ids=["clear", "tls"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    settings = {"tls": '"allow"', "data_session": '"require"'}
    with serving_ftp(tmp_path_factory.mktemp("lftp"), ftp=settings) as serving:
        yield serving


@pytest.fixture
def user(site: Site) -> str:
    return site.new_user()


def lftp(site: Site, user: str, way: str, *commands: str) -> str:
    return run("lftp", "-c", lftp_script(site, user, way, *commands))


@WAYS
@pytest.mark.parametrize("parallel", [1, 4])
def test_a_tree_goes_up_and_comes_back(
    site: Site, user: str, tmp_path: Path, way: str, parallel: int
) -> None:
    planted = plant(tmp_path / "up")
    how = f"--parallel={parallel}"
    lftp(site, user, way, f"mirror -R {how} {tmp_path}/up tree")
    assert digests(site.daemon.home(user) / "tree") == planted
    lftp(site, user, way, f"mirror {how} tree {tmp_path}/down")
    assert digests(tmp_path / "down") == planted
    again = lftp(site, user, way, f"mirror -R -v {how} {tmp_path}/up tree")
    assert "Transferring" not in again  # times were kept: nothing is sent twice


@WAYS
def test_one_file_in_four_pieces(site: Site, user: str, tmp_path: Path, way: str) -> None:
    source = blob(site.daemon.home(user) / "f", 8 * MIB + 3)
    lftp(site, user, way, f"pget -n 4 f -o {tmp_path}/f")
    assert digest(tmp_path / "f") == digest(source)


@WAYS
def test_a_download_goes_on(site: Site, user: str, tmp_path: Path, way: str) -> None:
    source = blob(site.daemon.home(user) / "f")
    beginning(source, tmp_path / "f")
    lftp(site, user, way, f"get -c f -o {tmp_path}/f")
    assert digest(tmp_path / "f") == digest(source)


@WAYS
def test_active_mode(site: Site, user: str, tmp_path: Path, way: str) -> None:
    source = blob(tmp_path / "f")
    active = way + "set ftp:passive-mode no; "
    lftp(site, user, active, f"put {source} -o f", f"get f -o {tmp_path}/back")
    assert digest(site.daemon.home(user) / "f") == digest(source)
    assert digest(tmp_path / "back") == digest(source)


@WAYS
def test_an_upload_goes_on(site: Site, user: str, tmp_path: Path, way: str) -> None:
    source = blob(tmp_path / "f")
    interrupt(site, user, source.read_bytes()[:MIB])
    told = lftp(site, user, way, "debug 5", f"reput {source} -o f")
    assert "REST " in told or "APPE " in told
    assert digest(site.daemon.home(user) / "f") == digest(source)
    assert site.charged(user) == source.stat().st_size


def test_sessions_of_data_connections(site: Site, user: str, tmp_path: Path) -> None:
    """Only who resumes the TLS session of his control connection may have data."""
    source = blob(site.daemon.home(user) / "f")
    resumed = LFTP_TLS + "set ftp:ssl-copy-sid yes; "
    lftp(site, user, resumed, f"get f -o {tmp_path}/f")
    assert digest(tmp_path / "f") == digest(source)
    fresh = LFTP_TLS + "set ftp:ssl-copy-sid no; set net:max-retries 1; "
    refused = attempt("lftp", "-c", lftp_script(site, user, fresh, f"get f -o {tmp_path}/g"))
    assert refused.returncode != 0
    assert not (tmp_path / "g").exists() or (tmp_path / "g").stat().st_size == 0


def test_sessions_need_not_be_resumed_where_that_is_only_preferred(
    folder: Path, tmp_path: Path
) -> None:
    planted = plant(tmp_path / "up")
    fresh = LFTP_TLS + "set ftp:ssl-copy-sid no; "
    with serving_ftp(folder, ftp={"data_session": '"prefer"'}) as site:
        lftp(site, "alice", fresh, f"mirror -R --parallel=4 {tmp_path}/up tree")
        assert digests(site.daemon.home() / "tree") == planted
