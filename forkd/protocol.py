"""The native wire engine, sans-IO.  docs/protocol.md is its contract; this is its grammar.

Rules
  1. A connection is a sequence of frames: a header of 16 bytes, `meta` (a JSON object, at most
     META_MAX bytes), then exactly the announced number of payload bytes.
  2. Every frame but DATA is small (payload <= INLINE_MAX) and is handed over whole.  The payload
     of DATA (<= DATA_MAX) is handed over as it comes, so that the kernel may move it around the
     engine: whoever moves bytes outside says so with `bypass`.
  3. While a payload passes, there is no next event.  A broken frame ends the engine, and so does
     whoever finds that frames make no sense (`stop`): every later call raises the same error.

State of the engine, by what the next byte is:

    HEAD --16 bytes + meta--> (whole payload) --> Message ......... HEAD
    HEAD --16 bytes + meta--> DataHead --> BODY --payload_left = 0--> HEAD
    any  --violation, stop--> BROKEN
"""

from __future__ import annotations

import struct
from enum import IntEnum

import msgspec

from forkd.errors import FrameError

VERSION = 1
HEADER = struct.Struct("!BBHIQ")  # type, flags, meta length, request id, payload length
META_MAX = 16 * 1024
INLINE_MAX = 1024 * 1024
DATA_MAX = 1 << 30
BLOCK = 4 * 1024 * 1024  # digest block, see docs/protocol.md "Digests"

LAST = 0x01  # flag on a client's DATA frame: the upload ends here


class Type(IntEnum):
    """What a frame is.  The high nibble tells the protocol from TLS and text protocols."""

    REQUEST = 0xF1
    DATA = 0xF2
    INTERIM = 0xF3
    REPLY = 0xF4
    ERROR = 0xF5
    NOTICE = 0xF6


FIRST_BYTES = frozenset(Type)
_TYPES = {int(t): t for t in Type}
_FROM_CLIENT = frozenset({Type.REQUEST, Type.DATA})
_FROM_SERVER = frozenset({Type.DATA, Type.INTERIM, Type.REPLY, Type.ERROR, Type.NOTICE})


class Role(IntEnum):
    """Which side of the connection this engine is."""

    SERVER = 0
    CLIENT = 1


class Message(msgspec.Struct, frozen=True, gc=False):
    """A whole frame of any type but DATA."""

    type: Type
    id: int
    meta: bytes
    payload: bytes


class DataHead(msgspec.Struct, frozen=True, gc=False):
    """The head of a DATA frame; `length` payload bytes follow through `take` or `bypass`."""

    id: int
    last: bool
    meta: bytes
    length: int


Event = Message | DataHead


class Engine:
    """Cuts a byte stream into events.  Feed it with `receive`, ask `next_event` until None."""

    __slots__ = (
        "_accepts",
        "_broken",
        "_buffer",
        "_data_flags",
        "_offset",
        "inline_max",
        "payload_left",
    )

    def __init__(self, role: Role) -> None:
        self._accepts = _FROM_CLIENT if role is Role.SERVER else _FROM_SERVER
        self._data_flags = LAST if role is Role.SERVER else 0
        self._buffer = bytearray()
        self._offset = 0
        self._broken: FrameError | None = None
        self.inline_max = INLINE_MAX
        """Payload bytes of a frame that is handed over whole; less for a stranger."""
        self.payload_left = 0
        """Bytes of the passing DATA payload that have not been taken or bypassed."""

    @property
    def buffered(self) -> int:
        """Bytes received and not yet handed over."""
        return len(self._buffer) - self._offset

    def receive(self, data: bytes | bytearray | memoryview) -> None:
        """Add bytes that came from the peer."""
        if self._offset:
            del self._buffer[: self._offset]
            self._offset = 0
        self._buffer += data

    def next_event(self) -> Event | None:
        """The next whole event, or None when more bytes are needed.  Raises FrameError."""
        if self._broken is not None:
            raise self._broken
        if self.payload_left:
            return None
        try:
            return self._parse()
        except FrameError as error:
            self._broken = error
            raise

    def take(self, limit: int) -> bytes:
        """At most `limit` buffered bytes of the passing payload; b'' when none is buffered."""
        count = min(limit, self.payload_left, self.buffered)
        if not count:
            return b""
        chunk = bytes(memoryview(self._buffer)[self._offset : self._offset + count])
        self._advance(count)
        self.payload_left -= count
        return chunk

    def bypass(self, count: int) -> None:
        """Note that `count` payload bytes were moved from the socket without `receive`."""
        if self.buffered or not 0 <= count <= self.payload_left:
            raise AssertionError("bypass beyond the payload or past buffered bytes")
        self.payload_left -= count

    def stop(self, error: FrameError) -> None:
        """Read no further: what follows makes no sense.  The first error counts."""
        self._broken = self._broken or error
        self.payload_left = 0
        self.discard()

    def discard(self) -> None:
        """Drop what is buffered; for a connection that is being closed."""
        self._advance(self.buffered)

    def _advance(self, count: int) -> None:
        self._offset += count
        if self._offset == len(self._buffer):
            self._buffer = bytearray()  # an idle session holds no buffer
            self._offset = 0

    def _parse(self) -> Event | None:
        have = self.buffered
        if have and self._buffer[self._offset] not in FIRST_BYTES:
            raise FrameError("this is not the forkd protocol: the first byte is no frame type")
        if have < HEADER.size:
            return None
        kind, flags, meta_len, ident, length = HEADER.unpack_from(self._buffer, self._offset)
        frame_type = self._check_head(kind, flags, meta_len, length)
        body = self._offset + HEADER.size
        if frame_type is Type.DATA:
            if have < HEADER.size + meta_len:
                return None
            meta = bytes(self._buffer[body : body + meta_len])
            self._advance(HEADER.size + meta_len)
            self.payload_left = length
            return DataHead(ident, bool(flags & LAST), meta, length)
        whole = HEADER.size + meta_len + length
        if have < whole:
            return None
        content = body + meta_len
        with memoryview(self._buffer) as view:
            meta = bytes(view[body:content])
            payload = bytes(view[content : content + length]) if length else b""
        self._advance(whole)
        return Message(frame_type, ident, meta, payload)

    def _check_head(self, kind: int, flags: int, meta_len: int, length: int) -> Type:
        frame_type = _TYPES.get(kind)
        if frame_type is None:
            raise FrameError("this is not the forkd protocol: the first byte is no frame type")
        if frame_type not in self._accepts:
            raise FrameError(f"a {frame_type.name} frame does not come from this side")
        if flags & ~(self._data_flags if frame_type is Type.DATA else 0):
            raise FrameError(f"unknown flags {flags:#04x} on a {frame_type.name} frame")
        if meta_len > META_MAX:
            raise FrameError(f"meta of {meta_len} bytes; at most {META_MAX} are allowed")
        most = DATA_MAX if frame_type is Type.DATA else self.inline_max
        if length > most:
            raise FrameError(
                f"a {frame_type.name} payload of {length} bytes; at most {most} are allowed"
            )
        return frame_type


_encode = msgspec.json.Encoder().encode


def frame(
    frame_type: Type,
    ident: int,
    meta: object = None,
    payload: bytes | memoryview = b"",
    *,
    flags: int = 0,
) -> bytes:
    """One whole frame.  `meta` is anything that encodes to a JSON object; None sends no meta.

    Raises FrameError when the meta is too long for a frame.
    """
    return head(frame_type, ident, meta, len(payload), flags=flags) + payload


def head(
    frame_type: Type, ident: int, meta: object = None, length: int = 0, *, flags: int = 0
) -> bytes:
    """The head of a frame whose `length` payload bytes are sent after it.  Raises FrameError."""
    body = b"" if meta is None else _encode(meta)
    if len(body) > META_MAX:
        raise FrameError(f"meta of {len(body)} bytes; at most {META_MAX} are allowed")
    return HEADER.pack(frame_type, flags, len(body), ident, length) + body


def decode_meta(meta: bytes) -> dict[str, object]:
    """The JSON object of a frame; an empty meta is {}.  Raises FrameError."""
    if not meta:
        return {}
    try:
        decoded = msgspec.json.decode(meta)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise FrameError(f"meta is not JSON: {error}") from None
    if not isinstance(decoded, dict):
        raise FrameError("meta is not a JSON object")
    return decoded
