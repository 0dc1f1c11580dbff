"""Whatever is said to the FTP door: an answer or the end, and no trace of it is left."""

from __future__ import annotations

import contextlib
import random
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from ftppeer import FtpPeer, Site, reset, serving_ftp
from measure import MIB, growth, worker_pids
from rig import PASSWORD, wait_for
from torture import Tell, scale
from unharmed import LIMITS, client_hello, gone, said, shove, unharmed

pytestmark = pytest.mark.torture


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with serving_ftp(tmp_path_factory.mktemp("hostile"), limits=LIMITS) as site:
        yield site


@pytest.fixture
def site(serving: Site) -> Iterator[Site]:
    with unharmed(serving):
        yield serving


def address(site: Site) -> tuple[str, int]:
    return ("127.0.0.1", site.port)


# lines


def rubbish(rng: random.Random) -> bytes:
    """Bytes in all degrees between noise and a conversation."""
    kind = rng.randrange(6)
    if kind == 0:
        return rng.randbytes(rng.randrange(1, 4000))
    if kind == 1:  # Telnet, or nearly
        return b"".join(b"\xff" + rng.randbytes(rng.randrange(4)) for _ in range(300)) + b"\r\n"
    if kind == 2:  # TLS, so it says
        return b"AUTH TLS\r\n\x16\x03\x01" + rng.randbytes(rng.randrange(1, 2000))
    if kind == 3:
        return rng.choice([b"\r", b"\n", b"\0", b" ", b"A"]) * rng.randrange(1, 30_000)
    verbs = [b"RETR", b"STOR", b"PASV", b"EPSV", b"PORT", b"REST", b"ABOR", b"MLST", b"LIST"]
    verbs += [b"USER", b"REIN", b"RNFR", b"RNTO", b"OPTS", b"HASH", b"SITE", b"MFMT"]
    return b"".join(
        b"%s %s\r\n" % (rng.choice(verbs), rng.randbytes(rng.randrange(12))) for _ in range(50)
    )


@pytest.mark.parametrize("known", [False, True], ids=["stranger", "user"])
def test_any_bytes(site: Site, known: bool, dice: random.Random, tell: Tell) -> None:
    count, ends = scale(100, 3000), {"answered": 0, "aborted": 0, "left_open": 0}
    for _ in range(count):
        peer = site.log_in() if known else site.connect()
        with contextlib.suppress(ConnectionError):
            peer.sock.sendall(rubbish(dice))
        end = dice.choice(list(ends))
        ends[end] += 1
        if end == "aborted":
            reset(peer.sock)
        elif end == "answered":
            with contextlib.suppress(OSError):
                peer.sock.shutdown(socket.SHUT_WR)
            assert b"Traceback" not in said(peer.sock)
    tell(connections=count, **ends)


def test_a_line_of_any_length_is_answered(site: Site) -> None:
    """Its last bytes come late, each by itself."""
    for size in (8191, 8192, 8193, 8194, 8200, MIB):
        for end in (b"\r\n", b"\n"):
            peer = site.log_in()
            line = b"MLST " + b"x" * (size - 5) + end
            for piece in (line[:-3], line[-3:-2], line[-2:-1], line[-1:]):
                wait_until_read(peer)
                peer.sock.sendall(piece)
            assert peer.reply()[:3] == ("553" if size <= 8192 else "500"), (size, end)
            assert peer.ask("NOOP").startswith("200")


def wait_until_read(peer: FtpPeer) -> None:
    """The daemon has taken what was sent: its socket has nothing to be read any more."""
    ours = peer.sock.getsockname()[1]

    def empty() -> bool:
        for row in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, local, remote, _, queues = row.split()[:5]
            if (local.endswith(f":{peer.port:04X}"), remote.endswith(f":{ours:04X}")) == (1, 1):
                return int(queues.partition(":")[2], 16) == 0
        raise AssertionError("the daemon ended the connection")

    wait_for(empty)


def test_telnet_between_the_letters(site: Site, dice: random.Random) -> None:
    peer = site.log_in()
    junk = [b"\xff\xf1", b"\xff\xfb\x01", b"\xff\xfe\x22", b"\xff\xfa\x18\0x\xff\xf0", b"\xff\xf4"]
    for number in range(scale(300, 3000)):
        line = b"REST %d" % number
        spoiled = b"".join(bytes((c,)) + dice.choice([b"", b"", *junk]) for c in line)
        peer.sock.sendall(spoiled + b"\r\n")
    for number in range(scale(300, 3000)):
        assert peer.reply().endswith(f" byte {number}.")


def test_times_that_no_file_can_have_are_not_claimed(site: Site) -> None:
    peer = site.log_in()
    for time in ("00010101000000", "19000101000000", "99991231235959", "20240229123456"):
        told = peer.ask(f"MFMT {time} kept")
        assert told == f"213 Modify={peer.ask('MDTM kept')[4:]}; /kept"


# floods


def test_a_flood_of_commands_is_answered_in_order(site: Site, tell: Tell) -> None:
    count = 100_000
    peer, other = site.log_in(), site.log_in()
    with growth(worker_pids(site.daemon)) as grown:
        flood = threading.Thread(target=peer.sock.sendall, args=(b"NOOP\r\n" * count + b"PWD\r\n",))
        flood.start()
        served = 0
        for number in range(count):
            assert peer.line().startswith("200 ")
            if number % (count // 20) == 0:
                assert other.retr("kept") == b"before"
                served += 1
        flood.join()
    assert peer.reply().startswith("257 ")
    tell(commands=count, grew=f"{grown.worst / MIB:.1f} MiB", others_served=served)
    assert grown.worst < 16 * MIB


@pytest.mark.parametrize("known", [False, True], ids=["stranger", "user"])
def test_who_reads_no_reply_is_ended(site: Site, known: bool, tell: Tell) -> None:
    """However he was interrupted in what he did: a change may be under way, or a transfer."""
    words = [b"NOOP\r\n", b"HELP\r\n", b"STAT\r\nNOSUCH\r\n", b"USER a\r\nSTAT\r\n"]
    if known:
        words += [b"MKD d\r\nSTAT\r\n", b"EPSV\r\nRETR kept\r\nABOR\r\nSTAT\r\n"]
        words += [b"RNFR kept\r\nABOR\r\n", b"DELE no\r\nHELP\r\n"]
    words *= scale(1, 3)
    for _ in range(4):  # each worker has verified the password, which takes much memory
        site.log_in()
    deaf = [deaf_peer(site, known) for _ in words]
    with growth(worker_pids(site.daemon)) as grown:
        sent = sum(
            shove(sock, word * (2 * MIB // len(word)))
            for sock, word in zip(deaf, words, strict=True)
        )
        site.hang_up()
        gone(site)
    tell(clients=len(deaf), took=f"{sent / MIB:.1f} MiB", grew=f"{grown.worst / MIB:.1f} MiB")
    assert grown.worst < 16 * MIB


def deaf_peer(site: Site, known: bool) -> socket.socket:
    """It has little room for replies, and reads none."""
    sock = socket.socket()
    site.daemon.held.append(sock)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    sock.connect(address(site))
    if known:
        sock.sendall(b"USER alice\r\nPASS %s\r\n" % PASSWORD.encode())
    return sock


def test_a_stranger_has_one_time_for_all_he_does(site: Site, client_tls: ssl.SSLContext) -> None:
    """Silent, slow, in the middle of a handshake, or saying something at every moment."""
    over = threading.Event()
    hello = client_hello(client_tls)
    silent = [site.connect() for _ in range(3)]
    silent[1].sock.sendall(b"AUTH TL")
    assert silent[2].ask("AUTH TLS").startswith("234")
    silent[2].sock.sendall(hello[:100])
    implicit = socket.create_connection(("127.0.0.1", site.ftps_port), 30)
    implicit.sendall(hello[:-1])
    site.daemon.held.append(implicit)

    def talk(peer: FtpPeer, words: bytes, pause: float) -> None:
        with contextlib.suppress(ConnectionError):
            while not over.wait(pause):
                peer.sock.sendall(words)

    busy = [site.connect() for _ in range(3)]
    threads = [
        threading.Thread(target=talk, args=(peer, words, pause))
        for peer, words, pause in zip(
            busy, (b"NOOP\r\n", b"NOOP\r\n" * 2000, b"x"), (0.1, 0, 0.01), strict=True
        )
    ]
    readers = [threading.Thread(target=said, args=(peer.sock,)) for peer in busy]
    for thread in threads + readers:
        thread.start()
    try:
        gone(site)
    finally:
        over.set()
        for peer in busy:
            with contextlib.suppress(OSError):
                peer.sock.shutdown(socket.SHUT_RDWR)
        for thread in threads + readers:
            thread.join()


# log-in


ORDERS = [
    (["PASS x"], ["503"]),
    (["USER", "PASS x"], ["501", "503"]),
    (["USER a", "USER alice", "PASS {}"], ["331", "331", "230"]),
    (["USER alice", "NOOP", "PASS {}", "PASS {}"], ["331", "200", "230", "503"]),
    (["USER alice", "REIN", "PASS {}"], ["331", "220", "503"]),
    (["USER alice", "PASS {}", "USER root", "PWD"], ["331", "230", "331", "530"]),
    (["USER alice", "PASS {}", "REIN", "LIST"], ["331", "230", "220", "530"]),
    (
        ["USER alice", "PASS {}", "USER bob", "PASS x", "PWD"],
        ["331", "230", "331", "530", "530"],
    ),
    (["USER alice\0", "PASS {}"], ["501", "503"]),
    (["USER alice", "PASS {}\0"], ["331", "501"]),
    (["USER " + "a" * 65, "USER ../alice", "PASS {}"], ["501", "331", "530"]),
    (["USER alice", "PASS " + "x" * 1025, "PASS {}"], ["331", "501", "230"]),
    (["SITE CHMOD 777 kept", "SITE WHO", "SITE QUOTA", "STAT /"], ["530"] * 4),
    (["PASV", "EPSV", "PORT 127,0,0,1,200,1", "REST 5", "ALLO 5"], ["530"] * 5),
    (["RNTO x", "RNFR kept", "DELE kept", "MKD d", "RETR kept"], ["530"] * 5),
    (
        ["USER alice", "PASS {}", "RNTO x", "RNFR kept", "NOOP", "RNTO x"],
        ["331", "230", "503", "350", "200", "503"],
    ),
    (["PBSZ 0", "PROT P", "ABOR", "QUIT"], ["503", "503", "226", "221"]),
]


def test_orders_of_log_in(site: Site) -> None:
    for number, (lines, codes) in enumerate(ORDERS):
        peer = site.connect(source=f"127.0.1.{number + 1}")  # no delay that others earned
        assert [peer.ask(line.format(PASSWORD))[:3] for line in lines] == codes, lines


def test_who_logs_in_again_in_vain_has_a_stranger_s_rights(site: Site) -> None:
    peer = site.connect(source="127.0.2.1").log_in()
    assert peer.ask("RNFR kept", "USER alice").startswith("331")
    assert peer.ask("PASS wrong").startswith("530")
    for word in ("PWD", "RNTO stolen", "RETR kept", "EPSV", "STAT kept", "SITE QUOTA"):
        assert peer.ask(word).startswith("530"), word


def test_a_flood_of_log_ins_keeps_nobody_out(site: Site, tell: Tell) -> None:
    """Each is refused in its time; whoever is in, or known, is served meanwhile."""
    inside = site.log_in()
    for _ in range(4):  # each worker remembers alice
        site.log_in()
    flood = [
        socket.create_connection(address(site), 30, (f"127.0.3.{number % 200 + 1}", 0))
        for number in range(scale(30, 300))
    ]
    for number, sock in enumerate(flood):
        sock.sendall(b"USER flood%d\r\nPASS x\r\nPWD\r\nQUIT\r\n" % number)
    for _ in range(20):
        assert inside.retr("kept") == b"before"
        assert site.log_in().retr("kept") == b"before"
    answers = [said(sock).decode() for sock in flood]
    for sock in flood:
        sock.close()
    codes = [re.findall(r"^(\d{3}) ", answer, re.M) for answer in answers]
    assert all(told[0] == "220" and "230" not in told and "257" not in told for told in codes)
    tell(log_ins=len(flood), refused=sum("530" in told for told in codes))


def test_guessing_ends_in_a_ban_of_the_guesser_alone(folder: Path, tell: Tell) -> None:
    with serving_ftp(folder, limits={"ban_after": "4"}) as site, unharmed(site):
        guesses = 0
        while (peer := site.connect(source="127.0.0.9")).greeting.startswith("220"):
            assert guesses < 4, "it may go on guessing"
            for _ in range(3):
                if not peer.try_log_in("guessed", f"guess{guesses}").startswith("530"):
                    break
                guesses += 1
            said(peer.sock)  # to its end
        assert peer.greeting.startswith("421")
        assert site.log_in().retr("kept") == b"before"
        tell(guesses=guesses)
