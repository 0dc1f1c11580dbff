"""Downloads: small files pipelined, each bigger one by a get of its own.

A get asks for everything that is missing.  Its head carries the file's size and mtime: if they are
others than those of what is held, another version is there and the download starts again.  With
`check`, the server tells the digests of whole blocks on the way, and that of the whole answer at
its end; what is verified is what a resume builds upon.  A server that tells no blocks is believed
at the end only.  Without `check`, what came counts as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from types import TracebackType

from forkd.client.answers import Head, Tail, Told, decode
from forkd.client.beside import Beside
from forkd.client.calls import Call, Sink
from forkd.client.connection import Connection
from forkd.client.errors import ClientError, ProtocolError, RemoteError, VerifyError, printable
from forkd.client.events import Finished, Moved, Note, Started, going_on
from forkd.client.partfile import PartFile, write_small
from forkd.client.pipe import Pipe
from forkd.client.pipeline import Job
from forkd.client.session import Session
from forkd.client.upload import Report, failure
from forkd.digest import DIGEST_SIZE, BlockDigest, digest_of
from forkd.protocol import BLOCK, INLINE_MAX
from forkd.verbs import Get

_ROOM = 1 << 20


class _OtherVersionError(ClientError):
    """The remote file is not the one whose beginning we hold."""


class _Answer(Sink):
    """The sink of one get: bounded, written in place, hashed beside, proved block by block.

    With `check` there are two buffers: one is hashed while the other is filled.  Without, the
    content need not come into our memory at all.
    """

    def __init__(self, fetch: Fetch, offset: int) -> None:
        self._fetch = fetch
        self._offset = offset
        self._limit = offset
        self._digest = BlockDigest()
        self._proved = 0
        self._hashing = Beside()
        self._rooms: list[memoryview] = []
        self.end = offset

    def __enter__(self) -> _Answer:
        if not self._fetch.check:
            self.pipe = Pipe()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._hashing.__exit__(kind, error, trace)
        if self.pipe is not None:
            self.pipe.close()

    def begin(self, meta: bytes) -> None:
        head = decode(meta, Head)
        if head.offset != self._offset or head.offset + head.length != head.size:
            raise ProtocolError("the server sends another range than was asked for")
        self._fetch.met(head)
        self._limit = head.size

    def frame(self, meta: bytes) -> None:
        if meta and self._fetch.check:
            self._prove(decode(meta, Told).blocks)

    def data(self, view: memoryview, _meta: bytes) -> None:
        self._bound(len(view))
        if self._fetch.check:
            self._hash(view)
        self._fetch.part.write(view, self.end)
        self._came(len(view))

    def spliced(self, count: int) -> None:
        assert self.pipe is not None
        self._bound(count)
        self._fetch.part.write_from(self.pipe, count, self.end)
        self._came(count)

    def room(self) -> memoryview | None:
        if not self._fetch.check:
            return None
        if not self._rooms:
            size = min(_ROOM, self._limit - self._offset)
            self._rooms = [memoryview(bytearray(size)) for _ in range(2)]
        return self._rooms[0]

    def _hash(self, view: memoryview) -> None:
        if self._rooms and view.obj is self._rooms[0].obj:
            self._hashing.begin(partial(self._digest.update, view))
            self._rooms.reverse()
        else:  # a view that is valid now only
            self._hashing.wait()
            self._digest.update(view)

    def _bound(self, count: int) -> None:
        if self.end + count > self._limit:
            raise ProtocolError("the server sends more than it said")

    def _came(self, count: int) -> None:
        self.end += count
        self._fetch.moved(count)
        if not self._fetch.check:
            self._fetch.proved(self.end // BLOCK * BLOCK)

    def verify(self, meta: bytes) -> None:
        """The answer is over.  Raises VerifyError when it is not what the server read."""
        if self.end != self._limit:
            raise VerifyError(f"{self._fetch.shown}: the server sent less than it said")
        self._hashing.wait()
        if self._fetch.check:
            tail = decode(meta, Tail)
            self._prove(tail.blocks)
            if tail.digest != self._digest.hexdigest():
                raise self._wrong()
        self._fetch.proved(self.end)

    def _prove(self, told: str) -> None:
        """Compare the digests that the server tells with our own."""
        try:
            blocks = bytes.fromhex(told)
        except ValueError:
            raise ProtocolError("the server tells digests that are none") from None
        self._hashing.wait()
        ours = self._digest.blocks_after(self._proved)
        if len(blocks) % DIGEST_SIZE or len(blocks) > len(ours):
            raise ProtocolError("the server tells digests of blocks that it has not sent")
        for at in range(0, len(blocks), DIGEST_SIZE):
            if blocks[at : at + DIGEST_SIZE] != ours[at : at + DIGEST_SIZE]:
                raise self._wrong()
            self._proved += 1
            self._fetch.proved(self._offset + self._proved * BLOCK)

    def _wrong(self) -> VerifyError:
        return VerifyError(f"{self._fetch.shown}: bytes were changed on the way")


class Fetch:
    """One file: an action for `Session.run`, which repeats it after a break."""

    def __init__(self, session: Session, path: str, part: PartFile, check: bool) -> None:
        self.part = part
        self.check = check
        self.shown = printable(path)
        self._session = session
        self._path = path

    def __call__(self, connection: Connection) -> int:
        """Fetch what is missing; the file's size in bytes."""
        try:
            return self._fetch(connection)
        except _OtherVersionError:
            pass
        except RemoteError as error:
            if error.code != "bad-range" or not self.part.verified:
                raise
        self._session.tell(Note(f"{self.shown}: it changed on the server; starting again from 0"))
        self.part.verified = 0
        self._session.recover()  # what still comes belongs to the end of the new version
        return self._fetch(self._session.connection())

    def met(self, head: Head) -> None:
        """The answer's head came: it must be of the version whose beginning we hold."""
        version = (head.size, head.mtime)
        if self.part.verified and version != (self.part.size, self.part.mtime):
            raise _OtherVersionError
        self.part.adopt(*version)
        self._session.tell(Started(self._path, head.size, self.part.verified))
        if self.part.verified:
            self._session.tell(going_on(self._path, self.part.verified, head.size))

    def moved(self, count: int) -> None:
        """Bytes came."""
        self._session.tell(Moved(self._path, count))

    def proved(self, end: int) -> None:
        """Everything up to `end` need not be fetched again."""
        if end > self.part.verified:
            self._session.progressed()
            self.part.advance(end)

    def _fetch(self, connection: Connection) -> int:
        offset = self.part.verified
        request = Get(path=self._path, offset=offset, check=self.check)
        with _Answer(self, offset) as answer:
            call = connection.call(request, sink=answer)
            while not call.done and call.error is None:
                connection.pump()
            if call.error is not None:  # what is still to come of it is not waited for
                raise call.error
            answer.verify(call.meta)
        return self.part.verified


class _Collect(Sink):
    """The sink of a small file."""

    def __init__(self) -> None:
        self.head: Head | None = None
        self.content = bytearray()

    def begin(self, meta: bytes) -> None:
        self.head = decode(meta, Head)

    def data(self, view: memoryview, _meta: bytes) -> None:
        if len(self.content) + len(view) > INLINE_MAX:
            raise ProtocolError("the server sends more than was asked for")
        self.content += view


class SmallDownload:
    """A file that was small when it was listed.  `bigger` takes it over when it is not any more."""

    def __init__(
        self,
        path: str,
        local: str,
        weight: int,
        check: bool,
        report: Report,
        bigger: Callable[[], None],
    ) -> None:
        self._path = path
        self._local = local
        self._check = check
        self._report = report
        self._bigger = bigger
        self._sink = _Collect()
        self.weight = weight

    def start(self, connection: Connection) -> Call:
        self._sink = _Collect()
        request = Get(path=self._path, length=INLINE_MAX, check=self._check)
        return connection.call(request, sink=self._sink)

    def finish(self, call: Call) -> Iterable[Job]:
        head, content = self._sink.head, self._sink.content
        if head is None:
            raise ProtocolError("the server answered a download without saying of what")
        if head.size > INLINE_MAX:
            self._bigger()
            return ()
        digest = digest_of(content) if self._check else ""
        if len(content) != head.size or (self._check and decode(call.meta, Tail).digest != digest):
            raise VerifyError(f"{printable(self._path)}: bytes were changed on the way")
        write_small(self._local, content, head.mtime)
        self._report(Finished(self._path, len(content), digest), None)
        return ()

    def fail(self, error: ClientError) -> None:
        self._report(failure(self._path, self.weight, error), error)
