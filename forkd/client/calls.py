"""A request under way, and where the content of its answer goes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from forkd.client.errors import ClientError, LocalError


class Sink(ABC):
    """Takes the content of an answer."""

    def begin(self, _meta: bytes, /) -> None:
        """The first frame of the answer came."""
        return

    def frame(self, _meta: bytes, /) -> None:
        """A further frame begins, the last one (REPLY) excepted; its content follows."""
        return

    @abstractmethod
    def data(self, view: memoryview, meta: bytes, /) -> None:
        """A piece of the content; `meta` is that of its frame.  Nothing may be kept of the view."""


class Call:
    """A request under way.  `meta` is that of its REPLY, `interim` that of its first INTERIM."""

    __slots__ = ("begun", "done", "error", "id", "interim", "meta", "sink")

    def __init__(self, ident: int, sink: Sink | None) -> None:
        self.id = ident
        self.sink = sink
        self.begun = False
        self.interim: bytes | None = None
        self.meta = b""
        self.error: ClientError | None = None
        self.done = False

    def begin(self, meta: bytes) -> None:
        """Note a frame of the answer."""
        if self.begun:
            self._guard(lambda sink: sink.frame(meta))
            return
        self.begun = True
        self._guard(lambda sink: sink.begin(meta))

    def end(self, meta: bytes) -> None:
        """Note the last frame of the answer."""
        if not self.begun:
            self.begin(meta)

    def data(self, view: memoryview, meta: bytes) -> None:
        """Hand a piece of the content to the sink."""
        self._guard(lambda sink: sink.data(view, meta))

    def _guard(self, action: Callable[[Sink], None]) -> None:
        if self.sink is None:
            return
        try:
            action(self.sink)
        except ClientError as error:
            self.error, self.sink = error, None
        except OSError as error:
            self.error, self.sink = LocalError(error.strerror or str(error)), None
