"""FTPS on the real daemon: who is protected, and what an unproven end is worth."""

from __future__ import annotations

import contextlib
import ftplib
import io
import os
import resource
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ftppeer import FtpPeer, Site, client_context, hang_up, reset, serving_ftp
from rig import PASSWORD, wait_for

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """TLS is required, and data connections are bound to their control connection."""
    settings = {"tls": '"require"', "data_session": '"require"'}
    with serving_ftp(tmp_path_factory.mktemp("ftps"), ftp=settings) as serving:
        yield serving


@pytest.fixture
def user(site: Site) -> str:
    return site.new_user()


@pytest.fixture
def ftp(site: Site, user: str) -> FtpPeer:
    return site.connect().secure().log_in(user)


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_files_come_back(site: Site, user: str, implicit: bool, version: ssl.TLSVersion) -> None:
    context = client_context()
    context.minimum_version = context.maximum_version = version
    peer = site.connect(implicit=implicit, context=context)
    if not implicit:
        peer.secure()
    peer.log_in(user)
    for size in (0, 5, 70_000, 2 * MIB):
        content = os.urandom(size)
        peer.stor("f", content)
        assert peer.retr("f") == content
    assert b"f\r\n" in peer.fetch("LIST")
    assert peer.sock.version() == ("TLSv1.2" if version.name == "TLSv1_2" else "TLSv1.3")  # type: ignore[attr-defined]
    peer.close()
    assert site.charged(user) == 2 * MIB


def test_old_versions_are_refused(site: Site) -> None:
    context = client_context()
    with contextlib.suppress(ValueError):
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", site.ftps_port), 20) as sock,
        pytest.raises(OSError),
    ):
        context.wrap_socket(sock)


def test_ftplib_where_sessions_need_not_be_resumed(folder: Path) -> None:
    with serving_ftp(folder, ftp={"tls": '"require"', "data_session": '"prefer"'}) as site:
        client = ftplib.FTP_TLS()
        client.connect("127.0.0.1", site.port, 20)
        client.login("alice", PASSWORD)
        client.prot_p()
        content = os.urandom(3 * MIB)
        for name, part in (("small", content[:3000]), ("large", content)):
            client.storbinary(f"STOR {name}", io.BytesIO(part))
            back = io.BytesIO()
            client.retrbinary(f"RETR {name}", back.write)
            assert back.getvalue() == part
        assert sorted(client.nlst()) == ["large", "small"]
        client.quit()


def test_nobody_logs_in_or_gets_data_in_clear(site: Site, user: str) -> None:
    peer = site.connect()
    assert peer.try_log_in(user).startswith("530")
    assert "AUTH TLS" in peer.ask("FEAT")
    assert peer.ask("AUTH TLS").startswith("234")
    peer.wrap()
    peer.log_in(user)
    data = peer.passive()
    assert peer.ask("LIST").startswith("522")
    data.close()
    assert peer.ask("PBSZ 0").startswith("200")
    assert peer.ask("PROT C").startswith("534")


def test_what_came_in_clear_behind_auth_is_never_carried_out(site: Site) -> None:
    peer = site.connect()
    peer.send("AUTH TLS", "FEAT", "NOOP")
    with contextlib.suppress(ConnectionError):
        assert peer.sock.recv(1000) == b""
    late = site.connect()
    assert late.ask("AUTH TLS").startswith("234")
    late.send("FEAT")
    with pytest.raises(OSError):
        late.wrap()


def test_a_data_connection_must_be_of_the_same_client(site: Site, user: str, ftp: FtpPeer) -> None:
    ftp.stor("f", b"secret")
    ftp.resumes = False
    data = ftp.passive()
    ftp.send("RETR f")
    assert ftp.reply().startswith("150")
    with contextlib.suppress(OSError):
        assert ftp.protect(data).recv(100) == b""
    assert ftp.reply().startswith("522")
    other = site.connect().secure().log_in(user)
    foreign = other.sock.session  # type: ignore[attr-defined]
    data = ftp.passive()
    ftp.send("RETR f")
    assert ftp.reply().startswith("150")
    with contextlib.suppress(OSError):
        wrapped = other.context.wrap_socket(data, session=foreign)
        assert wrapped.recv(100) == b""
    assert ftp.reply().startswith("522")
    ftp.resumes = True
    for _ in range(20):
        assert ftp.retr("f") == b"secret"


@pytest.mark.parametrize("size", [0, 1000, 300_000])
@pytest.mark.parametrize("how", ["fin", "reset"])
def test_an_end_without_close_notify_is_none(
    site: Site, user: str, ftp: FtpPeer, size: int, how: str
) -> None:
    ftp.stor("f", b"old")
    data = ftp.open("STOR f")
    data.sendall(b"x" * size)
    if how == "fin":
        data.shutdown(socket.SHUT_WR)
    else:
        reset(data)
    assert ftp.reply().startswith("426")
    assert ftp.retr("f") == b"old"
    data.close()


def test_an_upload_goes_on_under_tls(site: Site, user: str, ftp: FtpPeer) -> None:
    content = os.urandom(2 * MIB)
    data = ftp.open("STOR f")
    data.sendall(content[:MIB])
    time.sleep(0.2)
    ftp.vanish(data)
    again = site.connect().secure().log_in(user)

    def size() -> int:
        answer = again.ask("SIZE f")
        return int(answer[4:]) if answer.startswith("213") else 0

    held = wait_for(size)
    assert again.store("APPE f", content[held:]).startswith("226")
    assert again.retr("f") == content
    assert site.charged(user) == 2 * MIB


def test_words_during_a_protected_transfer(site: Site, user: str, ftp: FtpPeer) -> None:
    data = ftp.open("STOR f")
    data.sendall(b"x" * 100_000)
    ftp.send("NOOP")
    assert "upload" in ftp.ask("STAT")
    hang_up(data)
    assert ftp.reply().startswith("226")
    assert ftp.reply().startswith("200")
    data = ftp.open("STOR g")
    data.sendall(b"x" * 100_000)
    ftp.send("ABOR")
    assert ftp.reply().startswith("426")
    assert ftp.reply().startswith("226")
    data.close()


def test_the_quota_holds_under_tls(site: Site) -> None:
    for over in (0, 1):
        size = MIB + 5
        name = site.new_user("--quota", str(size))
        peer = site.connect().secure().log_in(name)
        answer = peer.store("STOR f", b"x" * (size + over))
        assert answer[:3] == ("552" if over else "226")
        assert site.charged(name) == (0 if over else size)


def test_many_at_once(site: Site, user: str) -> None:
    failures: list[object] = []

    def work(number: int) -> None:
        try:
            peer = site.connect().secure().log_in(user)
            for turn in range(5):
                content = os.urandom(20_000)
                peer.stor(f"{number}.{turn}", content)
                assert peer.retr(f"{number}.{turn}") == content
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert site.charged(user) == 8 * 5 * 20_000


def test_connections_that_no_context_can_be_made_for_count_no_longer(tmp_path: Path) -> None:
    """A worker at its limit of descriptors: one is left for the connection, none for the key."""
    settings = {"server": {"workers": "1"}, "limits": {"sessions_per_address": "3"}}
    with serving_ftp(tmp_path, **settings) as site:
        site.new_user()
        (worker,) = site.daemon.status()["workers"]
        pid = worker["pid"]
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        taken = {int(fd) for fd in os.listdir(f"/proc/{pid}/fd")}
        free = [fd for fd in range(max(taken) + 3) if fd not in taken]
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (free[1], before[1]))
        try:
            for _ in range(5):
                with socket.create_connection(("127.0.0.1", site.ftps_port), 10) as sock:
                    assert sock.recv(1) == b""
        finally:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        site.connect(implicit=True).close()
