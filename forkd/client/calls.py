"""A request under way, and where the content of its answer goes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from forkd.client.errors import ClientError, LocalError
from forkd.client.pipe import Pipe


class Sink(ABC):
    """Takes the content of an answer."""

    pipe: Pipe | None = None
    """Where the kernel may move content to, without a copy: `spliced` tells how much it was."""

    def begin(self, _meta: bytes, /) -> None:
        """The first frame of the answer came."""
        return

    def frame(self, _meta: bytes, /) -> None:
        """A further frame begins, the last one (REPLY) excepted; its content follows."""
        return

    def room(self) -> memoryview | None:
        """Where to put the content that comes next, as much as fits.

        `data` is handed the filled part of it, which may be kept until `room` gives it out again.
        None: in a buffer of the connection.
        """
        return None

    def spliced(self, count: int, /) -> None:
        """So many bytes of content are in `pipe`, which must be empty after this."""
        raise NotImplementedError

    @abstractmethod
    def data(self, view: memoryview, meta: bytes, /) -> None:
        """A piece of the content; `meta` is that of its frame.  Unless it is from
        `room`, nothing may be kept of the view.
        """


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

    @property
    def pipe(self) -> Pipe | None:
        """Where the sink would have content spliced to."""
        return None if self.sink is None else self.sink.pipe

    def room(self) -> memoryview | None:
        """Where the sink would have content put."""
        return None if self.sink is None else self.sink.room()

    def spliced(self, count: int) -> None:
        """Tell the sink that content is in its pipe."""
        self._guard(lambda sink: sink.spliced(count))

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
