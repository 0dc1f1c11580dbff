"""No path of the FTP door leads out of the account's folder, in no verb."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from ftppeer import FtpPeer, Site, serving_ftp
from unharmed import LIMITS, said, unharmed

pytestmark = pytest.mark.torture


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with serving_ftp(tmp_path_factory.mktemp("hostile"), limits=LIMITS) as site:
        yield site


@pytest.fixture
def site(serving: Site) -> Iterator[Site]:
    with unharmed(serving):
        yield serving


LINKS = {
    "out": "/etc",
    "up": "..",
    "staging": "../.forkd",
    "secret": "../bob/secret",
    "loop": "loop",
}
ESCAPES = [
    *(b"../bob/secret", b"../../../../../../etc/passwd", b"/etc/passwd", b"/../bob/secret"),
    *(b"out/passwd", b"up/bob/secret", b"secret", b"staging", b"loop", b"loop/x"),
    *(b"..%2fbob", b"..\\bob", b"x" * 256, b"/".join([b"d"] * 300), b"\xfe" * 200, b"a\rb"),
    *(b".forkd", b"../.forkd", b"/proc/self/environ", b"~root", b"out/../../bob/secret", b"-la"),
]
VERBS = [
    *(b"RETR", b"STOR", b"APPE", b"STOU", b"LIST", b"NLST", b"MLSD", b"MLST", b"STAT", b"SIZE"),
    *(b"MDTM", b"MFMT 20200101000000", b"SITE CHMOD 777", b"HASH", b"XCRC", b"CWD", b"MKD"),
    *(b"RMD", b"DELE", b"RNFR", b"AVBL", b"MDTM 20200101000000"),
]


@pytest.fixture
def trapped(site: Site) -> Iterator[Site]:
    """An administrator planted links in alice's folder; bob has a secret beside it."""
    bob, home = site.daemon.data / "bob", site.daemon.home()
    bob.mkdir(exist_ok=True)
    (bob / "secret").write_bytes(b"the secret of bob")
    (home / "inside").mkdir(exist_ok=True)
    for name, target in LINKS.items():
        (home / name).unlink(missing_ok=True)
        (home / name).symlink_to(target)
    yield site
    for name in LINKS:
        (home / name).unlink(missing_ok=True)


def test_no_path_leads_out_in_any_verb(trapped: Site) -> None:
    secret = trapped.daemon.data / "bob" / "secret"
    before = secret.stat()
    peer = trapped.log_in()
    for verb in VERBS:
        for path in ESCAPES:
            answer = spoken(peer, verb + b" " + path)
            assert b"secret of bob" not in answer, (verb, path)
            assert b"root:" not in answer, (verb, path)
            assert b"FORKD" not in answer, (verb, path)
            assert peer.ask("CWD /").startswith("250")
        clear(trapped)
    after = secret.stat()
    assert secret.read_bytes() == b"the secret of bob"
    assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
    assert {path.name for path in secret.parent.iterdir()} == {"secret"}


def spoken(peer: FtpPeer, line: bytes) -> bytes:
    """The replies of a command, and what it sent over a data connection."""
    data = peer.passive()
    peer.send(line)
    answer, content = peer.reply(), b""
    if answer.startswith("150"):
        data.shutdown(socket.SHUT_WR)
        content = said(data)
        answer += peer.reply()
    data.close()
    return answer.encode(errors="surrogateescape") + content


def clear(site: Site) -> None:
    """Remove what got a name in alice's own folder."""
    peer = site.log_in()
    for name in peer.fetch("NLST").splitlines():
        if name not in (b"kept", b"inside", *(link.encode() for link in LINKS)):
            escaped = name.replace(b"\xff", b"\xff\xff")
            gone_now = peer.ask(b"DELE " + escaped) + peer.ask(b"RMD " + escaped)
            assert "250" in gone_now or "?" in name.decode("latin-1"), gone_now


def test_renaming_leads_nowhere_else(trapped: Site) -> None:
    peer = trapped.log_in()
    peer.stor("mine", b"own")
    for path in ESCAPES:
        assert peer.ask("RNFR mine").startswith("350")
        if not peer.ask(b"RNTO " + path).startswith("250"):
            continue
        assert peer.ask(b"RNFR " + path).startswith("350"), path
        assert peer.ask("RNTO mine").startswith("250"), path
    assert peer.retr("mine") == b"own"
    assert {path.name for path in (trapped.daemon.data / "bob").iterdir()} == {"secret"}
    clear(trapped)
