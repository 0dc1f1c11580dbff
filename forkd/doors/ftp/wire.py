"""The control connection: engine and transport.  Nothing waits here."""

from __future__ import annotations

from forkd.ftp.session import Conversation
from forkd.serving.transport import Transport

_READ = 4096
"""Bytes of commands in one go: who sends thousands at once shall not keep the others waiting."""


class ControlBroken(ConnectionError):  # noqa: N818 - see errors.Refusal
    """It is the control connection that broke, not one for data."""


class Wire:
    """Bytes in, bytes out; a None or False says when to park."""

    __slots__ = ("_buffer", "_rest", "drained", "talk", "transport")

    def __init__(self, transport: Transport, talk: Conversation, buffer: memoryview) -> None:
        """`buffer` is shared by all doors of the loop, and larger than what is read in one go."""
        self.transport = transport
        self.talk = talk
        self.drained = False
        """Nothing is there since it was looked: the last read took all, or found nothing."""
        self._buffer = buffer[:_READ]
        self._rest = b""

    @property
    def blocked(self) -> bool:
        """The client did not take all that was said."""
        return bool(self._rest)

    def flush(self) -> bool:
        """Send what waits; False when the client takes no more.  Raises ControlBroken."""
        if self.talk.has_output:
            self._rest += self.talk.take_output()
        while self._rest:
            try:
                count = self.transport.send(self._rest)
            except ConnectionError as error:
                raise ControlBroken(str(error)) from error
            if count is None:
                return False
            self._rest = self._rest[count:]
        return True

    def fill(self) -> int | None:
        """Read once into the engine: bytes, 0 at the client's end, None when nothing is there.

        Raises ControlBroken.
        """
        if self.drained or self.talk.full:
            return None
        try:
            count = self.transport.receive_into(self._buffer)
        except ConnectionError as error:
            raise ControlBroken(str(error)) from error
        if count:
            self.talk.receive(self._buffer[:count])
        took_all = self.transport.kernel and count is not None and 0 < count < len(self._buffer)
        self.drained = count is None or took_all
        return count
