"""A file's content, handed on piece by piece: to standard output, a device, a FIFO, a function.

What was handed on cannot be taken back: after a break it goes on exactly where it was, and wrong
bytes are told at the end of the answer that brought them.
"""

from __future__ import annotations

from collections.abc import Callable

from forkd.client.answers import Head, Tail, decode
from forkd.client.calls import Sink
from forkd.client.connection import Connection
from forkd.client.errors import LocalError, printable
from forkd.client.events import Listener, Moved, Started
from forkd.client.session import Session
from forkd.digest import BlockDigest
from forkd.verbs import Get

Write = Callable[[memoryview], object]


class Copy(Sink):
    """One file: an action for `Session.run`, which repeats it after a break; answers its size."""

    def __init__(
        self, session: Session, path: str, write: Write, check: bool, listener: Listener
    ) -> None:
        self._session = session
        self._path = path
        self._write = write
        self._check = check
        self._listener = listener
        self._digest = BlockDigest()
        self._version: tuple[int, float] | None = None
        self._done = 0

    def __call__(self, connection: Connection) -> int:
        self._digest = BlockDigest()
        request = Get(path=self._path, offset=self._done, check=self._check)
        call = connection.call(request, sink=self)
        while not call.done and call.error is None:
            connection.pump()
        if call.error is not None:  # what is still to come of it is not waited for
            raise call.error
        if self._check and decode(call.meta, Tail).digest != self._digest.hexdigest():
            raise LocalError(
                f"{printable(self._path)}: bytes were changed on the way; what was written is wrong"
            )
        return self._done

    def begin(self, meta: bytes) -> None:
        head = decode(meta, Head)
        if self._version is None:
            self._listener(Started(self._path, head.size, 0))
        elif self._version != (head.size, head.mtime):
            raise LocalError(f"{printable(self._path)}: changed on the server while it was read")
        self._version = (head.size, head.mtime)

    def data(self, view: memoryview, _meta: bytes) -> None:
        self._write(view)
        if self._check:
            self._digest.update(view)
        self._done += len(view)
        self._session.progressed()
        self._listener(Moved(self._path, len(view)))
