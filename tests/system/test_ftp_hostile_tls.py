"""TLS on the FTP door, by those who break it: AUTH, handshakes, protected data."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Iterator

import pytest
from ftppeer import FtpPeer, Site, client_context, reset, serving_ftp
from rig import PASSWORD
from torture import Tell, scale
from unharmed import LIMITS, client_hello, gone, said, sessions, unharmed

pytestmark = pytest.mark.torture


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Data connections under TLS are bound to their control connection."""
    with serving_ftp(
        tmp_path_factory.mktemp("data"), limits=LIMITS, ftp={"data_session": '"require"'}
    ) as site:
        yield site


@pytest.fixture
def site(serving: Site) -> Iterator[Site]:
    with unharmed(serving):
        yield serving


# AUTH TLS


INJECTED = (b"USER alice", b"PASS " + PASSWORD.encode(), b"DELE kept", b"MKD injected")


@pytest.mark.parametrize("known", [False, True], ids=["stranger", "user"])
@pytest.mark.parametrize("gap", [b"", b"\r\n", b"\0"])
def test_nothing_in_clear_is_carried_out_after_the_handshake(
    site: Site, known: bool, gap: bytes
) -> None:
    peer = site.log_in() if known else site.connect()
    peer.sock.sendall(b"AUTH TLS\r\n" + gap + b"".join(line + b"\r\n" for line in INJECTED))
    assert b"331" not in said(peer.sock)
    late = site.log_in() if known else site.connect()
    assert late.ask("AUTH TLS").startswith("234")
    late.send(*INJECTED)
    with pytest.raises(OSError):
        late.wrap()
    assert not (site.daemon.home() / "injected").exists()


def test_nothing_said_before_the_handshake_holds_after_it(site: Site) -> None:
    peer = site.log_in()
    data = peer.passive()
    peer.ask("REST 3", "RNFR kept", "AUTH TLS")
    peer.wrap()
    for word in ("PWD", "RNTO stolen", "RETR kept", "LIST"):
        assert peer.ask(word).startswith("530"), word
    assert said(data) == b""
    peer.log_in()
    assert peer.ask("RNTO stolen").startswith("503")
    assert peer.ask("PASV", "RETR nothing").startswith("550")
    assert peer.retr("kept") == b"before"
    data.close()


@pytest.mark.parametrize(
    "what", [b"\x00" * 500, b"\x16\x03\x01\xff\xff", b"\x15\x03\x03\0\x02\x02\0"]
)
def test_garbage_in_place_of_a_handshake(site: Site, what: bytes) -> None:
    peer = site.connect()
    assert peer.ask("AUTH TLS").startswith("234")
    peer.sock.sendall(what + b"NOOP\r\n" * 5000)
    assert b"200" not in said(peer.sock)
    with socket.create_connection(("127.0.0.1", site.ftps_port), 30) as sock:
        sock.sendall(what + b"NOOP\r\n" * 5000)
        assert b"220" not in said(sock)


def test_tls_clients_that_stall_keep_nobody_out(site: Site, tell: Tell) -> None:
    hello = client_hello(client_context())
    count = scale(100, 1000)
    for number in range(count):
        sock = socket.create_connection(("127.0.0.1", site.ftps_port), 30)
        sock.sendall(hello[: 1 + number % len(hello)])
        if number % 3 == 0:
            reset(sock)
        else:
            site.daemon.held.append(sock)
    secure = site.connect(implicit=True).log_in()
    assert secure.retr("kept") == b"before"
    assert sessions(site) > count // 3
    secure.close()
    gone(site)
    tell(handshakes=count)


# data


@pytest.fixture
def secure(site: Site) -> FtpPeer:
    return site.connect().secure().log_in()


@pytest.mark.parametrize("what", [b"plain content", b"\x16\x03\x01\x02\0\x01", b"", b"\0" * 70_000])
def test_a_protected_upload_that_is_not_protected(site: Site, secure: FtpPeer, what: bytes) -> None:
    data = secure.passive()
    secure.send("STOR kept")
    assert secure.reply().startswith("150")
    with contextlib.suppress(ConnectionError):
        data.sendall(what)
    data.close()
    assert secure.reply().startswith("426")
    assert secure.retr("kept") == b"before"


def test_a_handshake_for_data_that_stalls(site: Site, secure: FtpPeer) -> None:
    data = secure.passive()
    secure.send("RETR kept")
    assert secure.reply().startswith("150")
    with contextlib.suppress(ConnectionError):
        for byte in b"\x16\x03\x01\x40\0" + bytes(95):  # 5 s, never silent for long
            data.sendall(bytes((byte,)))
            time.sleep(0.05)
    assert secure.reply().startswith("426")
    data.close()
    assert secure.retr("kept") == b"before"


@pytest.mark.parametrize("whose", ["nobody", "another"])
def test_a_data_connection_of_another_client(site: Site, secure: FtpPeer, whose: str) -> None:
    other = site.connect().secure().log_in()
    session = other.sock.session if whose == "another" else None  # type: ignore[attr-defined]
    for command in ("RETR kept", "STOR kept", "LIST"):
        data = secure.passive()
        secure.send(command)
        assert secure.reply().startswith("150")
        with contextlib.suppress(OSError):
            wrapped = (
                client_context().wrap_socket(data)
                if session is None
                else (other.context.wrap_socket(data, session=session))
            )
            wrapped.sendall(b"planted")
            assert wrapped.recv(100) == b""
        assert secure.reply().startswith("522")
        data.close()
    assert secure.retr("kept") == b"before"


@pytest.mark.parametrize("size", [0, 10, 200_000])
def test_what_comes_after_close_notify_is_not_content(
    site: Site, secure: FtpPeer, size: int
) -> None:
    data = secure.passive()
    secure.send("STOR ended")
    assert secure.reply().startswith("150")
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = secure.sock.session  # type: ignore[attr-defined]
    tls = secure.context.wrap_bio(incoming, outgoing, session=session)
    pump(tls.do_handshake, data, incoming, outgoing)
    content = b"c" * size
    if content:
        tls.write(content)
    record = outgoing.read()
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.unwrap()
    data.sendall(record + outgoing.read() + record[-400:] + b"plain junk")
    assert secure.reply().startswith("226")
    assert secure.retr("ended") == content
    secure.ask("DELE ended")
    data.close()


def pump(
    work: Callable[[], object],
    sock: socket.socket,
    incoming: ssl.MemoryBIO,
    outgoing: ssl.MemoryBIO,
) -> None:
    while True:
        try:
            work()
        except ssl.SSLWantReadError:
            sock.sendall(outgoing.read())
            incoming.write(sock.recv(65536))
        else:
            sock.sendall(outgoing.read())
            return
