from __future__ import annotations

import contextlib
import os
import socket
import ssl
import stat
import threading
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from forkd.config import Config, Server, Tls
from forkd.errors import StartError
from forkd.serving.tlscontext import Certificate, ensure_certificate, server_context


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(server=Server(state_dir=str(tmp_path / "state")))


def test_auto_makes_a_certificate_that_tls_accepts(config: Config) -> None:
    files = ensure_certificate(config)
    assert stat.S_IMODE(os.stat(files.key).st_mode) == 0o600
    cert = x509.load_pem_x509_certificate(Path(files.cert).read_bytes())
    assert (cert.not_valid_after_utc - cert.not_valid_before_utc).days >= 3650
    names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"localhost", socket.gethostname()} <= set(names.get_values_for_type(x509.DNSName))

    context = server_context(config)
    assert context is not None
    left, right = socket.socketpair()
    client = ssl.create_default_context(cafile=files.cert)
    seen: list[str | None] = []

    def shake() -> None:
        with client.wrap_socket(left, server_hostname="localhost") as tls:
            seen.append(tls.version())
            tls.recv(1)

    thread = threading.Thread(target=shake)
    thread.start()
    with context.wrap_socket(right, server_side=True) as tls:
        tls.sendall(b"x")
        thread.join()
    assert seen == ["TLSv1.3"]


def test_auto_keeps_the_certificate(config: Config) -> None:
    before = Path(ensure_certificate(config).cert).read_bytes()
    assert Path(ensure_certificate(config).cert).read_bytes() == before


def test_a_lost_key_is_reported_and_the_certificate_left(config: Config) -> None:
    files = ensure_certificate(config)
    before = Path(files.cert).read_bytes()
    os.unlink(files.key)
    with pytest.raises(StartError, match=r"key\.pem is missing"):
        ensure_certificate(config)
    assert Path(files.cert).read_bytes() == before


def test_a_crash_between_key_and_certificate_heals(config: Config) -> None:
    files = ensure_certificate(config)
    os.unlink(files.cert)
    ensure_certificate(config)
    assert server_context(config) is not None


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in the way")
    config = Config(server=Server(state_dir=str(tmp_path / "state")))
    with pytest.raises(StartError, match=str(tmp_path / "state")):
        ensure_certificate(config)


def test_off_has_no_context(config: Config) -> None:
    plain = msgspec.structs.replace(config, tls=Tls(mode="off"))
    assert server_context(plain) is None
    assert ensure_certificate(plain).cert == ""


def files_config(tmp_path: Path, cert: bytes, key: bytes) -> Config:
    (tmp_path / "c.pem").write_bytes(cert)
    (tmp_path / "k.pem").write_bytes(key)
    return Config(tls=Tls("files", str(tmp_path / "c.pem"), str(tmp_path / "k.pem")))


def test_files_that_are_missing_are_named(tmp_path: Path) -> None:
    config = Config(tls=Tls("files", str(tmp_path / "none.pem"), str(tmp_path / "k.pem")))
    assert ensure_certificate(config).cert == str(tmp_path / "none.pem")
    with pytest.raises(StartError, match=r"none\.pem: cannot be read: No such file"):
        server_context(config)


def test_files_that_do_not_fit_are_refused(config: Config, tmp_path: Path) -> None:
    files = ensure_certificate(config)
    stranger = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    odd = files_config(tmp_path, Path(files.cert).read_bytes(), stranger)
    with pytest.raises(StartError, match=r"c\.pem and .*k\.pem are not a certificate and its key"):
        server_context(odd)


def test_an_encrypted_key_is_refused_without_asking(config: Config, tmp_path: Path) -> None:
    files = ensure_certificate(config)
    key = serialization.load_pem_private_key(Path(files.key).read_bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    odd = files_config(tmp_path, Path(files.cert).read_bytes(), locked)
    with pytest.raises(StartError, match="without a password"):
        server_context(odd)


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, session: object) -> ssl.SSLObject:
    """The client's side of a TLS 1.2 connection in memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    there = server.wrap_bio(to_server, to_client, server_side=True)
    here = client.wrap_bio(to_client, to_server, session=session)  # type: ignore[arg-type]
    for _ in range(4):
        for side in (here, there):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    return here


def test_contexts_from_memory_take_up_their_own_sessions_only(config: Config) -> None:
    files = ensure_certificate(config)
    certificate = Certificate(config)
    Path(files.cert).unlink()
    Path(files.key).unlink()
    one, two = certificate.context(), certificate.context()
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    session = shake_hands(one, client, None).session
    assert shake_hands(one, client, session).session_reused
    assert not shake_hands(two, client, session).session_reused
