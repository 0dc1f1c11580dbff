"""Uploads: small files in one message, bigger ones as a stream that can be resumed.

A stream's life:

    put --> INTERIM: the server holds `offset` bytes, with `proof`
        proof differs from our own first bytes --> LAST abort, put again with restart
    DATA ... DATA   blocks of 4 MiB; each is hashed by a second thread while it is sent
        the source changes --> LAST abort; nothing is published
        ERROR comes        --> LAST abort, the error is ours
    LAST {"digest"} --> REPLY: in place and durable
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import msgspec

from forkd.client.answers import Offer, Stored, decode
from forkd.client.calls import Call
from forkd.client.connection import Connection
from forkd.client.errors import (
    ChangedError,
    ClientError,
    LocalError,
    ProtocolError,
    QuotaError,
    RemoteError,
    VerifyError,
    printable,
)
from forkd.client.events import Finished, Moved, Note, Started
from forkd.client.pipeline import Job
from forkd.client.session import Session
from forkd.client.source import Source, open_source
from forkd.digest import BlockDigest, digest_of
from forkd.protocol import BLOCK
from forkd.units import format_bytes
from forkd.verbs import Put

_SENDFILE_FRAME = 16 << 20
_SAY_HASHING = 256 << 20


@dataclass(frozen=True, slots=True)
class PutOptions:
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


class _StaleError(ClientError):
    """What the server holds is not the beginning of our file."""


class StreamUpload:
    """One file as a stream: an action for `Session.run`, which repeats it after a break."""

    def __init__(self, session: Session, source: Source, path: str, options: PutOptions) -> None:
        self._session = session
        self._source = source
        self._path = path
        self._check = options.check
        self._request = Put(
            path=path,
            size=source.size,
            check=options.check,
            client=options.client,
            tag=source.tag,
            mtime=source.mtime if options.keep_mtime else None,
            parents=options.parents,
            replace=options.replace,
        )

    def __call__(self, connection: Connection) -> Stored:
        try:
            return self._send(connection, self._request)
        except _StaleError:
            reason = "what the server holds of it is not its beginning"
        except RemoteError as error:
            if error.code != "source-changed":
                raise
            reason = "it changed since it was interrupted"
        self._session.tell(Note(f"{printable(self._path)}: {reason}; starting again from 0"))
        return self._send(connection, msgspec.structs.replace(self._request, restart=True))

    def _send(self, connection: Connection, request: Put) -> Stored:
        source = self._source
        source.check_unchanged()
        call = connection.call(request)
        offer = decode(connection.wait_interim(call), Offer)
        if not 0 <= offer.offset <= source.size or (self._check and offer.offset % BLOCK):
            raise ProtocolError(f"the server wants to resume at {offer.offset}, which cannot be")
        try:
            digest = self._proven(offer) if self._check else None
            self._session.tell(Started(self._path, source.size, offer.offset))
            self._send_from(connection, call, offer.offset, digest)
            if not call.done:
                source.check_unchanged()
        except (LocalError, _StaleError):
            self._abort(connection, call)
            raise
        return self._finish(connection, call, digest)

    def _proven(self, offer: Offer) -> BlockDigest:
        """The digest of what the server holds already, if it is the beginning of our file."""
        source = self._source
        if offer.offset - source.digested > _SAY_HASHING:
            size = format_bytes(offer.offset)
            self._session.tell(
                Note(f"{printable(self._path)}: comparing the first {size} with what is held")
            )
        digest = source.digest_to(offer.offset)
        if offer.offset and digest.hexdigest() != offer.proof:
            raise _StaleError
        return digest

    def _send_from(
        self, connection: Connection, call: Call, offset: int, digest: BlockDigest | None
    ) -> None:
        if digest is None and not connection.encrypted:
            self._send_file(connection, call, offset)
            return
        source = self._source
        buffer = memoryview(bytearray(min(BLOCK, source.size - offset)))
        with ThreadPoolExecutor(1) as helper:
            while offset < source.size and not call.done:
                view = buffer[: source.size - offset]
                source.fill(view, offset)
                hashing = helper.submit(digest.update, view) if digest is not None else None
                connection.send_data(call, view, self._moved)
                if hashing is not None:
                    hashing.result()
                source.check_unchanged()
                offset += len(view)

    def _send_file(self, connection: Connection, call: Call, offset: int) -> None:
        source = self._source
        while offset < source.size and not call.done:
            count = min(_SENDFILE_FRAME, source.size - offset)
            if not connection.send_file(call, source.fd, offset, count, self._moved):
                raise ChangedError(f"{printable(source.path)}: became shorter while it was sent")
            source.check_unchanged()
            offset += count

    def _finish(self, connection: Connection, call: Call, digest: BlockDigest | None) -> Stored:
        if call.done:  # refused in the middle: the server waits for our LAST
            connection.send_last(call, {"abort": True})
            connection.wait(call)
            raise ProtocolError("the server answered an upload before its end")
        expected = None if digest is None else digest.hexdigest()
        connection.send_last(call, {} if expected is None else {"digest": expected})
        stored = decode(connection.wait(call).meta, Stored)
        _verify(self._path, stored, self._source.size, expected)
        return stored

    def _abort(self, connection: Connection, call: Call) -> None:
        """Tell the server; its ERROR is expected.  Without a usable connection, drop it."""
        if connection.lost:
            return
        try:
            connection.send_last(call, {"abort": True})
            connection.wait(call)
        except RemoteError:
            pass
        except ClientError:
            connection.lost = True

    def _moved(self, count: int) -> None:
        self._session.progressed()
        self._session.tell(Moved(self._path, count))


def _verify(path: str, stored: Stored, size: int, expected: str | None) -> None:
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
    _verify(request.path, stored, len(data), request.digest)
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
        with open_source(self._local) as source:
            data = source.read_small()
            mtime = source.mtime
        self._request = inline_put(self._path, data, mtime, self._options)
        return connection.call(self._request, data)

    def finish(self, call: Call) -> Iterable[Job]:
        assert self._request is not None
        digest = self._request.digest
        stored = decode(call.meta, Stored)
        _verify(self._path, stored, self._request.size, digest)
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
