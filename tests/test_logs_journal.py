from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from forkd.logs.journal import JournalForm, JournalSocket
from forkd.logs.outlet import Outlet


def read(datagram: bytes) -> dict[str, bytes]:
    """The fields, as https://systemd.io/JOURNAL_NATIVE_PROTOCOL has them read."""
    fields = {}
    while datagram:
        line, _, datagram = datagram.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(datagram[:8], "little")
            value, datagram = datagram[8 : 8 + size], datagram[8 + size :]
            assert datagram[:1] == b"\n"
            datagram = datagram[1:]
        fields[name.decode()] = value
    return fields


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "socket"))
        sock.setblocking(False)
        yield sock


def outlet(tmp_path: Path) -> Outlet:
    return Outlet(JournalForm(), JournalSocket(str(tmp_path / "socket")))


def test_an_event_is_a_message_with_fields(journal: socket.socket, tmp_path: Path) -> None:
    fields = {"session": "1-7", "user": "", "status": None, "why": "a\nb=c", "tls-version": 1.3}
    outlet(tmp_path).write(lambda form: form.event("", "warning", "odd", fields))
    assert read(journal.recv(65536)) == {
        "MESSAGE": b'odd session=1-7 status=None why="a\\nb=c" tls-version=1.3',
        "PRIORITY": b"4",
        "SYSLOG_IDENTIFIER": b"forkd",
        "FORKD_EVENT": b"odd",
        "FORKD_SESSION": b"1-7",
        "FORKD_WHY": b"a\nb=c",
        "FORKD_TLS_VERSION": b"1.3",
    }


def test_what_a_peer_sends_can_forge_no_field(journal: socket.socket, tmp_path: Path) -> None:
    path = "/a\nPRIORITY=0\nFORKD_USER=root\n" + "\udcff"
    outlet(tmp_path).write(lambda form: form.event("", "info", "transfer", {"path": path}))
    fields = read(journal.recv(65536))
    assert fields["PRIORITY"] == b"6"
    assert "FORKD_USER" not in fields
    assert fields["FORKD_PATH"].startswith(b"/a\nPRIORITY=0\n")


def test_a_long_value_is_cut(journal: socket.socket, tmp_path: Path) -> None:
    outlet(tmp_path).write(lambda form: form.event("", "info", "odd", {"path": "ü" * 100_000}))
    datagram = journal.recv(1 << 20)
    assert len(datagram) < 20_000
    assert read(datagram)["FORKD_PATH"].decode().endswith("ü…")


def test_a_journal_that_nobody_reads_is_not_waited_for(
    journal: socket.socket, tmp_path: Path
) -> None:
    log = outlet(tmp_path)
    for _ in range(2000):
        log.write(lambda form: form.event("", "info", "filler", {}))
    kept = 0
    while True:
        try:
            journal.recv(65536)
        except BlockingIOError:
            break
        kept += 1
    assert 0 < kept < 2000
    log.write(lambda form: form.event("", "info", "after", {}))
    lost, after = read(journal.recv(65536)), read(journal.recv(65536))
    assert (lost["FORKD_EVENT"], lost["FORKD_LINES"]) == (b"lines-lost", b"%d" % (2000 - kept))
    assert after["FORKD_EVENT"] == b"after"


def test_without_a_journal_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        JournalSocket(str(tmp_path / "none"))
