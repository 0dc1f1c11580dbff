"""What `forkc` exits with."""

from __future__ import annotations

from collections.abc import Iterable

from forkd.client.errors import (
    AuthError,
    ClientError,
    LostError,
    PasswordError,
    QuotaError,
    TrustError,
    UrlError,
)

OK = 0
REFUSED = 1
USAGE = 2
LOST = 3
SOME_FAILED = 4
NO_LOGIN = 5
QUOTA_FULL = 6
NOT_TRUSTED = 7
INTERRUPTED = 130

EXPLAINED = """\
exit status:
  0    all went well
  1    the server refused, or a file of this machine cannot be read or written
  2    the command line is wrong
  3    no connection, or it was lost and could not be had again
  4    some of several files or addresses failed; the others went well
  5    log-in failed
  6    the account's quota does not suffice, and nothing was done (if something was: 4)
  7    the server's certificate is not the expected one
  130  interrupted; the same command goes on where it stopped
`forkc run` exits as the remote command did (128 + the signal that ended it)."""

_CODES: list[tuple[type[ClientError], int]] = [
    (AuthError, NO_LOGIN),
    (PasswordError, NO_LOGIN),
    (QuotaError, QUOTA_FULL),
    (TrustError, NOT_TRUSTED),
    (LostError, LOST),
    (UrlError, USAGE),
]


def of_several(statuses: Iterable[int]) -> int:
    """The exit status of several undertakings that had these."""
    found = set(statuses) or {OK}
    if len(found) == 1:
        return found.pop()
    return SOME_FAILED if found & {OK, SOME_FAILED} else REFUSED


def exit_code(error: ClientError) -> int:
    """The exit status for an error."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), REFUSED)
