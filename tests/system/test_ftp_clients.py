"""FTP as the clients of others speak it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ftppeer import Site, serving_ftp
from rig import PASSWORD

MIB = 1024 * 1024
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    settings = {"tls": '"allow"', "data_session": '"require"'}
    with serving_ftp(tmp_path_factory.mktemp("clients"), ftp=settings) as serving:
        yield serving


def curl(site: Site, *args: str | Path, implicit: bool = False) -> bytes:
    """Runs it as alice; the last argument is a path on the server."""
    scheme, port = ("ftps", site.ftps_port) if implicit else ("ftp", site.port)
    url = f"{scheme}://127.0.0.1:{port}/{args[-1]}"
    result = subprocess.run(
        ["curl", "-sS", "-k", "-m", "60", "-u", f"alice:{PASSWORD}", *map(str, args[:-1]), url],
        capture_output=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@needs_curl
@pytest.mark.parametrize("tls", ["no", "explicit", "implicit"])
def test_curl(site: Site, tmp_path: Path, tls: str) -> None:
    how = ["--ssl-reqd"] if tls == "explicit" else []
    implicit = tls == "implicit"
    source = tmp_path / "f"
    source.write_bytes(os.urandom(3 * MIB))
    target = f"{tls}/deep/down/f"
    curl(site, *how, "--ftp-create-dirs", "-T", source, target, implicit=implicit)
    assert curl(site, *how, target, implicit=implicit) == source.read_bytes()
    assert b" f\n" in curl(site, *how, f"{tls}/deep/down/", implicit=implicit)
    part = tmp_path / "part"
    part.write_bytes(source.read_bytes()[:MIB])
    curl(site, *how, "-C", "-", "-o", part, target, implicit=implicit)
    assert part.read_bytes() == source.read_bytes()


@needs_curl
def test_curl_goes_on_with_an_upload(site: Site, tmp_path: Path) -> None:
    source = tmp_path / "f"
    content = os.urandom(2 * MIB)
    source.write_bytes(content)
    peer = site.log_in()
    data = peer.open("STOR resumed")
    data.sendall(content[:MIB])
    peer.send("ABOR")
    assert peer.reply().startswith("426")
    assert peer.reply().startswith("226")
    curl(site, "-C", "-", "-T", source, "resumed")
    assert (site.daemon.home() / "resumed").read_bytes() == content
