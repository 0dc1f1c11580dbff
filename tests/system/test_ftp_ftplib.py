"""Python's ftplib, as jobs use it: in clear, under TLS, with TLS sessions resumed and without."""

from __future__ import annotations

import ftplib
import hashlib
import io
import os
import socket
import ssl
from collections.abc import Callable, Iterator

import pytest
from ftpclients import interrupt
from ftppeer import Site, client_context, serving_ftp
from rig import PASSWORD

KIB, MIB = 1 << 10, 1 << 20
SIZES = (0, 1, 70 * KIB, 3 * MIB + 5)


class Resuming(ftplib.FTP_TLS):
    """As many jobs have it: ftplib itself resumes no TLS session (cpython#63699)."""

    def ntransfercmd(
        self, cmd: str, rest: int | str | None = None
    ) -> tuple[socket.socket, int | None]:
        data, size = ftplib.FTP.ntransfercmd(self, cmd, rest)
        assert isinstance(self.sock, ssl.SSLSocket)
        wrapped = self.context.wrap_socket(
            data, server_hostname=self.host, session=self.sock.session
        )
        return wrapped, size


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    settings = {"data_session": '"require"'}
    with serving_ftp(tmp_path_factory.mktemp("ftplib"), ftp=settings) as serving:
        yield serving


@pytest.fixture
def user(site: Site) -> str:
    return site.new_user()


def log_in(site: Site, user: str, kind: type[ftplib.FTP]) -> ftplib.FTP:
    client = kind(context=client_context()) if issubclass(kind, ftplib.FTP_TLS) else kind()
    client.connect("127.0.0.1", site.port, 60)
    client.login(user, PASSWORD)
    client.voidcmd("TYPE I")
    if isinstance(client, ftplib.FTP_TLS):
        client.prot_p()
    return client


def fetch(client: ftplib.FTP, name: str, rest: int | None = None) -> bytes:
    back = io.BytesIO()
    client.retrbinary(f"RETR {name}", back.write, rest=rest)
    return back.getvalue()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("kind", [ftplib.FTP, Resuming])
@pytest.mark.parametrize("passive", [True, False], ids=["passive", "active"])
def test_files_and_folders(site: Site, user: str, kind: type[ftplib.FTP], passive: bool) -> None:
    client = log_in(site, user, kind)
    client.set_pasv(passive)
    client.mkd("folder")
    client.cwd("folder")
    assert client.pwd() == "/folder"
    for number, size in enumerate(SIZES):
        content = os.urandom(size)
        client.storbinary(f"STOR {number}", io.BytesIO(content))
        there = (site.daemon.home(user) / "folder" / str(number)).read_bytes()
        assert digest(there) == digest(content)
        assert digest(fetch(client, str(number))) == digest(content)
        assert client.size(str(number)) == size
    facts = dict(client.mlsd(facts=["type", "size"]))
    assert {name: int(facts[name]["size"]) for name in facts if facts[name]["type"] == "file"} == {
        str(number): size for number, size in enumerate(SIZES)
    }
    client.rename("0", "none")
    client.delete("1")
    assert sorted(client.nlst()) == ["2", "3", "none"]
    client.quit()


@pytest.mark.parametrize("kind", [ftplib.FTP, Resuming])
def test_transfers_go_on(site: Site, user: str, kind: type[ftplib.FTP]) -> None:
    client = log_in(site, user, kind)
    content = os.urandom(3 * MIB)
    interrupt(site, user, content[:MIB])
    held = client.size("f")
    assert held == MIB
    client.storbinary("STOR f", io.BytesIO(content[held:]), rest=held)
    assert digest((site.daemon.home(user) / "f").read_bytes()) == digest(content)
    assert digest(fetch(client, "f", rest=MIB)) == digest(content[MIB:])
    client.quit()


def refusal(client: ftplib.FTP, transfer: Callable[[], object]) -> str:
    """The reply to a transfer that failed, also where its data connection broke first."""
    try:
        transfer()
    except ftplib.error_perm as error:
        return str(error)
    except OSError:
        return client.getmultiline()
    raise AssertionError("nothing was refused")


def test_who_cannot_resume_has_no_data(site: Site, user: str) -> None:
    log_in(site, user, Resuming).storbinary("STOR f", io.BytesIO(b"secret"))
    client, back = log_in(site, user, ftplib.FTP_TLS), io.BytesIO()
    new = io.BytesIO(bytes(1000))
    assert refusal(client, lambda: client.retrbinary("RETR f", back.write)).startswith("522")
    assert back.getvalue() == b""
    assert refusal(client, lambda: client.storbinary("STOR g", new)).startswith("522")
    assert sorted(os.listdir(site.daemon.home(user))) == ["f"]
    assert client.voidcmd("NOOP").startswith("200")
    assert site.charged(user) == len(b"secret")
