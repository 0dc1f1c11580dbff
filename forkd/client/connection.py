"""One connection: requests out, answers in, matched by id.

Rules
  1. `call` queues a request and returns at once; `wait` (or `pump` in a loop) moves bytes in both
     directions until the answer is there.  Nothing ever waits to write without reading.
  2. The content of an answer goes to the call's sink as it comes, piece by piece, never as a whole.
     A sink that fails spoils its own call; what still comes for it is thrown away.
  3. An ERROR with id 0 is about the connection.  After it, and after LostError, every call
     that has no answer yet has none for ever, and the connection is of no more use.
  4. After the notice going-away (`leaving`) no new request should be made here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from forkd.client.answers import News, Welcome, decode
from forkd.client.calls import Call, Sink
from forkd.client.errors import (
    ClientError,
    LocalError,
    LostError,
    ProtocolError,
    RemoteError,
    remote_error,
)
from forkd.client.pipe import Pipe
from forkd.client.wire import Wire
from forkd.errors import FrameError
from forkd.protocol import INLINE_MAX, LAST, DataHead, Engine, Message, Role, Type, frame, head
from forkd.verbs import ErrorMeta, Hello, Request

_READ_SIZE = 256 * 1024
_READ_TURN = 2 << 20  # then it is the writer's turn
_WRITE_TURN = 2 << 20
_JOIN_BELOW = 64 * 1024

Moved = Callable[[int], None]
"""Told how many more bytes of a content went."""


class Connection:
    """Speaks the protocol over a wire.  For one thread; only `interrupt` is for others."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._engine = Engine(Role.CLIENT)
        self._calls: dict[int, Call] = {}
        self._out: deque[memoryview] = deque()
        self._tail = bytearray()
        self._queued = 0
        self._next_id = 1
        self._passing: DataHead | None = None
        self._buffer = memoryview(bytearray(_READ_SIZE))
        self.session = ""
        self.leaving = False
        self.lost = False
        """After a failure of the connection itself: make a new one."""

    @property
    def encrypted(self) -> bool:
        """Whether the connection is in TLS."""
        return self._wire.encrypted

    @property
    def queued(self) -> int:
        """Bytes that wait to be written."""
        return self._queued

    @property
    def busy(self) -> bool:
        """Whether calls wait for their answers."""
        return bool(self._calls)

    def greet(self, agent: str) -> Welcome:
        """Say hello.  Raises RemoteError, LostError, ProtocolError."""
        call = self.call(Hello(versions=[1], agent=agent))
        welcome = decode(self.wait(call).meta, Welcome)
        if welcome.version != 1:
            raise ProtocolError(
                f"the server chose version {welcome.version}, which was not offered"
            )
        self.session = welcome.session
        return welcome

    # requests

    def call(self, request: Request, payload: bytes = b"", sink: Sink | None = None) -> Call:
        """Queue a request; `payload` is at most INLINE_MAX bytes.  Raises LocalError."""
        assert len(payload) <= INLINE_MAX
        ident = self._next_id
        try:
            self._queue(frame(Type.REQUEST, ident, request, payload))
        except FrameError as error:
            raise LocalError(f"the request is too long: {error.message}") from None
        self._next_id = ident % 0xFFFFFFFF + 1
        call = self._calls[ident] = Call(ident, sink)
        return call

    def wait(self, call: Call) -> Call:
        """Wait for a call's answer.  Raises what went wrong with it."""
        while not call.done:
            self.pump()
        if call.error is not None:
            raise call.error
        return call

    def wait_interim(self, call: Call) -> bytes:
        """Wait until the server is ready for a stream; its INTERIM's meta.  Raises as `wait`."""
        while call.interim is None and not call.done:
            self.pump()
        if call.error is not None:
            raise call.error
        if call.interim is None:
            raise ProtocolError("the server answered a stream's begin with its end")
        return call.interim

    # the content of a streamed upload

    def send_data(self, call: Call, view: memoryview, moved: Moved) -> None:
        """Send one DATA frame; returns when the system has taken it whole."""
        self._queue(head(Type.DATA, call.id, None, len(view)))
        self._flush_tail()
        self._out.append(view)
        self._queued += len(view)
        left = len(view)
        while self._queued:
            self.pump()
            if self._queued < left:
                moved(left - self._queued)
                left = self._queued

    def send_file(self, call: Call, fd: int, offset: int, count: int, moved: Moved) -> bool:
        """Send one DATA frame of `count` bytes of a file without copying (plain sockets only).

        False: the file ended before; the frame is cut, and the connection of no more use.
        """
        self._queue(head(Type.DATA, call.id, None, count))
        while self._queued:
            self.pump()
        end = offset + count
        while offset < end:
            sent = self._sendfile(fd, offset, end - offset)
            if sent == 0:
                self.lost = True
                return False
            if sent is None:
                readable, _ = self._wait(write=True)
                if readable:
                    self._read()
            else:
                offset += sent
                moved(sent)
        return True

    def send_last(self, call: Call, meta: dict[str, object]) -> None:
        """Queue the end of a stream."""
        self._queue(frame(Type.DATA, call.id, meta, flags=LAST))

    # moving bytes

    def pump(self) -> None:
        """Wait until something can move, and move a bounded amount."""
        readable, writable = self._wait(write=bool(self._queued))
        if readable:
            self._read()
        if writable and self._queued:
            self._write()

    def look(self) -> ClientError | None:
        """Take in what came while nobody waited for anything: news, or what ended the connection.

        It has ended when `lost` says so.
        """
        try:
            self._read()
        except ClientError as error:
            return error
        return None

    def interrupt(self) -> None:
        """End it from another thread."""
        self._wire.interrupt()

    def close(self) -> None:
        """Close the socket; calls without an answer stay without one."""
        self.lost = True
        self._wire.close()

    def _wait(self, *, write: bool) -> tuple[bool, bool]:
        try:
            return self._wire.wait(write=write)
        except LostError:
            self.lost = True
            raise

    def _queue(self, data: bytes) -> None:
        if len(data) < _JOIN_BELOW:
            self._tail += data
            if len(self._tail) >= _JOIN_BELOW:
                self._flush_tail()
        else:
            self._flush_tail()
            self._out.append(memoryview(data))
        self._queued += len(data)

    def _flush_tail(self) -> None:
        if self._tail:
            self._out.append(memoryview(self._tail))
            self._tail = bytearray()

    def _write(self) -> None:
        self._flush_tail()
        turn = 0
        try:
            while self._out and turn < _WRITE_TURN:
                sent = self._wire.send(self._out)
                if not sent:
                    return
                turn += sent
                self._sent(sent)
        except LostError as error:
            raise self._farewell(error) from None

    def _sendfile(self, fd: int, offset: int, count: int) -> int | None:
        try:
            return self._wire.sendfile(fd, offset, count)
        except LostError as error:
            raise self._farewell(error) from None

    def _sent(self, count: int) -> None:
        self._queued -= count
        while count:
            first = self._out[0]
            if count < len(first):
                self._out[0] = first[count:]
                return
            count -= len(first)
            self._out.popleft()

    def _farewell(self, error: LostError) -> LostError:
        """A server that closes says why before; that is worth more than "broken pipe"."""
        self.lost = True
        try:
            while self._read_once():
                pass
        except LostError:
            pass
        return self._loss(error)

    def _loss(self, error: LostError) -> LostError:
        if not self.leaving:
            return error
        return LostError("the server's process was replaced", carried_out=False)

    def _read(self) -> None:
        turn = 0
        try:
            while turn < _READ_TURN:
                count = self._read_once()
                if not count:
                    return
                turn += count
        except LostError as error:
            self.lost = True
            raise self._loss(error) from None
        except ClientError:
            self.lost = True
            raise

    def _read_once(self) -> int:
        left = self._engine.payload_left
        if left and not self._engine.buffered:
            assert self._passing is not None
            call = self._call_of(self._passing.id)
            if call.pipe is not None and not self._wire.encrypted:
                return self._splice_payload(call, call.pipe, left)
            return self._read_payload(call, self._passing.meta, left)
        count = self._wire.receive(self._buffer)
        if count is None:
            return 0
        self._engine.receive(self._buffer[:count])
        self._dispatch()
        return count

    def _splice_payload(self, call: Call, pipe: Pipe, left: int) -> int:
        count = self._wire.splice(pipe.into, min(left, pipe.size))
        if count is None:
            return 0
        self._engine.bypass(count)
        call.spliced(count)
        return count

    def _read_payload(self, call: Call, meta: bytes, left: int) -> int:
        """Fill a buffer as far as it goes, past the engine: TLS hands out small pieces."""
        buffer = call.room() or self._buffer
        want = min(left, len(buffer))
        have = 0
        try:
            while have < want:
                count = self._wire.receive(buffer[have:want])
                if count is None:
                    break
                have += count
        finally:
            if have:
                self._engine.bypass(have)
                call.data(buffer[:have], meta)
        return have

    def _dispatch(self) -> None:
        try:
            while True:
                if self._engine.payload_left:
                    piece = self._engine.take(_READ_SIZE)
                    if not piece:
                        return
                    self._deliver(memoryview(piece))
                    continue
                event = self._engine.next_event()
                if event is None:
                    return
                if isinstance(event, DataHead):
                    self._passing = event
                    self._call_of(event.id).begin(event.meta)
                else:
                    self._message(event)
        except FrameError as error:
            raise ProtocolError(f"what came is not the forkd protocol: {error.message}") from None

    def _deliver(self, view: memoryview) -> None:
        assert self._passing is not None
        self._call_of(self._passing.id).data(view, self._passing.meta)

    def _message(self, message: Message) -> None:
        if message.type is Type.NOTICE:
            if decode(message.meta, News).notice == "going-away":
                self.leaving = True
            return
        if message.type is Type.ERROR:
            error = remote_error(decode(message.meta, ErrorMeta), self.session)
            if message.id == 0:
                raise self._end_of_connection(error)
            self._finish(message, error)
            return
        call = self._call_of(message.id)
        if message.type is Type.REPLY:
            call.end(message.meta)
        else:
            call.begin(message.meta)
        if message.payload:
            call.data(memoryview(message.payload), message.meta)
        if message.type is Type.REPLY:
            self._finish(message, None)
        elif call.interim is None:
            call.interim = message.meta

    def _finish(self, message: Message, error: RemoteError | None) -> None:
        call = self._call_of(message.id)
        del self._calls[message.id]
        call.meta = message.meta
        call.error = call.error or error
        call.done = True

    def _end_of_connection(self, error: RemoteError) -> ClientError:
        self.lost = True
        if error.code == "going-away":
            self.leaving = True
        if error.code == "too-many":
            return error  # before anything was asked for
        if error.repeatable:
            return LostError(
                f"the server ended the connection: {error}", carried_out=error.code != "going-away"
            )
        return error

    def _call_of(self, ident: int) -> Call:
        call = self._calls.get(ident)
        if call is None:
            raise ProtocolError(f"an answer came to a request that was not made (id {ident})")
        return call
