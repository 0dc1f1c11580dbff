"""curl: folders made on the way, ranges, active mode, IPv6 and TLS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ftpclients import attempt, beginning, blob, digest, interrupt, needs, run
from ftppeer import Site, serving_ftp
from rig import PASSWORD, free_port

pytestmark = needs("curl")

MIB = 1024 * 1024
WAYS = pytest.mark.parametrize("way", ["clear", "explicit", "implicit"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with serving_ftp(tmp_path_factory.mktemp("curl"), ftp={"data_session": '"require"'}) as serving:
        yield serving


@pytest.fixture
def user(site: Site) -> str:
    return site.new_user()


def command(site: Site, user: str, way: str, *args: str | Path) -> list[str | Path]:
    """The last argument is a path on the server."""
    scheme, port = ("ftps", site.ftps_port) if way == "implicit" else ("ftp", site.port)
    tls = ["--ssl-reqd"] if way == "explicit" else []
    log_in = ["-sS", "-k", "-m", "60", "-u", f"{user}:{PASSWORD}"]
    return ["curl", *log_in, *tls, *args[:-1], f"{scheme}://127.0.0.1:{port}/{args[-1]}"]


def curl(site: Site, user: str, way: str, *args: str | Path) -> str:
    return run(*command(site, user, way, *args))


@WAYS
def test_a_file_goes_up_and_comes_back(site: Site, user: str, tmp_path: Path, way: str) -> None:
    source, back = blob(tmp_path / "f"), tmp_path / "back"
    curl(site, user, way, "--ftp-create-dirs", "-T", source, "deep/down/f")
    assert digest(site.daemon.home(user) / "deep/down/f") == digest(source)
    curl(site, user, way, "-o", back, "deep/down/f")
    assert digest(back) == digest(source)
    assert " f\n" in curl(site, user, way, "deep/down/")


@WAYS
def test_a_download_goes_on(site: Site, user: str, tmp_path: Path, way: str) -> None:
    source = blob(site.daemon.home(user) / "f")
    part = beginning(source, tmp_path / "part")
    curl(site, user, way, "-C", "-", "-o", part, "f")
    assert digest(part) == digest(source)


@WAYS
def test_an_upload_goes_on(site: Site, user: str, tmp_path: Path, way: str) -> None:
    """What a broken upload of the client's own left is gone on with, by SIZE and APPE."""
    source = blob(tmp_path / "f")
    interrupt(site, user, source.read_bytes()[:MIB])
    told = curl(site, user, way, "-v", "-C", "-", "-T", source, "f")
    assert "> SIZE f" in told
    assert "> APPE f" in told
    assert digest(site.daemon.home(user) / "f") == digest(source)
    assert site.charged(user) == source.stat().st_size


@WAYS
@pytest.mark.parametrize("asked", ["0-0", "1000-70000", "3000000-", "-500"])
def test_ranges(site: Site, user: str, tmp_path: Path, way: str, asked: str) -> None:
    content = blob(site.daemon.home(user) / "f").read_bytes()
    first, _, last = asked.partition("-")
    wanted = content[int(first) :] if first else content[-int(last) :]
    if first and last:
        wanted = content[int(first) : int(last) + 1]
    curl(site, user, way, "-r", asked, "-o", tmp_path / "part", "f")
    assert (tmp_path / "part").read_bytes() == wanted


@pytest.mark.parametrize("how", [(), ("--disable-eprt",)], ids=["EPRT", "PORT"])
def test_active_mode(site: Site, user: str, tmp_path: Path, how: tuple[str, ...]) -> None:
    source, back = blob(tmp_path / "f"), tmp_path / "back"
    told = curl(site, user, "clear", *how, "-v", "-P", "-", "-T", source, "active")
    assert ("> PORT" if how else "> EPRT") in told
    assert digest(site.daemon.home(user) / "active") == digest(source)
    curl(site, user, "clear", *how, "-P", "-", "-o", back, "active")
    assert digest(back) == digest(source)


def test_data_in_clear_under_tls_is_no_upload(site: Site, user: str, tmp_path: Path) -> None:
    """curl 7.87 to 7.88 forget TLS on data connections in active mode (curl#10666)."""
    source = blob(tmp_path / "f")
    told = attempt(*command(site, user, "explicit", "-v", "-P", "-", "-T", source, "f"))
    if told.returncode:
        assert "< 426 " in told.stdout
        assert not (site.daemon.home(user) / "f").exists()
        assert site.charged(user) == 0
    else:
        assert digest(site.daemon.home(user) / "f") == digest(source)


def test_ipv6(folder: Path, tmp_path: Path) -> None:
    port = free_port()
    source, back = blob(tmp_path / "f"), tmp_path / "back"
    with serving_ftp(folder, listen={"ftp": f'["[::1]:{port}"]'}) as site:
        url = f"ftp://[::1]:{port}/deep/f"
        alice = ("curl", "-sS", "-g", "-k", "-m", "60", "-u", f"alice:{PASSWORD}")
        for mode in ((), ("-P", "-"), ("--ssl-reqd",)):
            run(*alice, *mode, "--ftp-create-dirs", "-T", source, url)
            run(*alice, *mode, "-o", back, url)
            assert digest(back) == digest(source)
            assert digest(site.daemon.home() / "deep" / "f") == digest(source)
            blob(source)
        run(*alice, "-T", source, url)
        beginning(source, back)
        run(*alice, "-C", "-", "-o", back, url)
        assert digest(back) == digest(source)
