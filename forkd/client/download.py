"""Downloads: small files pipelined, bigger ones in ranges that are proved one by one.

A big file is asked for in ranges, a few at a time, so that the line never idles.  Every range
carries the file's size and mtime: if they change, another version is there and the download starts
again.  With `check`, every range has a digest; what is verified is what a resume builds upon.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from forkd.client.answers import Head, Tail, decode
from forkd.client.calls import Call
from forkd.client.connection import Connection
from forkd.client.errors import ClientError, ProtocolError, RemoteError, VerifyError, printable
from forkd.client.events import Finished, Moved, Note, Started
from forkd.client.partfile import PartFile, write_small
from forkd.client.pipeline import Job
from forkd.client.session import Session
from forkd.client.upload import Report, failure
from forkd.digest import BlockDigest, digest_of
from forkd.protocol import INLINE_MAX
from forkd.verbs import Get

RANGE = 16 << 20
_DEPTH = 4
_HASH_ALONE = 64 * 1024


class _OtherVersionError(ClientError):
    """The remote file is not the one whose beginning we hold."""


class _Range:
    """The sink of one range: bounded, written in place, hashed while it is written."""

    def __init__(self, fetch: Fetch, offset: int, length: int) -> None:
        self._fetch = fetch
        self._offset = offset
        self._limit = offset + length
        self._digest = BlockDigest()
        self.end = offset

    def begin(self, meta: bytes) -> None:
        head = decode(meta, Head)
        if head.offset != self._offset or head.length > self._limit - self._offset:
            raise ProtocolError("the server sends another range than was asked for")
        self._fetch.met(head)
        self._limit = head.offset + head.length
        if self._limit != min(head.size, self._limit):
            raise ProtocolError("the server sends a range beyond the file's end")

    def data(self, view: memoryview, _meta: bytes) -> None:
        if self.end + len(view) > self._limit:
            raise ProtocolError("the server sends more than it said")
        if not self._fetch.check:
            self._fetch.part.write(view, self.end)
        elif len(view) < _HASH_ALONE:
            self._digest.update(view)
            self._fetch.part.write(view, self.end)
        else:
            hashing = self._fetch.helper.submit(self._digest.update, view)
            self._fetch.part.write(view, self.end)
            hashing.result()
        self.end += len(view)
        self._fetch.moved(len(view))

    def verify(self, meta: bytes) -> None:
        """The range is over.  Raises VerifyError when it is not what the server read."""
        if self.end != self._limit:
            raise VerifyError(f"{self._fetch.shown}: the server sent less than it said")
        if self._fetch.check and decode(meta, Tail).digest != self._digest.hexdigest():
            raise VerifyError(f"{self._fetch.shown}: bytes were changed on the way")


class Fetch:
    """One file in ranges: an action for `Session.run`, which repeats it after a break."""

    def __init__(self, session: Session, path: str, part: PartFile, check: bool) -> None:
        self.part = part
        self.check = check
        self.shown = printable(path)
        self.helper: ThreadPoolExecutor
        self._session = session
        self._path = path
        self._met: tuple[int, float] | None = None

    def __call__(self, connection: Connection) -> int:
        """Fetch what is missing; the file's size in bytes."""
        with ThreadPoolExecutor(1) as self.helper:
            try:
                return self._fetch(connection)
            except _OtherVersionError:
                pass
            except RemoteError as error:
                if error.code != "bad-range" or not self.part.verified:
                    raise
            # the ranges still under way belong to the old version: their answers are thrown away
            connection.discard()
            self._session.tell(
                Note(f"{self.shown}: it changed on the server; starting again from 0")
            )
            self.part.verified = 0
            return self._fetch(connection)

    def met(self, head: Head) -> None:
        """A range's head came: it must be of the version that the others are of."""
        version = (head.size, head.mtime)
        if self._met == version:
            return
        if self._met is not None or (
            self.part.verified and version != (self.part.size, self.part.mtime)
        ):
            raise _OtherVersionError
        self._met = version
        self.part.adopt(*version)
        self._session.tell(Started(self._path, head.size, self.part.verified))

    def moved(self, count: int) -> None:
        """Bytes came."""
        self._session.progressed()
        self._session.tell(Moved(self._path, count))

    def _fetch(self, connection: Connection) -> int:
        self._met = None
        flight: deque[tuple[_Range, Call]] = deque()
        ahead = self.part.verified
        while True:
            while self._may_ask(len(flight), ahead):
                sink = _Range(self, ahead, RANGE)
                request = Get(path=self._path, offset=ahead, length=RANGE, check=self.check)
                flight.append((sink, connection.call(request, sink=sink)))
                ahead += RANGE
            if not flight:
                break
            try:
                connection.pump()
            finally:
                self._settle(flight)
        if self.part.verified != self.part.size:
            raise VerifyError(f"{self.shown}: it is not as long as the server said")
        return self.part.verified

    def _settle(self, flight: deque[tuple[_Range, Call]]) -> None:
        """Count in what is complete, also when the connection was lost right after it."""
        while flight and (flight[0][1].done or flight[0][1].error is not None):
            sink, call = flight.popleft()
            if call.error is not None:
                raise call.error
            sink.verify(call.meta)
            self.part.advance(sink.end)

    def _may_ask(self, under_way: int, ahead: int) -> bool:
        """Whether to ask for another range: before the first head came, only for the first one."""
        if self._met is None:
            return under_way == 0
        return under_way < _DEPTH and ahead < self._met[0]


class _Collect:
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
