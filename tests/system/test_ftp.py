"""FTP on the real daemon: what clients do, and how it ends when they do it badly."""

from __future__ import annotations

import contextlib
import ftplib
import hashlib
import io
import json
import os
import random
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest
from ftppeer import FtpPeer, Site, hang_up, read_all, reset, serving_ftp
from rig import PASSWORD, wait_for

from forkd.admin.controlclient import ControlClient
from forkd.controlmessages import Sessions

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with serving_ftp(tmp_path_factory.mktemp("ftp")) as serving:
        yield serving


class Serve(Protocol):
    def __call__(self, **settings: dict[str, str]) -> Site: ...


@pytest.fixture
def serve(folder: Path) -> Iterator[Serve]:
    """A daemon of the test's own, with other settings."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(serving_ftp(folder, **settings))


@pytest.fixture
def user(site: Site) -> str:
    return site.new_user()


@pytest.fixture
def ftp(site: Site, user: str) -> FtpPeer:
    return site.log_in(user)


def home(site: Site, user: str) -> Path:
    return site.daemon.home(user)


# files up and down


@pytest.mark.parametrize("size", [0, 1, 4096, 64 * 1024, 64 * 1024 + 1, 5 * MIB + 3])
def test_files_come_back_byte_by_byte(site: Site, user: str, size: int) -> None:
    content = os.urandom(size)
    client = ftplib.FTP()
    client.connect("127.0.0.1", site.port, 20)
    client.login(user, PASSWORD)
    assert client.storbinary("STOR f", io.BytesIO(content)).startswith("226")
    back = io.BytesIO()
    client.retrbinary("RETR f", back.write)
    assert back.getvalue() == content
    rest = io.BytesIO()
    client.retrbinary("RETR f", rest.write, rest=size // 2)
    assert rest.getvalue() == content[size // 2 :]
    client.quit()
    assert (home(site, user) / "f").read_bytes() == content
    assert site.charged(user) == size


def test_active_mode(site: Site, ftp: FtpPeer) -> None:
    for arrange in ("PORT 127,0,0,1,{},{}", "EPRT |1|127.0.0.1|{port}|"):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            listener.settimeout(20)
            assert ftp.ask(arrange.format(port >> 8, port & 255, port=port)).startswith("200")
            ftp.send("STOR active")
            data, _ = listener.accept()
            assert ftp.reply().startswith("150")
            data.sendall(arrange.encode())
            data.close()
            assert ftp.reply().startswith("226")
            assert ftp.retr("active") == arrange.encode()


def test_a_folder_tree(site: Site, user: str, ftp: FtpPeer) -> None:
    assert ftp.ask('MKD a "b') == '257 "/a ""b" is made.'
    assert ftp.ask('CWD a "b').startswith("250")
    assert ftp.ask("PWD").startswith('257 "/a ""b"')
    ftp.stor("f", b"one")
    assert ftp.ask("SIZE f") == "213 3"
    assert ftp.ask("MFMT 20240229123456 f") == '213 Modify=20240229123456; /a "b/f'
    assert ftp.ask("MDTM f") == "213 20240229123456"
    assert "size=3;" in ftp.ask("MLST f")
    assert ftp.ask("SIZE /").startswith("550")
    assert ftp.fetch("NLST") == b"f\r\n"
    assert ftp.fetch("NLST *") == b"f\r\n"
    assert ftp.fetch("LIST -la").endswith(b" 3 Feb 29  2024 f\r\n")
    facts = ftp.fetch("MLSD").decode().splitlines()
    assert [line.partition(" ")[2] for line in facts] == [".", "..", "f"]
    assert "type=cdir;" in facts[0]
    assert "type=pdir;" in facts[1]
    assert "f" in ftp.ask("STAT f")
    assert ftp.ask("RNFR f").startswith("350")
    assert ftp.ask("RNTO ../g").startswith("250")
    assert ftp.ask("CDUP").startswith("250")
    assert ftp.ask('RMD a "b').startswith("250")
    assert ftp.ask("SITE CHMOD 600 g").startswith("200")
    assert (home(site, user) / "g").stat().st_mode & 0o777 == 0o600
    assert ftp.ask("HASH g").split()[1:4:2] == ["SHA-256", hashlib.sha256(b"one").hexdigest()]
    assert ftp.ask("XMD5 g") == "250 f97c5d29941bfb1b2fdab0874906ab82"
    assert ftp.ask("DELE g").startswith("250")
    assert ftp.fetch("LIST") == b""


def test_names_are_bytes(site: Site, user: str, ftp: FtpPeer) -> None:
    name = b"caf\xe9 \xff\xff"  # on the wire a byte of 255 is doubled
    assert ftp.store(b"STOR " + name, b"latin").startswith("226")
    on_disk = name.replace(b"\xff\xff", b"\xff")
    assert os.listdir(os.fsencode(home(site, user))) == [on_disk]
    assert ftp.fetch("NLST") == on_disk + b"\r\n"
    assert ftp.fetch(b"RETR " + name) == b"latin"
    (home(site, user) / "two\r\nlines").write_bytes(b"")
    assert sorted(ftp.fetch("NLST").splitlines()) == [on_disk, b"two??lines"]


def test_stou_tells_a_new_name(site: Site, user: str, ftp: FtpPeer) -> None:
    data = ftp.passive()
    ftp.send("STOU report")
    told = re.fullmatch(r"150 FILE: (report\.[0-9a-f]{8})", ftp.reply())
    assert told
    data.sendall(b"unique")
    data.close()
    assert ftp.reply().startswith("226")
    assert (home(site, user) / told[1]).read_bytes() == b"unique"


def test_many_commands_in_one_packet_and_one_in_many(ftp: FtpPeer) -> None:
    ftp.send("NOOP", "PWD", "NOSUCH", "TYPE A", "SIZE x", "NOOP")
    assert [ftp.reply()[:3] for _ in range(6)] == ["200", "257", "500", "200", "550", "200"]
    for byte in b"\xff\xf4NO\xff\xfb\x01OP\r\n":
        ftp.sock.sendall(bytes((byte,)))
    assert ftp.reply().startswith("200")
    ftp.sock.sendall(b"x" * 100_000 + b"\r\nNOOP\r\n")
    assert ftp.reply().startswith("500")
    assert ftp.reply().startswith("200")


def test_who_asks_much_and_reads_late_is_answered_in_order(ftp: FtpPeer) -> None:
    many = 5000
    flood = threading.Thread(target=ftp.send, args=["HELP", "NOOP"] * many)
    flood.start()
    time.sleep(0.5)
    for _ in range(many):
        assert ftp.reply().startswith("214-")
        assert ftp.reply().startswith("200")
    flood.join()


# what is shown, and when


def test_nothing_is_seen_before_it_is_whole(site: Site, user: str, ftp: FtpPeer) -> None:
    ftp.stor("f", b"old")
    other = site.log_in(user)
    data = ftp.open("STOR f")
    data.sendall(b"new " * MIB)
    site_moved(site, user, 4 * MIB)
    assert other.retr("f") == b"old"
    assert other.ask("SIZE f") == "213 3"
    data.close()
    assert ftp.reply().startswith("226")
    assert len(other.retr("f")) == 4 * MIB
    assert site.charged(user) == 4 * MIB


def test_two_uploads_of_one_name_do_not_mix(site: Site, user: str, ftp: FtpPeer) -> None:
    other = site.log_in(user)
    one, two = ftp.open("STOR f"), other.open("STOR f")
    for _ in range(20):
        one.sendall(b"1" * 50_000)
        two.sendall(b"2" * 50_000)
    one.close()
    assert ftp.reply().startswith("226")
    assert set((home(site, user) / "f").read_bytes()) == {ord("1")}
    two.close()
    assert other.reply().startswith("226")
    assert (home(site, user) / "f").read_bytes() == b"2" * 1_000_000
    assert site.charged(user) == 1_000_000


def test_appending_shows_the_old_file_or_the_new_one(site: Site, user: str, ftp: FtpPeer) -> None:
    ftp.stor("log", b"one\n")
    data = ftp.open("APPE log")
    data.sendall(b"two\n")
    time.sleep(0.1)
    assert (home(site, user) / "log").read_bytes() == b"one\n"
    data.close()
    assert ftp.reply().startswith("226")
    assert (home(site, user) / "log").read_bytes() == b"one\ntwo\n"
    ftp.ask("REST 4")
    assert ftp.store("STOR log", b"2\n").startswith("226")
    assert ftp.retr("log") == b"one\n2\n"
    ftp.ask("REST 7")
    assert ftp.store("STOR log", b"beyond").startswith("554")
    assert ftp.store("APPE fresh", b"from nothing").startswith("226")
    assert site.charged(user) == 6 + 12


# interrupted, and gone on with


@pytest.mark.parametrize("way", ["REST", "APPE"])
def test_an_upload_goes_on_after_its_client_vanished(
    site: Site, user: str, ftp: FtpPeer, way: str
) -> None:
    content = os.urandom(6 * MIB)
    data = ftp.open("STOR f")
    data.sendall(content[: 4 * MIB])
    site_moved(site, user, 4 * MIB)
    ftp.vanish(data)
    again = site.log_in(user)
    held = int(wait_for(lambda: size_of(again, "f")))
    assert 0 < held <= 4 * MIB
    assert f"size={held};" in again.ask("MLST f")
    assert again.fetch("NLST") == b""
    assert not (home(site, user) / "f").exists()
    if way == "REST":
        again.ask(f"REST {held}")
    assert again.store("STOR f" if way == "REST" else "APPE f", content[held:]).startswith("226")
    assert (home(site, user) / "f").read_bytes() == content
    assert site.charged(user) == len(content)


def size_of(peer: FtpPeer, path: str) -> str:
    """SIZE, or "" for none."""
    answer = peer.ask(f"SIZE {path}")
    return answer[4:] if answer.startswith("213") else ""


def site_moved(site: Site, user: str, size: int) -> None:
    """Wait until so many bytes of an upload have arrived."""

    def moved() -> bool:
        client = ControlClient(str(site.daemon.run / "control.sock"))
        sessions = client.call(Sessions())["sessions"]
        return any(s["user"] == user and s["moved"] >= size for s in sessions)

    wait_for(moved)


def test_a_small_upload_that_broke_is_kept_too(site: Site, user: str, ftp: FtpPeer) -> None:
    data = ftp.open("STOR f")
    data.sendall(b"part")
    site_moved(site, user, 4)
    ftp.vanish(data)
    again = site.log_in(user)
    assert wait_for(lambda: size_of(again, "f")) == "4"
    assert again.store("APPE f", b" and rest").startswith("226")
    assert again.retr("f") == b"part and rest"


def test_stor_alone_starts_afresh(site: Site, user: str, ftp: FtpPeer) -> None:
    data = ftp.open("STOR f")
    data.sendall(b"x" * MIB)
    site_moved(site, user, MIB)
    ftp.vanish(data)
    again = site.log_in(user)
    wait_for(lambda: size_of(again, "f"))
    again.stor("f", b"fresh")
    assert again.retr("f") == b"fresh"
    assert site.charged(user) == 5


def test_dele_drops_an_interrupted_upload(site: Site, user: str, ftp: FtpPeer) -> None:
    data = ftp.open("STOR f")
    data.sendall(b"x" * MIB)
    site_moved(site, user, MIB)
    ftp.vanish(data)
    again = site.log_in(user)
    wait_for(lambda: size_of(again, "f"))
    assert again.ask("DELE f").startswith("250")
    assert again.ask("DELE f").startswith("550")
    assert site.charged(user) == 0


def test_an_upload_goes_on_after_its_worker_was_killed(serve: Serve) -> None:
    site = serve(server={"workers": "1"})
    content = os.urandom(5 * MIB)
    ftp = site.log_in()
    data = ftp.open("STOR f")
    data.sendall(content[: 3 * MIB])
    site_moved(site, "alice", 3 * MIB)
    worker = site.daemon.workers()[0]["pid"]
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: [w for w in site.daemon.workers() if w["pid"] != worker])
    again = site.log_in()
    assert wait_for(lambda: size_of(again, "f")) == str(3 * MIB)
    assert again.store("APPE f", content[3 * MIB :]).startswith("226")
    assert again.retr("f") == content
    assert site.charged("alice") == len(content)


@pytest.mark.parametrize("resume", ["published", "partial"])
def test_a_file_and_an_interrupted_upload_of_its_name(serve: Serve, resume: str) -> None:
    site = serve(ftp={"resume": f'"{resume}"'})
    ftp = site.log_in()
    ftp.stor("f", b"the old file")
    data = ftp.open("STOR f")
    data.sendall(b"n" * MIB)
    site_moved(site, "alice", MIB)
    ftp.vanish(data)
    again = site.log_in()
    wait_for(lambda: site.charged("alice") == 12 + MIB)
    if resume == "published":
        assert again.ask("SIZE f") == "213 12"
        assert again.store("APPE f", b"mixed").startswith("550")
        again.ask("REST 12")
        assert again.store("STOR f", b"mixed").startswith("550")
        assert again.retr("f") == b"the old file"
        again.stor("f", b"whole")
    else:
        assert again.ask("SIZE f") == f"213 {MIB}"
        assert again.retr("f") == b"the old file"
        assert again.store("APPE f", b"nn").startswith("226")
        assert again.retr("f") == b"n" * (MIB + 2)
    assert site.charged("alice") == (5 if resume == "published" else MIB + 2)


# quota


@pytest.mark.parametrize("over", [0, 1])
@pytest.mark.parametrize("size", [1000, 3 * MIB + 17])
def test_the_last_byte_is_usable_and_none_beyond(site: Site, size: int, over: int) -> None:
    user = site.new_user("--quota", str(size))
    ftp = site.log_in(user)
    answer = ftp.store("STOR f", b"x" * (size + over))
    assert answer[:3] == ("552" if over else "226"), answer
    assert site.charged(user) == (0 if over else size)
    if not over:
        assert ftp.ask("AVBL") == "213 0"
        assert ftp.store("APPE f", b"x").startswith("552")
        assert ftp.store("STOR g", b"x").startswith("552")
        assert "left 0 B, 0" in ftp.ask("SITE QUOTA")
        assert (home(site, user) / "f").stat().st_size == size


def test_many_uploads_share_the_last_bytes(site: Site) -> None:
    """However they race: what was stored fits, and no more is charged than is there."""
    limit = 2 * MIB
    user = site.new_user("--quota", str(limit))
    answers: list[str] = []

    def put(number: int) -> None:
        answers.append(site.log_in(user).store(f"STOR f{number}", b"x" * 300_000)[:3])

    threads = [threading.Thread(target=put, args=(n,)) for n in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stored = sum(path.stat().st_size for path in home(site, user).iterdir())
    assert set(answers) <= {"226", "552"}
    assert stored == 300_000 * answers.count("226") <= limit
    assert site.charged(user) == stored


@pytest.mark.parametrize("announced", [9, 11, 10 * MIB])
def test_allo_is_enforced(site: Site, user: str, ftp: FtpPeer, announced: int) -> None:
    assert ftp.ask(f"ALLO {announced}").startswith("200")
    answer = ftp.store("STOR f", b"0123456789")
    assert answer[:3] == ("552" if announced < 10 else "426")
    assert ftp.ask("RETR f").startswith("425")
    assert not (home(site, user) / "f").exists()
    assert ftp.ask("ALLO 10").startswith("200")
    assert ftp.store("STOR f", b"0123456789").startswith("226")
    assert "completeness" not in last_line(site, user)


def test_what_is_announced_and_does_not_fit_is_refused_at_once(site: Site) -> None:
    user = site.new_user("--quota", "1000")
    ftp = site.log_in(user)
    ftp.ask("ALLO 200000")
    data = ftp.passive()
    assert ftp.ask("STOR f").startswith("552")
    data.close()
    assert site.charged(user) == 0


def test_the_log_says_that_nothing_proved_the_end(site: Site, user: str, ftp: FtpPeer) -> None:
    ftp.stor("f", b"x")
    line = last_line(site, user)
    assert (line["door"], line["completeness"]) == ("ftp", "unknown")


def last_line(site: Site, user: str) -> dict[str, object]:
    """The log's line of the last transfer, which went well."""

    def found() -> dict[str, object]:
        own = (e for e in site.daemon.events() if e["event"] == "transfer" and e["user"] == user)
        return next((line for line in own if line["outcome"] == "ok"), {})

    line: dict[str, object] = wait_for(found)
    return line


# during a transfer


def test_words_during_an_upload(site: Site, user: str, ftp: FtpPeer) -> None:
    data = ftp.open("STOR f")
    data.sendall(b"x" * MIB)
    site_moved(site, user, MIB)
    ftp.send("NOOP")
    status = ftp.ask("STAT")
    assert "upload: 1048576 bytes moved." in status
    data.sendall(b"y")
    data.close()
    assert ftp.reply().startswith("226")
    assert ftp.reply().startswith("200")
    assert len(ftp.retr("f")) == MIB + 1


def test_abor_ends_an_upload_and_keeps_what_came(site: Site, user: str, ftp: FtpPeer) -> None:
    data = ftp.open("STOR f")
    data.sendall(b"x" * MIB)
    site_moved(site, user, MIB)
    ftp.sock.sendall(b"\xff\xf4")
    ftp.sock.send(b"\xff", socket.MSG_OOB)
    ftp.sock.sendall(b"\xf2ABOR\r\n")
    assert ftp.reply().startswith("426")
    assert ftp.reply().startswith("226")
    assert ftp.ask("SIZE f") == f"213 {MIB}"
    assert ftp.ask("NOOP").startswith("200")
    assert site.charged(user) == MIB


def test_abor_ends_a_download(site: Site, user: str, ftp: FtpPeer) -> None:
    (home(site, user) / "big").write_bytes(bytes(40 * MIB))
    data = ftp.open("RETR big")
    data.recv(1000)
    ftp.send("ABOR")
    assert ftp.reply().startswith("426")
    assert ftp.reply().startswith("226")
    reset(data)
    assert ftp.ask("ABOR").startswith("226")
    assert len(ftp.retr("big")) == 40 * MIB


def test_a_client_that_leaves_a_download_is_told(site: Site, user: str, ftp: FtpPeer) -> None:
    (home(site, user) / "big").write_bytes(bytes(40 * MIB))
    data = ftp.open("RETR big")
    data.recv(1000)
    reset(data)
    assert ftp.reply().startswith("426")
    assert ftp.ask("NOOP").startswith("200")


def test_a_slow_reader_gets_it_all(site: Site, user: str, ftp: FtpPeer) -> None:
    content = os.urandom(30 * MIB)
    (home(site, user) / "big").write_bytes(content)
    data = ftp.open("RETR big")
    time.sleep(1.5)
    assert "download" in ftp.ask("STAT")
    assert read_all(data) == content
    assert ftp.reply().startswith("226")


# whose data connection


def test_data_goes_nowhere_else(ftp: FtpPeer) -> None:
    assert ftp.ask("PORT 127,0,0,2,200,1").startswith("504")
    assert ftp.ask("EPRT |1|10.0.0.1|50000|").startswith("504")
    assert ftp.ask("PORT 127,0,0,1,0,22").startswith("504")
    assert ftp.ask("EPRT |2|::1|50000|").startswith("522")
    assert ftp.ask("LIST").startswith("425")


def test_a_stranger_at_the_data_port_is_turned_away(site: Site, user: str, ftp: FtpPeer) -> None:
    ftp.stor("f", b"secret")
    answer = ftp.ask("PASV")
    found = re.search(r"\((127,0,0,1),(\d+),(\d+)\)", answer)
    assert found, answer
    port = int(found[2]) << 8 | int(found[3])
    stranger = socket.create_connection(("127.0.0.1", port), 20, source_address=("127.0.0.2", 0))
    ftp.send("RETR f")
    assert ftp.reply().startswith("150")
    assert stranger.recv(100) == b""
    with socket.create_connection(("127.0.0.1", port), 20) as data:
        assert read_all(data) == b"secret"
    assert ftp.reply().startswith("226")
    events = [e["event"] for e in site.daemon.events()]
    assert "data-connection-refused" in events


def test_fxp_is_for_those_who_may(serve: Serve) -> None:
    site = serve(ftp={"fxp": '["bob"]'})
    site.daemon.add_user("bob")
    bob, alice = site.log_in("bob"), site.log_in("alice")
    assert alice.ask("PORT 127,0,0,2,200,1").startswith("504")
    assert bob.ask("PORT 127,0,0,2,0,22").startswith("504")
    assert bob.ask("PORT 127,0,0,2,200,1").startswith("200")
    found = re.search(r"\|\|\|(\d+)\|", bob.ask("EPSV"))
    assert found
    source = ("127.0.0.2", 0)
    data = socket.create_connection(("127.0.0.1", int(found[1])), 20, source_address=source)
    bob.send("LIST")
    assert read_all(data) == b""
    assert bob.reply().startswith("150")
    assert bob.reply().startswith("226")


def test_ports_of_a_range_and_an_address_of_our_own(serve: Serve) -> None:
    first = random.randrange(10_000, 30_000)  # below what connections are given
    site = serve(
        ftp={
            "passive_ports": f'"{first}-{first + 3}"',
            "masquerade_address": '["203.0.113.7", "own for 10.0.0.0/8"]',
        }
    )
    peers = [site.log_in() for _ in range(5)]
    answers = [peer.ask("PASV") for peer in peers]
    told = [re.search(r"\(203,0,113,7,(\d+),(\d+)\)", answer) for answer in answers[:4]]
    ports = {int(found[1]) << 8 | int(found[2]) for found in told if found}
    assert ports == set(range(first, first + 4))
    assert answers[4].startswith("425")
    assert peers[0].ask("ABOR").startswith("226")
    assert peers[4].ask("EPSV").startswith("229")


def test_ipv6(serve: Serve) -> None:
    site = serve(listen={"ftp": '["[::1]:0"]'})
    shown = next(a for a in site.daemon.status()["listeners"] if "[::1]" in a)
    port = int(re.findall(r":(\d+) \(ftp\)", shown)[0])
    peer = FtpPeer(port, "::1").log_in()
    assert peer.ask("PASV").startswith("425")
    assert peer.ask("EPSV 1").startswith("522")
    peer.stor("f", b"six")
    assert peer.retr("f") == b"six"
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        peer.ask(f"EPRT |2|::1|{listener.getsockname()[1]}|")
        peer.send("RETR f")
        data, _ = listener.accept()
        assert read_all(data) == b"six"
    assert peer.reply().startswith("150")
    assert peer.reply().startswith("226")
    peer.close()


# permissions, patience, and the administrator


def test_a_drop_box_goes_on_with_its_own_upload(site: Site) -> None:
    user = site.new_user("--perms", "write")
    ftp = site.log_in(user)
    data = ftp.open("STOR f")
    data.sendall(b"x" * MIB)
    site_moved(site, user, MIB)
    ftp.send("ABOR")
    assert ftp.reply().startswith("426")
    assert ftp.reply().startswith("226")
    data.close()
    assert ftp.ask("SIZE f") == f"213 {MIB}"
    assert ftp.store("APPE f", b"y").startswith("226")
    assert ftp.ask("SIZE f").startswith("550")


def test_what_an_account_may_not_do(site: Site, user: str, ftp: FtpPeer) -> None:
    ftp.stor("f", b"x")
    drop = site.log_in(site.new_user("--perms", "write"))
    drop.stor("f", b"dropped")
    assert drop.store("STOR f", b"again").startswith("550")
    for command in ("LIST", "NLST", "MLSD", "RETR f"):
        data = drop.passive()
        assert drop.ask(command).startswith("550"), command
        data.close()
    for command in ("DELE f", "MKD d", "RMD d", "RNFR f", "SIZE f", "HASH f", "SITE CHMOD 600 f"):
        assert drop.ask(command).startswith("550"), command
    assert drop.ask("SITE WHO").startswith("550")


def test_an_administrator_sees_the_sessions_of_all_workers(serve: Serve) -> None:
    site = serve(ftp={"admins": '["root"]', "tls": '"allow"'}, server={"workers": "3"})
    site.daemon.add_user("root")
    names = [site.new_user() for _ in range(12)]
    users = [site.log_in(name) for name in names]
    admin = site.log_in("root")
    everybody = json.loads(site.daemon.ctl("--json", "sessions").stdout)
    assert len({session["slot"] for session in everybody}) > 1
    told = admin.ask("SITE WHO")
    assert told.startswith("200"), told
    for name in (*names, "root"):
        assert f" {name} 127.0.0.1:" in told
    users[0].close()
    wait_for(lambda: f" {names[0]} " not in admin.ask("SITE WHO"))
    assert users[1].ask("SITE WHO").startswith("550")


def test_nothing_outside_the_folder_is_reached(site: Site, user: str, ftp: FtpPeer) -> None:
    (home(site, user) / "out").symlink_to("/etc/passwd")
    (home(site, user) / "up").symlink_to("..")
    data = ftp.passive()
    assert ftp.ask("RETR out").startswith("550")
    data.close()
    assert ftp.ask("CWD up").startswith("550")
    assert ftp.ask("CWD ../../..").startswith("250")
    assert ftp.ask("PWD").startswith('257 "/"')
    data = ftp.passive()
    assert ftp.ask("RETR ../../../etc/passwd").startswith("550")
    data.close()


def test_wrong_passwords_end_the_session(site: Site) -> None:
    peer = site.connect()
    for _ in range(2):
        assert peer.try_log_in("alice", "wrong").startswith("530")
    assert peer.try_log_in("nobody", "wrong").startswith("530")
    assert peer.reply().startswith("421")
    with pytest.raises((EOFError, ConnectionError)):
        peer.ask("NOOP")


def test_who_waits_too_long_is_told(serve: Serve) -> None:
    site = serve(limits={"stall_timeout": "1", "idle_timeout": "5", "login_timeout": "2"})
    ftp = site.log_in()
    ftp.ask("EPSV")
    ftp.send("LIST")
    assert ftp.reply().startswith("150")
    assert ftp.reply().startswith("425")
    data = ftp.open("STOR f")
    data.sendall(b"some")
    assert ftp.reply().startswith("426")
    data.close()  # who has not noticed yet would not count as silent
    assert ftp.ask("SIZE f") == "213 4"
    stranger = site.connect()
    assert stranger.reply().startswith("421")
    assert ftp.reply().startswith("421")
    metrics = site.daemon.metrics()
    told = {
        p: metrics[f'forkd_timeouts_total{{phase="{p}"}}'] for p in ("login", "idle", "transfer")
    }
    assert told == {"login": 1, "idle": 1, "transfer": 2}


def test_an_upload_grows_out_of_memory_within_a_bandwidth(serve: Serve) -> None:
    ftp = serve(limits={"user_bandwidth_up": '"4 MiB"'}).log_in()
    content = os.urandom(600_000)
    for number in range(3):
        ftp.stor(f"f{number}", content)
        assert ftp.retr(f"f{number}") == content


def test_a_quarantined_upload_counts_only_with_its_client(serve: Serve) -> None:
    site = serve(ftp={"tls": '"allow"', "quarantine": '"1s"'})
    ftp = site.log_in()
    began = time.monotonic()
    ftp.stor("f", b"patient")
    assert time.monotonic() - began >= 1
    data = ftp.open("STOR g")
    data.sendall(b"cut")
    site_moved(site, "alice", 3)
    data.close()
    ftp.close()
    again = site.log_in()
    assert wait_for(lambda: size_of(again, "g")) == "3"
    assert again.fetch("NLST") == b"f\r\n"


def test_a_client_that_is_gone_at_the_end_published_nothing(
    site: Site, user: str, ftp: FtpPeer
) -> None:
    data = ftp.open("STOR f")
    data.sendall(b"all I have")
    site_moved(site, user, 10)
    ftp.sock.shutdown(socket.SHUT_WR)
    data.close()
    again = site.log_in(user)
    assert wait_for(lambda: size_of(again, "f")) == "10"
    assert again.fetch("NLST") == b""


def test_hooks_are_told_of_what_ftp_changes(serve: Serve, tmp_path: Path) -> None:
    program = tmp_path / "record"
    program.write_text(f'#!/bin/sh\nread -r line\necho "$line" >> {tmp_path}/told\n')
    program.chmod(0o755)
    site = serve(**{"hooks.record": {"exec": f'["{program}"]'}})
    ftp = site.log_in()
    ftp.stor("small", b"one")
    ftp.stor("large", bytes(MIB))
    ftp.store("APPE small", b" and two")
    ftp.ask("RNFR small", "RNTO moved")
    ftp.ask("DELE large")

    def told() -> list[tuple[str, str, str]]:
        with contextlib.suppress(FileNotFoundError):
            lines = (tmp_path / "told").read_text().splitlines()
            events = [json.loads(line) for line in lines]
            return [(e["event"], e["path"], e["door"]) for e in events]
        return []

    wait_for(lambda: len(told()) >= 5)
    assert [path for _, path, _ in told()] == ["/small", "/large", "/small", "/moved", "/large"]
    assert {door for _, _, door in told()} == {"ftp"}


def test_a_reload_cuts_no_transfer(serve: Serve) -> None:
    site = serve()
    ftp = site.log_in()
    content = os.urandom(3 * MIB)
    data = ftp.open("STOR f")
    data.sendall(content[:MIB])
    result = site.daemon.ctl("reload")
    assert result.returncode == 0, result.stderr
    fresh = site.log_in()
    assert fresh.ask("NOOP").startswith("200")
    data.sendall(content[MIB:])
    hang_up(data)
    assert ftp.reply().startswith("226")
    assert ftp.reply().startswith("421")
    with pytest.raises((EOFError, ConnectionError)):
        ftp.ask("NOOP")
    assert fresh.retr("f") == content


def test_the_administrator_ends_a_session(site: Site, user: str, ftp: FtpPeer) -> None:
    assert site.daemon.ctl("user", "set", user, "--disable").returncode == 0
    assert ftp.reply().startswith("421")
    peer = site.connect()
    assert peer.try_log_in(user).startswith("530")


def test_sessions_and_series_tell_of_ftp(site: Site, user: str, ftp: FtpPeer) -> None:
    ftp.stor("f", b"x" * 1000)
    shown = site.daemon.ctl("sessions").stdout
    assert user in shown
    samples = site.daemon.metrics()
    up = {k: v for k, v in samples.items() if 'protocol="ftp"' in k and "up" in k}
    assert any(value >= 1000 for value in up.values()), samples
