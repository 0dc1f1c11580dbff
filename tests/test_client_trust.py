"""Certificates: trust on first use, given fingerprints, authorities."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from client_peer import Peer, make_certificate

from forkd import verbs
from forkd.client import (
    Authorities,
    Client,
    ClientError,
    Fingerprint,
    KnownHosts,
    LostError,
    RetryPolicy,
    Settings,
    Trust,
    TrustError,
)
from forkd.client.settings import client_id, config_dir
from forkd.client.trust import fingerprint, parse_fingerprint


@pytest.fixture(autouse=True)
def _config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    return make_certificate(tmp_path)


@pytest.fixture
def peer(certificate: tuple[Path, Path]) -> Iterator[Peer]:
    peer = Peer(cert=certificate)
    yield peer
    peer.close()


def visit(peer: Peer, trust: Trust) -> None:
    settings = Settings(trust, retry=RetryPolicy(attempts=0))
    with Client(peer.base, "wonderland", settings) as client:
        client.quota()


def der(path: Path) -> bytes:
    import ssl

    return ssl.PEM_cert_to_DER_cert(path.read_text())


def test_first_use_is_remembered_and_told_once(peer: Peer) -> None:
    said: list[str] = []
    visit(peer, KnownHosts(say=said.append))
    visit(peer, KnownHosts(say=said.append))
    assert len(said) == 1
    assert "is met for the first time" in said[0]
    pins = Path(config_dir()) / "known_hosts"
    pin = fingerprint(der(peer.cert[0])) if peer.cert else ""
    assert pins.read_text().splitlines()[-1] == f"127.0.0.1:{peer.port} sha256:{pin}"
    assert stat.S_IMODE(pins.stat().st_mode) == 0o600
    assert stat.S_IMODE(os.stat(config_dir()).st_mode) == 0o700


def test_a_changed_certificate_is_refused_before_the_password(peer: Peer, tmp_path: Path) -> None:
    visit(peer, KnownHosts())
    before = len(peer.requests)
    peer.cert = make_certificate(tmp_path, "other")
    with pytest.raises(TrustError, match=r"has changed.*remove the line") as caught:
        visit(peer, KnownHosts())
    assert f"127.0.0.1:{peer.port}" in str(caught.value)
    assert len(peer.requests) == before, "something was said to a server that is not trusted"


def test_pins_of_other_servers_stay(peer: Peer, tmp_path: Path) -> None:
    path = tmp_path / "pins"
    other = f"h:1 sha256:{'ab' * 32}"
    path.write_text(f"# mine\n{other}")  # no newline at the end
    visit(peer, KnownHosts(str(path)))
    lines = path.read_text().splitlines()
    assert lines[:2] == ["# mine", other]
    assert lines[2].startswith(f"127.0.0.1:{peer.port} ")
    assert len(lines) == 3


def test_clients_at_once_lose_no_pin(tmp_path: Path) -> None:
    path = str(tmp_path / "pins")
    servers = [f"host{i}:1" for i in range(30)]
    threads = [
        threading.Thread(target=KnownHosts(path).check, args=(server, server.encode()))
        for server in servers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = [line.split()[0] for line in Path(path).read_text().splitlines() if line[0] != "#"]
    assert sorted(lines) == sorted(servers)


def test_a_broken_line_is_named(peer: Peer, tmp_path: Path) -> None:
    path = tmp_path / "pins"
    path.write_text("\nnonsense here\n")
    with pytest.raises(TrustError, match="pins, line 2"):
        visit(peer, KnownHosts(str(path)))


def test_a_given_fingerprint(peer: Peer) -> None:
    assert peer.cert is not None
    right = fingerprint(der(peer.cert[0]))
    visit(peer, Fingerprint("SHA256:" + right.upper()))
    wrong = "0" * 64
    with pytest.raises(TrustError, match=f"is sha256:{right}, not the given"):
        visit(peer, Fingerprint(wrong))
    assert not (Path(config_dir()) / "known_hosts").exists()


def test_authorities(peer: Peer, tmp_path: Path) -> None:
    assert peer.cert is not None
    visit(peer, Authorities(str(peer.cert[0])))
    logins = len(peer.ops(verbs.Auth))
    stranger, _ = make_certificate(tmp_path, "stranger")
    with pytest.raises(TrustError, match="not accepted"):
        visit(peer, Authorities(str(stranger)))
    assert len(peer.ops(verbs.Auth)) == logins
    with pytest.raises(ClientError, match="not a file of certificates"):
        visit(peer, Authorities(str(tmp_path / "missing")))


def test_no_tls_on_the_other_side() -> None:
    peer = Peer()
    try:
        url = peer.base.replace("forkd+plain", "forkd")
        with pytest.raises(LostError, match=r"no TLS with .*forkd\+plain"):
            Client(url, "x", Settings(KnownHosts(), retry=RetryPolicy(attempts=0))).connect()
    finally:
        peer.close()


@pytest.mark.parametrize("text", ["", "sha256:", "ab" * 31, "xy" * 32, "ab" * 33])
def test_what_is_no_fingerprint(text: str) -> None:
    with pytest.raises(ValueError, match="not a SHA-256 fingerprint"):
        parse_fingerprint(text)


def test_fingerprints_as_other_tools_write_them() -> None:
    plain = "ab" * 32
    assert parse_fingerprint(":".join(["AB"] * 32)) == plain
    assert parse_fingerprint(f" sha256:{plain}\n") == plain


def test_the_client_s_id_is_made_once() -> None:
    ids: list[str] = []
    threads = [threading.Thread(target=lambda: ids.append(client_id())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == 1
    assert len(ids[0]) == 32
    assert client_id() == ids[0]
