"""How files are put, and small ones, each in one message; stream.py has the bigger ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec import Struct

from forkd.client.answers import Stored, decode
from forkd.client.calls import Call
from forkd.client.connection import Connection
from forkd.client.errors import (
    ClientError,
    QuotaError,
    RemoteError,
    VerifyError,
    printable,
)
from forkd.client.events import Finished
from forkd.client.pipeline import Job
from forkd.client.source import read_small
from forkd.digest import digest_of
from forkd.verbs import Put


class PutOptions(Struct, frozen=True):
    """How files are put.

    `check`: digests prove that what arrived is what was sent.  `replace`: a file that has the name
    is replaced; else the server refuses.  `parents`: missing folders are made.  `keep_mtime`: the
    file gets the source's modification time.  `client` keeps this client's interrupted uploads
    apart from those of others.
    """

    check: bool = True
    replace: bool = True
    parents: bool = False
    keep_mtime: bool = True
    client: str = ""


def verify(path: str, stored: Stored, size: int, expected: str | None) -> None:
    """Raises VerifyError when the server has stored something else than was sent."""
    if stored.size != size or (expected and stored.digest and stored.digest != expected):
        raise VerifyError(f"{printable(path)}: the server has stored something else than was sent")


def inline_put(path: str, data: bytes, mtime: float | None, options: PutOptions) -> Put:
    """The request that carries `data` (at most INLINE_MAX bytes) as its payload."""
    return Put(
        path=path,
        size=len(data),
        digest=digest_of(data) if options.check else None,
        mtime=mtime if options.keep_mtime else None,
        parents=options.parents,
        replace=options.replace,
    )


def send_inline(connection: Connection, request: Put, data: bytes) -> Stored:
    """Send a small content and wait until it is in place."""
    stored = decode(connection.wait(connection.call(request, data)).meta, Stored)
    verify(request.path, stored, len(data), request.digest)
    return stored


class SmallUpload:
    """A file of at most INLINE_MAX bytes, in one message of a pipeline."""

    def __init__(
        self, local: str, path: str, weight: int, options: PutOptions, report: Report
    ) -> None:
        self._local = local
        self._path = path
        self._options = options
        self._report = report
        self._request: Put | None = None
        self.weight = weight

    def start(self, connection: Connection) -> Call:
        data, mtime = read_small(self._local)
        self._request = inline_put(self._path, data, mtime, self._options)
        return connection.call(self._request, data)

    def finish(self, call: Call) -> Iterable[Job]:
        assert self._request is not None
        digest = self._request.digest
        stored = decode(call.meta, Stored)
        verify(self._path, stored, self._request.size, digest)
        self._report(Finished(self._path, stored.size, digest or ""), None)
        return ()

    def fail(self, error: ClientError) -> None:
        self._report(failure(self._path, self.weight, error), error)


Report = Callable[[Finished, ClientError | None], None]
"""Told how each file of several ended."""


def failure(path: str, size: int, error: ClientError) -> Finished:
    """How a file ended that failed.  Its name stands in `path`, not in `error` again."""
    text = str(error).removeprefix(f"{printable(path)}: ")
    return Finished(path, size, error=text, code=error_code(error))


def error_code(error: ClientError) -> str:
    """The stable code of a refusal; for other errors a word of ours, for --json and exit codes."""
    if isinstance(error, RemoteError):
        return error.code
    return type(error).__name__.removesuffix("Error").lower() or "client"


def is_full(error: ClientError | None) -> bool:
    """Whether there is no point in sending more files."""
    return isinstance(error, QuotaError)
