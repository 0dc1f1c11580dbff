"""Whom to believe that it is the server.

Three ways, one Protocol:

    KnownHosts    trust on first use: remember the certificate's SHA-256, refuse another one later
    Fingerprint   the SHA-256 is given beforehand
    Authorities   the certificate is signed by an authority and made out to the host's name

`check` runs right after the handshake, before any byte of a password is sent.  TLS is 1.2 or newer.
"""

from __future__ import annotations

import hashlib
import os
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from forkd.client.errors import LocalError, TrustError
from forkd.client.fingerprint import parse_fingerprint
from forkd.client.settings import config_dir, locked, write_atomically

_HEADER = "# Certificates (SHA-256) of forkd servers: host:port fingerprint\n"


class Trust(Protocol):
    """How a server proves who it is."""

    def context(self) -> ssl.SSLContext:
        """A context for one handshake.  Raises LocalError."""

    def check(self, server: str, certificate: bytes) -> None:
        """Judge the certificate (DER) of `server` (host:port).  Raises TrustError."""


def fingerprint(certificate: bytes) -> str:
    """SHA-256 of a certificate in DER, 64 hexadecimal digits."""
    return hashlib.sha256(certificate).hexdigest()


def _pinning_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the pin is the verification
    return context


def _ignore(_text: str) -> None:
    pass


class KnownHosts:
    """Trust on first use, as ssh does.  The pins are in `path` (default: config_dir()/known_hosts).

    `say` is told when a server is met for the first time.
    """

    def __init__(self, path: str | None = None, say: Callable[[str], None] = _ignore) -> None:
        self._path = path
        self._say = say

    @property
    def path(self) -> str:
        """The file of the pins."""
        return self._path or os.path.join(config_dir(), "known_hosts")

    def context(self) -> ssl.SSLContext:
        return _pinning_context()

    def check(self, server: str, certificate: bytes) -> None:
        seen = fingerprint(certificate)
        known = self._read().get(server)
        if known is None:
            known = self._remember(server, seen)
        if known != seen:
            raise TrustError(
                f"the certificate of {server} has changed: expected sha256:{known},"
                f" got sha256:{seen}. Somebody may be listening in, or the server was set up anew."
                f" If its administrator confirms the new fingerprint, remove the line that begins"
                f" with {server!r} from {self.path} and try again"
            )

    def _remember(self, server: str, seen: str) -> str:
        path = self.path
        with locked(path):
            known = self._read().get(server)
            if known is not None:  # another client was quicker
                return known
            old = ""
            with suppress(FileNotFoundError), open(path, encoding="utf-8") as file:
                old = file.read()
            if old and not old.endswith("\n"):
                old += "\n"
            write_atomically(path, f"{old or _HEADER}{server} sha256:{seen}\n")
        self._say(
            f"{server} is met for the first time; its certificate sha256:{seen}"
            f" is remembered in {path}"
        )
        return seen

    def _read(self) -> dict[str, str]:
        path = self.path
        try:
            with open(path, encoding="utf-8") as file:
                lines = file.read().splitlines()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise LocalError.of(error, path) from None
        pins: dict[str, str] = {}
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.startswith("#"):
                continue
            server, _, pin = line.strip().partition(" ")
            try:
                pins[server] = parse_fingerprint(pin)
            except ValueError:
                raise TrustError(
                    f"{path}, line {number} is not 'host:port sha256:...'; mend or remove it"
                ) from None
        return pins


class Fingerprint:
    """The server's certificate has this SHA-256, or it is not the server.  Raises ValueError."""

    def __init__(self, text: str) -> None:
        self._expected = parse_fingerprint(text)

    def context(self) -> ssl.SSLContext:
        return _pinning_context()

    def check(self, server: str, certificate: bytes) -> None:
        seen = fingerprint(certificate)
        if seen != self._expected:
            raise TrustError(
                f"the certificate of {server} is sha256:{seen}, not the given"
                f" sha256:{self._expected}; ask the server's administrator which one is right"
            )


class Authorities:
    """Certificates signed by the authorities in a PEM file, or by the system's (None)."""

    def __init__(self, cafile: str | None = None) -> None:
        self._cafile = cafile

    def context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self._cafile)
        except OSError as error:  # ssl.SSLError is one
            raise LocalError(f"{self._cafile}: not a file of certificates: {error}") from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    def check(self, server: str, certificate: bytes) -> None:
        """The handshake itself has verified it."""
