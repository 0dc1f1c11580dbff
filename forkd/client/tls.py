"""The wire in TLS.  Its handshake ends with the certificate's check, before a byte is sent."""

from __future__ import annotations

import select
import socket
import ssl
from collections import deque
from contextlib import suppress

from forkd.client import wire
from forkd.client.errors import LostError, TrustError
from forkd.client.events import Listener, Note
from forkd.client.trust import KnownHosts, Trust
from forkd.client.url import Url
from forkd.client.wire import Wire


class TlsWire(Wire):
    """A socket in TLS, which may have to read before it can write, and the other way round."""

    encrypted = True

    def __init__(self, sock: ssl.SSLSocket, peer: str, stall: float) -> None:
        super().__init__(sock, peer, stall)
        self._tls = sock
        self._read_wants_write = False
        self._write_wants_read = False

    def receive(self, buffer: memoryview) -> int | None:
        try:
            count = self._tls.recv_into(buffer)
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLWantWriteError:
            self._read_wants_write = True
            return None
        except OSError as error:
            raise self._lost(error) from None
        if not count:
            raise self._ended()
        return count

    def send(self, pieces: deque[memoryview]) -> int:
        try:
            return self._tls.send(pieces[0])
        except ssl.SSLWantWriteError:
            return 0
        except ssl.SSLWantReadError:
            self._write_wants_read = True
            return 0
        except OSError as error:
            raise self._lost(error) from None

    def wait(self, *, write: bool) -> tuple[bool, bool]:
        if self._tls.pending():
            return True, write
        mask = select.POLLIN
        if (write and not self._write_wants_read) or self._read_wants_write:
            mask |= select.POLLOUT
        seen = self._ready(mask)
        broken = bool(seen & wire.BROKEN)
        readable = bool(seen & select.POLLIN) or broken
        writable = bool(seen & select.POLLOUT) or (broken and write)
        if self._read_wants_write and writable:
            self._read_wants_write, readable = False, True
        if self._write_wants_read and readable:
            self._write_wants_read, writable = False, write
        return readable, writable

    def close(self) -> None:
        """Close, with a close_notify where that goes without waiting."""
        with suppress(OSError, ValueError):
            self._tls.unwrap()
        super().close()

    def _lost(self, error: OSError) -> LostError:
        return LostError(f"the connection to {self._peer} broke: {_words(error)}")


def secure(
    sock: socket.socket, url: Url, trust: Trust | None, stall: float, tell: Listener
) -> Wire:
    """Handshake with the server of `url` and judge its certificate.

    Raises LostError, TrustError, LocalError.
    """
    trust = trust or KnownHosts(say=lambda text: tell(Note(text)))
    context = trust.context()
    try:
        tls = context.wrap_socket(sock, server_hostname=url.host, suppress_ragged_eofs=False)
    except ssl.SSLCertVerificationError as error:
        raise TrustError(
            f"the certificate of {url.server} is not accepted: {error.verify_message}"
        ) from None
    except (ssl.SSLError, OSError) as error:
        hint = ""
        if isinstance(error, (ssl.SSLError, ConnectionError)):
            hint = " (a server without TLS is reached as forkd+plain://)"
        raise LostError(f"no TLS with {url.server}: {_words(error)}{hint}") from None
    certificate = tls.getpeercert(binary_form=True)
    try:
        if not certificate:
            raise TrustError(f"{url.server} showed no certificate")
        trust.check(url.server, certificate)
        return TlsWire(tls, url.server, stall)
    except BaseException:
        tls.close()
        raise


def _words(error: OSError) -> str:
    if isinstance(error, ssl.SSLEOFError):
        return "it ended in the middle"
    if isinstance(error, ssl.SSLError):
        return error.reason or str(error)
    return wire.words(error)
