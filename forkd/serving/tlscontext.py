"""The server's certificate and its TLS context.

Rules
  1. `tls.mode = "auto"` makes a self-signed certificate once and keeps it: clients pin it, so a new
     one would look like an attack.  A pair that cannot be read is reported, never replaced.
  2. A context is made in the process that uses it, after the fork: its session tickets' keys must
     not be shared by accident.
"""

from __future__ import annotations

import datetime
import os
import socket
import ssl
from dataclasses import dataclass

from forkd import folders
from forkd.config import Config
from forkd.errors import StartError

LIFETIME_DAYS = 3650


@dataclass(frozen=True, slots=True)
class CertFiles:
    """Paths of the PEM files; both are "" where TLS is off."""

    cert: str
    key: str


def certificate_files(config: Config) -> CertFiles:
    """Where certificate and key are by the configuration, whether they exist or not."""
    if config.tls.mode == "off":
        return CertFiles("", "")
    if config.tls.mode == "files":
        return CertFiles(config.tls.cert, config.tls.key)
    folder = os.path.join(config.server.state_dir, "tls")
    return CertFiles(os.path.join(folder, "cert.pem"), os.path.join(folder, "key.pem"))


def ensure_certificate(config: Config) -> CertFiles:
    """The certificate's files; in mode "auto" they are made where they are missing.

    Raises StartError naming the file and the reason.
    """
    files = certificate_files(config)
    if config.tls.mode != "auto":
        return files
    there = [os.path.exists(path) for path in (files.cert, files.key)]
    if all(there):
        return files
    if there[0] and not there[1]:
        raise StartError(
            f"{files.key} is missing while {files.cert} is there: restore the key, or remove the "
            "certificate to have a new pair made (clients that pinned it will refuse the new one)"
        )
    folder = os.path.dirname(files.cert)
    try:
        folders.make(folder, 0o700)
        cert, key = _self_signed(socket.gethostname())
        # The key first: a key without its certificate is replaced by the next start, so a crash
        # between the two leaves nothing that a client could have pinned.
        _write(files.key, key, 0o600)
        _write(files.cert, cert, 0o644)
        folders.flush(folder)
    except OSError as error:
        raise StartError(f"{error.filename or folder}: {error.strerror}") from None
    return files


def server_context(config: Config) -> ssl.SSLContext | None:
    """A context for this process, TLS 1.2 or newer; None where TLS is off.

    Raises StartError naming the file and the reason.
    """
    if config.tls.mode == "off":
        return None
    files = certificate_files(config)
    _demand_readable(files)
    context = _context()
    try:
        context.load_cert_chain(files.cert, files.key, password=_no_password)
    except (ssl.SSLError, ValueError, OSError) as error:
        reason = getattr(error, "reason", None) or str(error)
        raise StartError(
            f"{files.cert} and {files.key} are not a certificate and its key in PEM ({reason})"
        ) from None
    return context


class Certificate:
    """Certificate and key in memory, for contexts made after the process was confined.

    OpenSSL takes them from files alone, so they lie in files without a name (memfd_create(2)).
    """

    def __init__(self, config: Config) -> None:
        """Raises StartError naming the file and the reason."""
        files = certificate_files(config)
        _demand_readable(files)
        self._cert, self._key = _in_memory(files.cert), _in_memory(files.key)

    def context(self) -> ssl.SSLContext:
        """A new context, whose sessions no other context takes up.  Raises OSError."""
        context = _context()
        context.load_cert_chain(
            f"/proc/self/fd/{self._cert}", f"/proc/self/fd/{self._key}", password=_no_password
        )
        return context


def _in_memory(path: str) -> int:
    fd = os.memfd_create("tls", os.MFD_CLOEXEC)
    with open(path, "rb") as file:
        os.write(fd, file.read())
    return fd


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _demand_readable(files: CertFiles) -> None:
    for path in (files.cert, files.key):
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            raise StartError(f"{path}: cannot be read: {error.strerror}") from None


def _no_password() -> str:
    """Asked for by OpenSSL where a key is encrypted: nobody is there to type a password."""
    raise ValueError("the key is encrypted; forkd needs it without a password")


def _write(path: str, content: bytes, mode: int) -> None:
    temporary = f"{path}.{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with open(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(fd)
    os.rename(temporary, path)


def _self_signed(hostname: str) -> tuple[bytes, bytes]:
    """A certificate for `hostname` and localhost, and its key, as PEM (RFC 5280)."""
    from cryptography import x509  # only where one is made: it costs a process 10 MiB
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    # A common name has at most 64 characters (RFC 5280, ub-common-name).
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hostname[:64] or "localhost")])
    names = dict.fromkeys(["localhost", hostname or "localhost"])
    now = datetime.datetime.now(datetime.UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=LIFETIME_DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
        .sign(key, hashes.SHA256())
    )
    return cert.public_bytes(serialization.Encoding.PEM), key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
