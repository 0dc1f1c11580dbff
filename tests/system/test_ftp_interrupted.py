"""Uploads under TLS whose client is killed: none is seen, and only their owner goes on."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ftpclients import LFTP_TLS, blob, digest, lftp_script, needs, run
from ftppeer import FtpPeer, Site, serving_ftp
from rig import PASSWORD, wait_for

MIB = 1 << 20
SIZE = 8 * MIB + 17


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    settings = {"tls": '"require"', "data_session": '"require"'}
    with serving_ftp(tmp_path_factory.mktemp("interrupted"), ftp=settings) as serving:
        yield serving


@pytest.fixture
def user(site: Site) -> str:
    return site.new_user()


@pytest.fixture
def other(site: Site) -> FtpPeer:
    """Somebody else."""
    return site.connect().secure().log_in(site.new_user())


def curl(site: Site, user: str, source: Path, *how: str) -> list[str]:
    log_in = ["-sS", "-k", "--ssl-reqd", "-m", "60", "-u", f"{user}:{PASSWORD}"]
    return ["curl", *log_in, *how, "-T", str(source), f"ftp://127.0.0.1:{site.port}/f"]


def lftp(site: Site, user: str, source: Path, verb: str, settings: str = "") -> list[str]:
    return ["lftp", "-c", lftp_script(site, user, LFTP_TLS + settings, f"{verb} {source} -o f")]


def killed_amid(site: Site, user: str, command: list[str], owner: FtpPeer) -> int:
    """Run a slow upload, kill its client half-way; how many bytes are held of it."""

    def moved() -> bool:
        return site.daemon.bytes_on_disk(user) > MIB

    client = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(moved, 60)
    finally:
        client.kill()
        client.wait(20)
    answer = wait_for(lambda: (a := owner.ask("SIZE f")).startswith("213") and a, 60)
    return int(answer[4:])


def assert_hidden(user: FtpPeer, other: FtpPeer, held: int) -> None:
    """Nobody sees or reads it, and nobody but its owner is told of it or goes on with it."""
    for peer in (user, other):
        assert peer.fetch("NLST") == b""
        assert not re.search(rb"; f\r\n", peer.fetch("MLSD"))
        with peer.passive():
            assert peer.ask("RETR f").startswith("550")
    for command in ("SIZE f", "MLST f", "DELE f", "RNFR f"):
        assert other.ask(command).startswith("550"), command
    with other.passive():
        other.ask(f"REST {held}")
        assert other.ask("STOR f")[:3] in ("550", "554")


@needs("curl")
@needs("lftp")
@pytest.mark.parametrize("goes_on", ["curl", "lftp", "REST + STOR"])
@pytest.mark.parametrize("breaks", ["curl", "lftp"])
def test_a_killed_upload(
    site: Site, user: str, other: FtpPeer, tmp_path: Path, breaks: str, goes_on: str
) -> None:
    source = blob(tmp_path / "f", SIZE)
    if breaks == "curl":
        slow = curl(site, user, source, "--limit-rate", "2M")
    else:
        slow = lftp(site, user, source, "put", "set net:limit-total-rate 2M; ")
    owner = site.connect().secure().log_in(user)
    held = killed_amid(site, user, slow, owner)
    assert MIB <= held < SIZE
    assert not (site.daemon.home(user) / "f").exists()
    assert_hidden(owner, other, held)
    assert site.charged(user) == held
    if goes_on == "curl":
        told = run(*curl(site, user, source, "-v", "-C", "-"))
        assert "> APPE f" in told
    elif goes_on == "lftp":
        told = run(*lftp(site, user, source, "reput", "debug 5; "))
        assert f"REST {held}" in told or "APPE f" in told
    else:
        owner.ask(f"REST {held}")
        owner.stor("f", source.read_bytes()[held:])
    assert digest(site.daemon.home(user) / "f") == digest(source)
    assert site.charged(user) == SIZE
