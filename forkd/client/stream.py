"""Uploads as a stream, which can be resumed.

A stream's life:

    put --> INTERIM: the server holds `offset` bytes, with `proof`
        proof differs from our own first bytes --> LAST abort, put again with restart
    DATA ... DATA   each is hashed by a second thread while it is sent
        the source changes --> LAST abort; nothing is published
        ERROR comes        --> LAST abort, the error is ours
    LAST {"digest"} --> REPLY: in place and durable

On a plain connection the kernel sends the file, and the second thread reads it for the digest.
Should the two have seen different bytes, the server refuses: its own digest is of what arrived.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial

import msgspec

from forkd.client.answers import Offer, Stored, decode
from forkd.client.beside import Beside
from forkd.client.calls import Call
from forkd.client.connection import Connection
from forkd.client.errors import (
    ChangedError,
    ClientError,
    LocalError,
    ProtocolError,
    RemoteError,
    printable,
)
from forkd.client.events import Moved, Note, Started, going_on
from forkd.client.session import Session
from forkd.client.source import Source
from forkd.client.upload import PutOptions, verify
from forkd.digest import BlockDigest
from forkd.protocol import BLOCK
from forkd.units import format_bytes
from forkd.verbs import Put

_SENDFILE_FRAME = 16 << 20
_SAY_HASHING = 256 << 20


class _StaleError(ClientError):
    """What the server holds is not the beginning of our file."""


class _Hash:
    """Adds one frame to the digest, if there is one, beside the sending."""

    def __init__(self, beside: Beside, digest: BlockDigest | None) -> None:
        self._beside = beside
        self._digest = digest

    def of_bytes(self, view: memoryview) -> None:
        if self._digest is not None:
            self._beside.begin(partial(self._digest.update, view))

    def of_file(self, source: Source, offset: int, count: int) -> None:
        if self._digest is not None:
            self._beside.begin(partial(source.digest_range, self._digest, offset, count))


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
            if offer.offset:
                self._session.tell(going_on(self._path, offer.offset, source.size))
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
        """Send everything from `offset` on, frame by frame, each hashed while it is sent."""
        source = self._source
        send: Callable[[Connection, Call, int, _Hash], int]
        send = self._send_read if connection.encrypted else self._send_file
        with Beside() as beside:
            while offset < source.size and not call.done:
                offset += send(connection, call, offset, _Hash(beside, digest))
                beside.wait()
                source.check_unchanged()

    def _send_read(self, connection: Connection, call: Call, offset: int, hashing: _Hash) -> int:
        """Send a block from our memory; its length."""
        view = self._block[: self._source.size - offset]
        self._source.fill(view, offset)
        hashing.of_bytes(view)
        connection.send_data(call, view, self._moved)
        return len(view)

    def _send_file(self, connection: Connection, call: Call, offset: int, hashing: _Hash) -> int:
        """Let the kernel send a frame, which is read beside it for the digest; its length."""
        source = self._source
        count = min(_SENDFILE_FRAME, source.size - offset)
        hashing.of_file(source, offset, count)
        if not connection.send_file(call, source.fd, offset, count, self._moved):
            raise ChangedError(f"{printable(source.path)}: became shorter while it was sent")
        return count

    @cached_property
    def _block(self) -> memoryview:
        return memoryview(bytearray(min(BLOCK, self._source.size)))

    def _finish(self, connection: Connection, call: Call, digest: BlockDigest | None) -> Stored:
        if call.done:  # refused in the middle: the server waits for our LAST
            connection.send_last(call, {"abort": True})
            connection.wait(call)
            raise ProtocolError("the server answered an upload before its end")
        expected = None if digest is None else digest.hexdigest()
        connection.send_last(call, {} if expected is None else {"digest": expected})
        stored = decode(connection.wait(call).meta, Stored)
        verify(self._path, stored, self._source.size, expected)
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
