"""Data connections of those who mean no good: where they lead, who gets them, how they end."""

from __future__ import annotations

import contextlib
import random
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from ftppeer import FtpPeer, Site, read_all, serving_ftp
from measure import MIB, growth, worker_pids
from torture import Tell, scale
from unharmed import LIMITS, said, unharmed

pytestmark = pytest.mark.torture

BIG = 40 * MIB


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Data connections under TLS are bound to their control connection."""
    with serving_ftp(
        tmp_path_factory.mktemp("data"), limits=LIMITS, ftp={"data_session": '"require"'}
    ) as site:
        with site.log_in().open("STOR big") as data:
            data.sendall(bytes(BIG))
        yield site


@pytest.fixture
def site(serving: Site) -> Iterator[Site]:
    with unharmed(serving):
        yield serving


@pytest.fixture
def ftp(site: Site) -> FtpPeer:
    return site.log_in()


def port_of(answer: str) -> int:
    """What EPSV or PASV told."""
    found = re.search(r"\|\|\|(\d+)\|", answer)
    if found:
        return int(found[1])
    numbers = re.findall(r"\d+", answer[4:])
    return int(numbers[-2]) << 8 | int(numbers[-1])


# bounces

MALFORMED = [
    *("PORT", "PORT 1,2,3,4,5", "PORT 127,0,0,1,256,0", "PORT 127.0.0.1,200,1", "PORT ,,,,,"),
    *("PORT 0x7f,0,0,1,200,1", "PORT 127,0,0,1,200,", "EPRT", "EPRT |1|127.0.0.1|x|"),
    *("EPRT |1|127.0.0.1|99999|", "EPRT |1|127.1|5000|", "EPRT |1|localhost|5000|"),
    *("EPRT |1|::1|5000|", "EPRT |2|127.0.0.1|5000|", "EPRT 1|127.0.0.1|5000|"),
    *("EPRT |1|127.0.0.1|5000|x|", "EPRT |1|127.0.0.1|5000"),
]
ELSEWHERE = ["127,0,0,2", "127,0,0,99", "0,0,0,0", "255,255,255,255", "224,0,0,1", "10,0,0,1"]


def test_data_goes_to_no_other_host_and_no_privileged_port(site: Site, ftp: FtpPeer) -> None:
    with socket.create_server(("127.0.0.2", 0)) as trap:
        trap.setblocking(False)
        port = trap.getsockname()[1]
        for host in ELSEWHERE:
            dotted = host.replace(",", ".")
            for line in (
                f"PORT {host},{port >> 8},{port & 255}",
                f"EPRT |1|{dotted}|{port}|",
                f"EPRT !1!{dotted}!{port}!",
            ):
                assert ftp.ask(line).startswith("504"), line
                assert ftp.ask("LIST").startswith("425")
        for port in (0, 1, 21, 22, 80, 443, 1023):
            assert ftp.ask(f"PORT 127,0,0,1,{port >> 8},{port & 255}").startswith("504")
            assert ftp.ask(f"EPRT |1|127.0.0.1|{port}|").startswith("504")
        for line in (
            "EPRT |2|::1|5000|",
            "EPRT |2|::ffff:127.0.0.1|5000|",
            "EPRT |3|x|5000|",
            "EPRT ||||",
        ):
            assert ftp.ask(line).startswith("522"), line
        for line in MALFORMED:
            assert ftp.ask(line).startswith("501"), line
        assert ftp.ask("RETR kept").startswith("425")
        with pytest.raises(BlockingIOError):
            trap.accept()


def test_a_client_from_elsewhere_reaches_no_service_of_the_server(site: Site) -> None:
    """What only listens to 127.0.0.1 is not to be spoken to by way of the daemon."""
    peer = site.connect(source="127.0.0.3").log_in()
    peer.stor("request", b"GET /metrics HTTP/1.0\r\n\r\n")
    for port in (site.daemon.metrics_port, site.daemon.port, site.port, site.ftps_port):
        assert peer.ask(f"PORT 127,0,0,1,{port >> 8},{port & 255}").startswith("504")
        assert peer.ask(f"EPRT |1|127.0.0.1|{port}|").startswith("504")
        assert peer.ask("RETR request").startswith("425")
    peer.ask("DELE request")


def test_what_an_active_port_says_is_content_and_no_command(site: Site, ftp: FtpPeer) -> None:
    """The daemon sent to its own doors, by a client of the same host."""
    ftp.stor("script", b"USER alice\r\nDELE kept\r\nQUIT\r\n")
    for port in (site.port, site.daemon.port, site.ftps_port):
        assert ftp.ask(f"EPRT |1|127.0.0.1|{port}|").startswith("200")
        assert ftp.ask("RETR script").startswith("150")
        assert ftp.reply()[:3] in ("226", "426")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert ftp.ask(f"EPRT |1|127.0.0.1|{closed.getsockname()[1]}|").startswith("200")
        answer = ftp.ask("RETR script")
        assert (ftp.reply() if answer.startswith("150") else answer).startswith("425")
    ftp.ask("DELE script")


# who gets a passive port


@pytest.mark.parametrize("command", ["EPSV", "PASV"])
def test_strangers_at_a_passive_port_are_turned_away(
    site: Site, ftp: FtpPeer, command: str
) -> None:
    for _ in range(scale(3, 30)):
        port = port_of(ftp.ask(command))
        strangers = [
            socket.create_connection(("127.0.0.1", port), 30, (f"127.0.0.{host}", 0))
            for host in (2, 3, 4, 5)
        ]
        with socket.create_connection(("127.0.0.1", port), 30) as data:
            ftp.send("RETR kept")
            assert read_all(data) == b"before"
        assert ftp.reply().startswith("150")
        assert ftp.reply().startswith("226")
        assert [said(stranger) for stranger in strangers] == [b""] * 4
    port = port_of(ftp.ask(command))
    stranger = socket.create_connection(("127.0.0.1", port), 30, ("127.0.0.2", 0))
    stranger.sendall(b"planted")
    ftp.send("STOR planted")
    assert ftp.reply().startswith("150")
    assert said(stranger) == b""
    assert ftp.reply().startswith("425")  # nobody else came in time
    assert ftp.ask("SIZE planted").startswith("550")


def test_one_port_takes_one_connection_and_the_newest_port_counts(site: Site, ftp: FtpPeer) -> None:
    first = port_of(ftp.ask("EPSV"))
    second = port_of(ftp.ask("EPSV"))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", first), 30)
    one, two = (socket.create_connection(("127.0.0.1", second), 30) for _ in range(2))
    ftp.send("RETR kept")
    assert sorted((said(one), said(two))) == [b"", b"before"]
    assert ftp.reply().startswith("150")
    assert ftp.reply().startswith("226")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", second), 30)


def test_who_takes_all_ports_keeps_others_out_for_a_while_only(folder: Path) -> None:
    first = random.randrange(10_000, 30_000)
    with (
        serving_ftp(folder, limits=LIMITS, ftp={"passive_ports": f'"{first}-{first + 3}"'}) as site,
        unharmed(site),
    ):
        greedy = [site.log_in() for _ in range(6)]
        answers = [peer.ask("EPSV") for peer in greedy]
        assert [answer[:3] for answer in answers].count("229") == 4
        assert [answer[:3] for answer in answers].count("425") == 2
        other = site.log_in()
        assert other.ask("PASV").startswith("425")
        assert other.ask("NOOP").startswith("200")
        with socket.create_server(("127.0.0.1", 0)) as listener:  # active mode needs no port
            port = listener.getsockname()[1]
            other.ask(f"EPRT |1|127.0.0.1|{port}|")
            other.send("RETR kept")
            with listener.accept()[0] as data:
                assert read_all(data) == b"before"
            assert [other.reply()[:3] for _ in range(2)] == ["150", "226"]
        for word in ("150", "425"):  # nobody connects to them, and they are free
            for peer, answer in zip(greedy, answers, strict=True):
                if answer.startswith("229"):
                    reply = peer.ask("LIST") if word == "150" else peer.reply()
                    assert reply.startswith(word)
        assert other.retr("kept") == b"before"


# data connections that do nothing


def test_nothing_moves(site: Site, tell: Tell) -> None:
    """Never connected, never read, never written, half shut: each is broken off and told."""
    count = scale(2, 25)
    ends: list[tuple[FtpPeer, str]] = []
    held: list[socket.socket] = []
    with growth(worker_pids(site.daemon)) as grown:
        for _ in range(count):
            absent, deaf, mute, half, twice = (site.log_in() for _ in range(5))
            absent.ask("EPSV")
            assert absent.ask("STOR never").startswith("150")
            held.append(deaf.open("RETR big"))
            held.append(mute.open("STOR mute"))
            held.append(half.open("RETR big"))
            held[-1].shutdown(socket.SHUT_WR)
            port = port_of(twice.ask("EPSV"))
            held += [socket.create_connection(("127.0.0.1", port), 30) for _ in range(2)]
            assert twice.ask("STOR twice").startswith("150")
            ends += [(absent, "425"), (deaf, "426"), (mute, "426"), (half, "426"), (twice, "426")]
        for peer, code in ends:
            assert peer.reply().startswith(code)
            assert peer.ask("NOOP").startswith("200")
    names = ends[0][0].fetch("NLST").split()
    assert {b"never", b"mute", b"twice"}.isdisjoint(names)
    for sock in held:
        sock.close()
    tell(data_connections=len(held), grew=f"{grown.worst / MIB:.1f} MiB")
    assert grown.worst < 24 * MIB


def test_sizes_and_offsets_that_lie(site: Site, ftp: FtpPeer) -> None:
    most = 2**63 - 1
    assert ftp.ask(f"REST {10**30}").startswith("501")
    assert ftp.ask(f"ALLO {10**30}").startswith("501")
    for setting, command, code in [
        (f"REST {most}", "STOR lied", "554"),
        (f"REST {most}", "STOR kept", "554"),
        (f"REST {most}", "RETR kept", "554"),
        ("REST 7", "RETR kept", "554"),
        (f"ALLO {most}", "STOR lied", "552"),
        (f"ALLO {most}", "APPE kept", "552"),
        (f"ALLO {most}", "STOU", "552"),
        ("ALLO 0", "STOR lied", "552"),
        ("ALLO 0", "APPE kept", "552"),
        ("ALLO 8", "STOR kept", "426"),
    ]:
        ftp.ask(setting)
        assert ftp.store(command, b"content").startswith(code), (setting, command)
    assert ftp.retr("kept") == b"before"
    assert b"lied" not in ftp.fetch("NLST")
    ftp.ask("DELE lied")


# words during a transfer


@pytest.mark.parametrize("word", ["REIN", "QUIT", "USER alice", "RNFR kept", "EPSV", "AUTH SSL3"])
def test_what_is_said_during_a_transfer_waits_for_its_end(
    site: Site, ftp: FtpPeer, word: str
) -> None:
    data = ftp.open("STOR during")
    data.sendall(b"x" * 70_000)
    ftp.send(word, "NOOP")
    data.sendall(b"x" * 70_000)
    data.close()
    assert ftp.reply().startswith("226")
    expected = {"REIN": "220", "QUIT": "221", "USER alice": "331", "RNFR kept": "350"}
    assert ftp.reply()[:3] == expected.get(word, "229" if word == "EPSV" else "504")
    if word == "QUIT":
        assert said(ftp.sock) == b""
    else:
        assert ftp.reply().startswith("200")
    assert (site.daemon.home() / "during").stat().st_size == 140_000
    site.log_in().ask("DELE during")


def test_a_storm_of_abor(site: Site, dice: random.Random, tell: Tell) -> None:
    """Each ABOR has its own reply, whatever it came upon."""
    storms, counted = scale(40, 500), 0
    peer = site.log_in()
    for number in range(storms):
        data = peer.passive()
        abors = dice.randrange(1, 30)
        words = dice.choice(["RETR big", "STOR aborted", "LIST", "APPE aborted", "RETR kept"])
        peer.send(words, *["ABOR"] * abors, f"REST {number}")
        with contextlib.suppress(ConnectionError):
            data.sendall(b"x" * dice.choice([0, 10, 70_000]))
        data.close()
        replies = []
        while not (replies and replies[-1].endswith(f" byte {number}.")):
            replies.append(peer.reply()[:60])
        answers = [line for line in replies[:-1] if line[:3] in ("225", "226", "425", "426", "450")]
        answers += [line for line in replies[:-1] if line[:3] in ("550", "554")]
        assert len(answers) == abors + 1, replies
        counted += abors
        peer.ask("REST 0")
    peer.ask("DELE aborted")
    tell(transfers=storms, abors=counted)


def test_strangers_cannot_fill_a_passive_port(folder: Path) -> None:
    with serving_ftp(folder) as site:
        ftp = site.log_in()
        ftp.stor("kept", b"before")
        found = re.search(r"\|\|\|(\d+)\|", ftp.ask("EPSV"))
        assert found
        target = ("127.0.0.1", int(found[1]))
        strangers = []
        for _ in range(300):
            sock = socket.socket()
            sock.bind(("127.0.0.2", 0))
            sock.setblocking(False)
            sock.connect_ex(target)
            strangers.append(sock)
        with socket.create_connection(target, 10) as data:  # before the command, as clients do
            ftp.send("RETR kept")
            assert read_all(data) == b"before"
        assert ftp.reply().startswith("150")
        assert ftp.reply().startswith("226")
        for sock in strangers:
            sock.close()
