"""The wire engine: golden streams, every way to cut them, and any bytes at all."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forkd.errors import FrameError
from forkd.protocol import (
    DATA_MAX,
    FIRST_BYTES,
    HEADER,
    INLINE_MAX,
    LAST,
    META_MAX,
    DataHead,
    Engine,
    Message,
    Role,
    Type,
    decode_meta,
    frame,
    head,
)

GOLDEN: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "golden" / "frames.json").read_text()
)
golden = pytest.mark.parametrize("case", GOLDEN, ids=[case["name"] for case in GOLDEN])


def read(engine: Engine, chunks: Iterable[bytes]) -> tuple[list[dict[str, Any]], str]:
    """The events of a stream in the form of the golden file, and the error that ended it."""
    found: list[dict[str, Any]] = []
    try:
        for chunk in chunks:
            engine.receive(chunk)
            _take_events(engine, found)
    except FrameError as error:
        return found, error.message
    return found, ""


def _take_events(engine: Engine, found: list[dict[str, Any]]) -> None:
    while True:
        while part := engine.take(1 << 20):
            found[-1]["payload"] += part.decode("latin-1")
        event = engine.next_event()
        if event is None:
            return
        found.append(_told(event))


def _told(event: Message | DataHead) -> dict[str, Any]:
    if isinstance(event, Message):
        return {
            "event": "message",
            "type": event.type.name,
            "id": event.id,
            "meta": event.meta.decode("latin-1"),
            "payload": event.payload.decode("latin-1"),
        }
    meta = event.meta.decode("latin-1")
    return {"event": "data", "id": event.id, "last": event.last, "meta": meta, "payload": ""}


def _engine(case: dict[str, Any]) -> Engine:
    return Engine(Role[case["reader"].upper()])


def _bytes(case: dict[str, Any]) -> bytes:
    return bytes.fromhex("".join(case["bytes"]))


@golden
def test_golden(case: dict[str, Any]) -> None:
    events, error = read(_engine(case), [_bytes(case)])
    assert events == case["events"]
    assert bool(error) == ("error" in case)
    assert case.get("error", "") in error


@golden
def test_every_cut_in_two_reads_the_same(case: dict[str, Any]) -> None:
    stream = _bytes(case)
    whole = read(_engine(case), [stream])
    for at in range(1, len(stream)):
        assert read(_engine(case), [stream[:at], stream[at:]]) == whole, at


@golden
def test_byte_by_byte_reads_the_same(case: dict[str, Any]) -> None:
    stream = _bytes(case)
    whole = read(_engine(case), [stream])
    assert read(_engine(case), (bytes([byte]) for byte in stream)) == whole


_sent = st.one_of(
    st.builds(
        lambda ident, meta, payload: frame(Type.REQUEST, ident, meta, payload),
        st.integers(0, 2**32 - 1),
        st.none() | st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
        st.binary(max_size=40),
    ),
    st.builds(
        lambda ident, flags, payload: frame(Type.DATA, ident, None, payload, flags=flags),
        st.integers(0, 2**32 - 1),
        st.sampled_from([0, LAST]),
        st.binary(max_size=40),
    ),
)


@given(st.lists(_sent, max_size=8), st.data())
def test_any_cuts_of_any_frames_read_the_same(frames: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(frames)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=12)))
    parts = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    whole = read(Engine(Role.SERVER), [stream])
    assert len(whole[0]) == len(frames)
    assert whole[1] == ""
    assert read(Engine(Role.SERVER), parts) == whole


_hostile = st.one_of(
    st.binary(max_size=200),
    st.lists(
        st.builds(
            lambda kind, flags, meta, ident, length, rest: (
                HEADER.pack(kind, flags, meta, ident, length) + rest
            ),
            st.integers(0xF0, 0xF7),
            st.sampled_from([0, 0, 0, 1, 2]),
            st.integers(0, 30) | st.integers(0, 2**16 - 1),
            st.integers(0, 2**32 - 1),
            st.integers(0, 30) | st.integers(0, 2**64 - 1),
            st.binary(max_size=60),
        ),
        max_size=4,
    ).map(b"".join),
)


@settings(max_examples=300)
@given(st.sampled_from(list(Role)), _hostile, st.integers(1, 50))
def test_any_bytes_give_events_or_a_frame_error(role: Role, stream: bytes, step: int) -> None:
    chunks = [stream[i : i + step] for i in range(0, len(stream), step)]
    engine = Engine(role)
    events, error = read(engine, chunks)
    assert (events, error) == read(Engine(role), [stream])
    if error:
        with pytest.raises(FrameError) as again:
            engine.next_event()
        assert again.value.message == error
    else:
        assert engine.buffered <= HEADER.size + META_MAX + INLINE_MAX


@given(st.lists(_sent, max_size=8), st.binary(max_size=30), st.data())
def test_payload_past_the_engine_or_through_it_is_the_same(
    frames: list[bytes], rest: bytes, data: st.DataObject
) -> None:
    """As a worker reads: some bytes at a time, and of a payload some past the engine."""
    stream = b"".join(frames) + rest
    engine = Engine(Role.SERVER)
    events: list[dict[str, Any]] = []
    error, at = "", 0
    try:
        while at < len(stream):
            count = data.draw(st.integers(1, 20))
            if engine.payload_left and not engine.buffered and data.draw(st.booleans()):
                count = min(count, engine.payload_left, len(stream) - at)
                engine.bypass(count)
                events[-1]["payload"] += stream[at : at + count].decode("latin-1")
            else:
                engine.receive(stream[at : at + count])
                _take_events(engine, events)
            at += count
    except FrameError as broken:
        error = broken.message
    assert (events, error) == read(Engine(Role.SERVER), [stream])


@given(st.integers(0, 2**32 - 1), st.binary(max_size=50), st.sampled_from([0, LAST]))
def test_frames_come_back_as_they_were(ident: int, payload: bytes, flags: int) -> None:
    engine = Engine(Role.SERVER)
    engine.receive(frame(Type.REQUEST, ident, {"op": "x"}, payload))
    assert engine.next_event() == Message(Type.REQUEST, ident, b'{"op":"x"}', payload)
    engine.receive(frame(Type.DATA, ident, None, payload, flags=flags))
    assert engine.next_event() == DataHead(ident, bool(flags), b"", len(payload))
    assert engine.take(100) == payload
    assert (engine.payload_left, engine.buffered, engine.next_event()) == (0, 0, None)


def test_the_largest_frames_are_accepted() -> None:
    engine = Engine(Role.SERVER)
    meta = b"{" + b" " * (META_MAX - 2) + b"}"
    payload = bytes(INLINE_MAX)
    engine.receive(HEADER.pack(Type.REQUEST, 0, META_MAX, 1, INLINE_MAX) + meta + payload)
    assert engine.next_event() == Message(Type.REQUEST, 1, meta, payload)
    engine.receive(head(Type.DATA, 1, None, DATA_MAX))
    assert engine.next_event() == DataHead(1, False, b"", DATA_MAX)


def test_payload_past_the_engine() -> None:
    engine = Engine(Role.SERVER)
    engine.receive(head(Type.DATA, 1, None, 10, flags=LAST) + b"abc")
    assert engine.next_event() == DataHead(1, True, b"", 10)
    assert engine.next_event() is None
    with pytest.raises(AssertionError):
        engine.bypass(1)  # three bytes are buffered: they come first
    assert engine.take(2) == b"ab"
    assert engine.take(100) == b"c"
    assert engine.take(100) == b""
    assert engine.payload_left == 7
    engine.bypass(0)
    engine.bypass(4)
    with pytest.raises(AssertionError):
        engine.bypass(4)
    with pytest.raises(AssertionError):
        engine.bypass(-1)
    engine.receive(b"xyz" + frame(Type.REQUEST, 2))
    assert engine.next_event() is None  # the payload is still passing
    assert engine.take(100) == b"xyz"
    assert engine.next_event() == Message(Type.REQUEST, 2, b"", b"")


def test_take_leaves_what_follows_the_payload() -> None:
    engine = Engine(Role.SERVER)
    engine.receive(frame(Type.DATA, 1, None, b"abc") + frame(Type.REQUEST, 2, None, b"next"))
    assert isinstance(engine.next_event(), DataHead)
    assert engine.take(100) == b"abc"
    assert engine.next_event() == Message(Type.REQUEST, 2, b"", b"next")


def test_a_broken_engine_stays_broken() -> None:
    engine = Engine(Role.SERVER)
    engine.receive(b"!")
    for _ in range(2):
        with pytest.raises(FrameError):
            engine.next_event()
        engine.receive(frame(Type.REQUEST, 1))


def test_a_meta_too_long_is_not_sent() -> None:
    with pytest.raises(FrameError, match="at most 16384"):
        head(Type.REPLY, 1, {"text": "x" * META_MAX})
    room = META_MAX - len('{"text":""}')
    assert len(head(Type.REPLY, 1, {"text": "x" * room})) == HEADER.size + META_MAX


def test_first_bytes_tell_the_protocol_from_others() -> None:
    assert 0x16 not in FIRST_BYTES  # TLS handshake
    assert not FIRST_BYTES & set(range(0x80))  # text protocols


def test_decode_meta() -> None:
    assert decode_meta(b"") == {}
    assert decode_meta(b'{"a":[1,null]}') == {"a": [1, None]}
    for bad in (b"x", b"[]", b"1", b"null", b'{"a":', b"\xff", b'{"a":"\xff"}', b"[" * 16000):
        with pytest.raises(FrameError):
            decode_meta(bad)


@given(st.binary(max_size=100))
def test_decode_meta_of_any_bytes(meta: bytes) -> None:
    with contextlib.suppress(FrameError):
        assert isinstance(decode_meta(meta), dict)
