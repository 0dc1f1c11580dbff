"""What may go wrong for a client, as exceptions.  Each one's text is a sentence for people.

ClientError
├─ RemoteError      the server refused; carries its stable code
│  ├─ AuthError         log-in failed, or is needed
│  └─ QuotaError        the account's quota does not suffice
├─ LostError   the connection could not be made, broke, or fell silent
├─ ProtocolError    the other side does not speak the protocol
├─ TrustError       the server's certificate is not the expected one
├─ VerifyError      the bytes that came are not the ones the server has
├─ LocalError       a file on this machine cannot be read or written
│  └─ ChangedError     it changed while it was sent
├─ PasswordError    there is none, and nobody to ask
└─ UrlError         an address that cannot be understood
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from forkd.verbs import ErrorMeta

REPEATABLE = frozenset({"busy", "too-many", "timeout", "going-away", "internal", "digest-mismatch"})
"""Codes after which the client repeats a request on its own, after a pause."""


class ClientError(Exception):
    """Base of everything that this library raises on purpose."""

    @property
    def repeatable(self) -> bool:
        """Whether trying again soon, without anybody's doing, may help."""
        return False


class RemoteError(ClientError):
    """The server refused a request.

    `code`, `retry` and `fault` are those of docs/protocol.md "Errors"; `session` is the id under
    which the server's log and `forkctl sessions` know this session.
    """

    def __init__(self, meta: ErrorMeta, session: str = "") -> None:
        super().__init__(meta.message)
        self.code = meta.code
        self.message = meta.message
        self.retry = meta.retry
        self.fault = meta.fault
        self.session = session

    @property
    def repeatable(self) -> bool:
        return self.retry and self.code in REPEATABLE

    def __str__(self) -> str:
        where = f", session {self.session}" if self.session else ""
        return f"{printable(self.message)} ({self.code}{where})"


class AuthError(RemoteError):
    """The server did not accept the user, or wants a log-in first."""


class QuotaError(RemoteError):
    """The account's quota does not suffice."""


class LostError(ClientError):
    """No connection.  `carried_out` tells of the requests that stayed without an answer.

    False: the server said that it leaves and answered all it had taken, so none was carried out.
    """

    def __init__(self, message: str, *, carried_out: bool = True) -> None:
        super().__init__(message)
        self.carried_out = carried_out

    @property
    def repeatable(self) -> bool:
        return True


class ProtocolError(ClientError):
    """What came from the other side is not the forkd protocol."""


class TrustError(ClientError):
    """The server's certificate is not the expected one; no password was sent."""


class VerifyError(ClientError):
    """Bytes that arrived differ from those the server has; the file was not put in place."""

    @property
    def repeatable(self) -> bool:
        return True


class LocalError(ClientError):
    """Something on this machine: a file that cannot be read, a full disk."""

    @classmethod
    def of(cls, error: OSError, path: str) -> LocalError:
        """The error about `path`, in the operating system's words."""
        return cls(f"{printable(path)}: {error.strerror or error}")


class ChangedError(LocalError):
    """A file changed while it was sent; what arrived of it was not published."""


class PasswordError(ClientError):
    """There is no password, and nobody to ask."""


class UrlError(ClientError, ValueError):
    """An address that cannot be understood."""


_BY_CODE: dict[str, type[RemoteError]] = {
    "auth-failed": AuthError,
    "auth-required": AuthError,
    "auth-insecure": AuthError,
    "quota": QuotaError,
}


def remote_error(meta: ErrorMeta, session: str = "") -> RemoteError:
    """The exception for an ERROR frame."""
    return _BY_CODE.get(meta.code, RemoteError)(meta, session)


def printable(text: str) -> str:
    """A name, or a sentence from elsewhere, as a terminal may show it: without control characters.

    Bytes of names that are no UTF-8 are written as \\xNN, in either of their two forms (names.py).
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(ord(c)) for c in text)


def _escaped(code: int) -> str:
    if 0xDC80 <= code <= 0xDCFF or 0xEF80 <= code <= 0xEFFF:
        code &= 0xFF
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
