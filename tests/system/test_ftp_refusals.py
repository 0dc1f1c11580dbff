"""Uploads that are refused in the middle: the clients that people have read why."""

from __future__ import annotations

import ftplib
import io
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ftppeer import Site, serving_ftp
from rig import PASSWORD, wait_for

MIB = 1024 * 1024
QUOTA = 2 * MIB
SIZE = 48 * MIB
"""More than the buffers of both sides take: the client is still sending when it is refused."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("refusals")
    with serving_ftp(folder, ftp={"tls": '"allow"'}) as serving:
        yield serving


@pytest.fixture
def user(site: Site) -> str:
    name = site.new_user()
    result = site.daemon.ctl("user", "set", name, "--quota", str(QUOTA))
    assert result.returncode == 0, result.stderr
    return name


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("big") / "big"
    path.write_bytes(os.urandom(SIZE))
    return path


def assert_nothing_is_held(site: Site, user: str) -> None:
    wait_for(lambda: "used 0 B, 0" in site.log_in(user).ask("SITE QUOTA"))
    assert list(site.daemon.home(user).iterdir()) == []


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_ftplib(site: Site, user: str, tls: bool) -> None:
    client = ftplib.FTP_TLS() if tls else ftplib.FTP()
    client.connect("127.0.0.1", site.port, 30)
    client.login(user, PASSWORD)
    if isinstance(client, ftplib.FTP_TLS):
        client.prot_p()
    with pytest.raises(ftplib.error_perm, match=r"^552 .*quota"):
        client.storbinary("STOR big", io.BytesIO(bytes(SIZE)))
    assert_nothing_is_held(site, user)
    assert client.storbinary("STOR small", io.BytesIO(bytes(1000))).startswith("226")
    client.quit()


def test_a_slow_sender_too(site: Site, user: str) -> None:
    client = ftplib.FTP()
    client.connect("127.0.0.1", site.port, 30)
    client.login(user, PASSWORD)
    data = client.transfercmd("STOR big")
    for _ in range(12):  # refused after the third, and still not reset
        data.sendall(bytes(MIB))
        time.sleep(0.05)
    data.close()
    with pytest.raises(ftplib.error_perm, match=r"^552 .*quota"):
        client.voidresp()
    assert client.voidcmd("NOOP").startswith("200")
    assert_nothing_is_held(site, user)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("how", [[], ["-k", "--ssl-reqd"]], ids=["plain", "tls"])
def test_curl(site: Site, user: str, big: Path, how: list[str]) -> None:
    url = f"ftp://127.0.0.1:{site.port}/big"
    told = subprocess.run(
        ["curl", "-sSv", *how, "-m", "60", "-u", f"{user}:{PASSWORD}", "-T", str(big), url],
        capture_output=True,
        text=True,
    )
    assert told.returncode != 0
    assert "< 552 " in told.stderr, told.stderr[-2000:]
    assert_nothing_is_held(site, user)


@pytest.mark.skipif(shutil.which("lftp") is None, reason="lftp is not installed")
def test_lftp(site: Site, user: str, big: Path, tmp_path: Path) -> None:
    script = (
        f"set ftp:ssl-allow no; set net:max-retries 2; open -u '{user},{PASSWORD}' "
        f"-p {site.port} 127.0.0.1; put {big}"
    )
    told = subprocess.run(
        ["lftp", "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert told.returncode != 0
    assert "552" in told.stderr, told.stderr
    assert_nothing_is_held(site, user)
