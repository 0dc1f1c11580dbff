"""What the server has: one object, one folder, or folders as jobs of a pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from forkd.client.answers import decode
from forkd.client.calls import Call, Sink
from forkd.client.connection import Connection
from forkd.client.errors import ClientError, ProtocolError
from forkd.client.pipeline import Job
from forkd.verbs import Entry, List, Stat


class _Lines(Sink):
    """The sink of a listing: one JSON line for each entry."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._rest = bytearray()
        self._decoder = msgspec.json.Decoder(Entry)

    def data(self, view: memoryview, _meta: bytes) -> None:
        self._rest += view
        cut = self._rest.rfind(b"\n") + 1
        if cut:
            self._take(bytes(self._rest[:cut]))
            del self._rest[:cut]

    def end(self) -> list[Entry]:
        """All entries.  Raises ProtocolError."""
        self._take(bytes(self._rest))
        self._rest.clear()
        return self._entries

    def _take(self, lines: bytes) -> None:
        try:
            self._entries.extend(self._decoder.decode_lines(lines))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ProtocolError(f"the server's listing is malformed: {error}") from None


def stat_path(connection: Connection, path: str) -> Entry:
    """One file or folder.  Raises RemoteError (not-found, ...)."""
    return decode(connection.wait(connection.call(Stat(path=path))).meta, Entry)


def list_folder(connection: Connection, path: str) -> list[Entry]:
    """The entries of a folder, in no order.  Raises RemoteError (not-found, not-a-folder, ...)."""
    sink = _Lines()
    connection.wait(connection.call(List(path=path), sink=sink))
    return sink.end()


class ListJob:
    """Lists one folder; `found` gets the entries and says what to list because of them."""

    weight = 64 * 1024

    def __init__(
        self,
        path: str,
        found: Callable[[list[Entry]], Iterable[Job]],
        missing: Callable[[ClientError], None],
    ) -> None:
        self._path = path
        self._found = found
        self._missing = missing
        self._sink = _Lines()

    def start(self, connection: Connection) -> Call:
        self._sink = _Lines()
        return connection.call(List(path=self._path), sink=self._sink)

    def finish(self, _call: Call) -> Iterable[Job]:
        return self._found(self._sink.end())

    def fail(self, error: ClientError) -> None:
        self._missing(error)
