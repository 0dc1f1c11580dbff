"""FTP while the workers change: who is in the middle of something is not cut."""

from __future__ import annotations

import ftplib
import io
import os
import select
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from ftppeer import Site, read_all, serving_ftp
from rig import PASSWORD, wait_for
from torture import Tell, scale

KIB = 1024


@pytest.fixture
def site(folder: Path) -> Iterator[Site]:
    with serving_ftp(folder, ftp={"tls": '"off"'}) as serving:
        yield serving


def reload(site: Site) -> None:
    result = site.daemon.ctl("reload")
    assert result.returncode == 0, result.stderr


class Sender(threading.Thread):
    """Sends file after file as ftplib does; connects again only where it was told 421."""

    def __init__(self, site: Site, number: int) -> None:
        super().__init__()
        self.told: Counter[str] = Counter()
        self.sent: dict[str, bytes] = {}
        self.failure: BaseException | None = None
        self.stop = threading.Event()
        self._site, self._number = site, number

    def run(self) -> None:
        try:
            while not self.stop.is_set():
                self._session()
        except BaseException as error:
            self.failure = error

    def _session(self) -> None:
        client = ftplib.FTP()
        client.connect("127.0.0.1", self._site.port, 60)
        client.login("alice", PASSWORD)
        self.told["sessions"] += 1
        while not self.stop.is_set():
            name = f"{self._number}-{len(self.sent)}"
            content = os.urandom((1 + len(self.sent) % 300) * KIB)
            try:
                port = client.sendcmd("EPSV")
            except ftplib.error_temp as error:
                if not str(error).startswith("421"):
                    raise
                # between two files, and nowhere else
                self.told["421"] += 1
                client.close()
                return
            address = ("127.0.0.1", int(port.split("|||")[1].split("|")[0]))
            data = ftplib.socket.create_connection(address, 30)
            assert client.sendcmd(f"STOR {name}").startswith("150")
            for at in range(0, len(content), 64 * KIB):
                data.sendall(content[at : at + 64 * KIB])
                time.sleep(0.002)
            data.close()
            assert client.voidresp().startswith("226")
            self.sent[name] = content


@pytest.mark.torture
def test_file_after_file_over_reloads(site: Site, tell: Tell) -> None:
    senders = [Sender(site, number) for number in range(4)]
    for sender in senders:
        sender.start()
    for _ in range(scale(3, 20)):
        time.sleep(0.5)
        reload(site)
    wait_for(lambda: all(sender.told["421"] or sender.failure for sender in senders), 60)
    for sender in senders:
        sender.stop.set()
    for sender in senders:
        sender.join(60)
        assert sender.failure is None, sender.failure
    for sender in senders:
        for name, content in sender.sent.items():
            assert (site.daemon.home() / name).read_bytes() == content
    told = sum((sender.told for sender in senders), Counter())
    tell(
        files=sum(len(s.sent) for s in senders),
        **{k.replace("421", "told_421"): v for k, v in told.items()},
    )


def test_what_was_arranged_may_be_used_up(site: Site) -> None:
    """Of a port, an offset and a name to change, each is for the next command."""
    with_port, with_name, idle = (site.log_in() for _ in range(3))
    with_port.stor("f", b"0123456789")
    with_port.ask("REST 4")
    data = with_port.passive()
    with_name.ask("RNFR f")
    reload(site)
    assert idle.reply().startswith("421")
    time.sleep(2)
    with_port.send("RETR f")
    assert with_port.reply().startswith("150")
    assert data.recv(100) == b"456789"
    data.close()
    assert with_port.reply().startswith("226")
    assert with_port.reply().startswith("421")
    assert with_name.ask("RNTO g").startswith("250")
    assert with_name.reply().startswith("421")
    assert (site.daemon.home() / "g").read_bytes() == b"0123456789"


def test_who_still_reads_is_not_told(site: Site) -> None:
    """What 226 was said for may still be in the kernel, and lftp drops it when it is told 421."""
    reader, idle = site.log_in(), site.log_in()
    content = os.urandom(300 * KIB)
    reader.stor("f", content)
    data = reader.open("RETR f")
    assert reader.reply().startswith("226")
    reload(site)
    assert idle.reply().startswith("421")
    time.sleep(2)
    assert not select.select([reader.sock], [], [], 0)[0]
    assert read_all(data) == content
    data.close()
    assert reader.reply().startswith("421")


def test_a_transfer_outlives_its_generation(site: Site) -> None:
    client = ftplib.FTP()
    client.connect("127.0.0.1", site.port, 60)
    client.login("alice", PASSWORD)
    data = client.transfercmd("STOR f")
    content = b""
    for _ in range(3):
        piece = os.urandom(100 * KIB)
        data.sendall(piece)
        content += piece
        reload(site)
    data.close()
    assert client.voidresp().startswith("226")
    assert (site.daemon.home() / "f").read_bytes() == content
    time.sleep(2)
    with pytest.raises(ftplib.error_temp, match="421"):
        client.voidcmd("NOOP")


def test_a_log_in_that_began_is_served(site: Site) -> None:
    client = ftplib.FTP()
    client.connect("127.0.0.1", site.port, 60)
    reload(site)
    client.login("alice", PASSWORD)
    assert client.storbinary("STOR f", io.BytesIO(b"x")).startswith("226")
    client.quit()
