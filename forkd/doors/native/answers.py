"""Answers that take more than one step: get, list, remove, run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import msgspec

from forkd.digest import DIGEST_SIZE, BlockDigest, digest_of
from forkd.doors.native.context import Context, Login, Task
from forkd.doors.native.waiting import when_paid
from forkd.errors import Refusal, from_oserror
from forkd.protocol import BLOCK, INLINE_MAX
from forkd.serving.session import AGAIN, Closed, Job, Outcome, Park, Pause, Weight
from forkd.serving.transfer import SMALL, Pace, Sender, ShortFileError
from forkd.storage.charged import ChargedTree
from forkd.storage.names import show
from forkd.storage.tree import OpenFile, Parts
from forkd.verbs import Entry, Get

FRAME = 64 * 1024 * 1024
"""Bytes in a DATA frame of a download: between two of them an error can be told."""
CHECKED_FRAME = 4 * BLOCK
"""The same where digests are told: so much is lost at most when the connection breaks."""

_line = msgspec.json.Encoder().encode


def get(context: Context, login: Login, ident: int, request: Get, parts: Parts) -> Task | None:
    """Answer a small get at once, or the task that answers a large one.  Raises Refusal."""
    began = time.monotonic()
    found = login.files.tree.open_read(parts)
    try:
        if request.offset > found.size:
            raise Refusal(
                "bad-range", f"offset {request.offset} is beyond the end, at {found.size} bytes"
            )
        length = found.size - request.offset
        if request.length is not None:
            length = min(length, request.length)
        meta: dict[str, object] = {
            "size": found.size,
            "mtime": found.mtime,
            "offset": request.offset,
            "length": length,
        }
        if length > SMALL:
            return Download(context, login, ident, found, parts, meta, length, request)
        content = _read(found, request.offset, length, parts)
    except BaseException:
        os.close(found.fd)
        raise
    os.close(found.fd)
    if request.check:
        meta["digest"] = digest_of(content)

    def answer() -> None:
        context.wire.reply(ident, meta, content)
        context.moved_down += length
        context.ended("down", show(parts), length, time.monotonic() - began, "ok")

    return when_paid(context, ident, login.down, length, answer)


def _read(found: OpenFile, offset: int, length: int, parts: Parts) -> bytes:
    try:
        content = os.pread(found.fd, length, offset)
    except OSError as error:
        raise from_oserror(error, show(parts)) from error
    if len(content) != length:
        raise Refusal("busy", f"{show(parts)!r} became shorter while it was read; try again")
    return content


class Download:
    """A get in DATA frames."""

    def __init__(
        self,
        context: Context,
        login: Login,
        ident: int,
        found: OpenFile,
        parts: Parts,
        meta: dict[str, object],
        length: int,
        request: Get,
    ) -> None:
        self.ident = ident
        self._context = context
        self._fd = found.fd
        self._path = show(parts)
        self._began = time.monotonic()
        self._length = length
        digest = BlockDigest() if request.check else None
        self._sender = Sender(found.fd, request.offset, length, digest, self._path, flow=login.down)
        self._frame_left = 0
        self._blocks_told = 0
        activity = context.activity
        activity.state, activity.path, activity.transferring = "download", self._path, True
        activity.size, activity.moved = length, 0
        context.wire.interim(ident, meta)

    @property
    def between_frames(self) -> bool:
        return self._frame_left == 0

    def step(self) -> Outcome | None:
        wire, sender = self._context.wire, self._sender
        if not wire.flush():
            return Park(wire.transport.wants, self._context.core.config.limits.stall_timeout)
        if self._frame_left:
            return Job(self._pump, Weight.LONG)
        if sender.remaining:
            self._frame_left = min(sender.remaining, CHECKED_FRAME if sender.digest else FRAME)
            wire.data_head(self.ident, self._frame_left, self._proof() or None)
            return AGAIN if not wire.flush() else Job(self._pump, Weight.LONG)
        proof = self._proof()
        if sender.digest:
            proof["digest"] = sender.digest.hexdigest()
        wire.reply(self.ident, proof or None)
        self._end("ok")
        return None

    def _proof(self) -> dict[str, str]:
        """The digests of the blocks that are sent and not told yet."""
        digest = self._sender.digest
        fresh = digest.blocks_after(self._blocks_told) if digest else b""
        self._blocks_told += len(fresh) // DIGEST_SIZE
        return {"blocks": fresh.hex()} if fresh else {}

    def _pump(self) -> Outcome:
        context, sender = self._context, self._sender
        kit = context.core.kits.take()
        before = sender.remaining
        try:
            step = sender.pump(context.wire.transport, self._frame_left, kit)
        except ShortFileError:
            return Closed("a file became shorter while it was sent")
        finally:
            moved = before - sender.remaining
            self._frame_left -= moved
            context.moved_down += moved
            context.activity.moved += moved
            context.core.kits.give_back(kit)
        if step.pace is Pace.BLOCKED:
            return Park(context.wire.transport.wants, context.core.config.limits.stall_timeout)
        if step.pace is Pace.PAUSE:
            return Pause(sender.flow.until)
        return AGAIN

    def failed(self, refusal: Refusal) -> None:
        self._end(refusal.code)
        if self._frame_left:  # the announced bytes cannot follow: only a break tells that
            raise ConnectionAbortedError(refusal.message)
        self._context.refuse(self.ident, refusal)

    def abandon(self) -> None:
        self._end("broken-off")

    def _end(self, outcome: str) -> None:
        if self._fd < 0:
            return
        os.close(self._fd)
        self._fd = -1
        moved = self._length - self._sender.remaining
        seconds = time.monotonic() - self._began
        self._context.ended("down", self._path, moved, seconds, outcome)
        activity = self._context.activity
        activity.state, activity.path, activity.transferring = "idle", "", False
        activity.size = activity.moved = 0


class Listing:
    """A list, a slice of the folder at a time."""

    def __init__(self, context: Context, ident: int, slices: Iterator[list[Entry]]) -> None:
        self.ident = ident
        self._context = context
        self._slices = slices
        self._ready: bytes | None = None
        self._over = False

    def step(self) -> Outcome | None:
        wire = self._context.wire
        if not wire.flush():
            return Park(wire.transport.wants, self._context.core.config.limits.stall_timeout)
        if self._over:
            wire.reply(self.ident, None, self._ready or b"")
            return None
        if self._ready is not None:
            wire.data(self.ident, None, self._ready)
            self._ready = None
            return AGAIN
        return Job(self._read, Weight.LONG)

    def _read(self) -> Outcome:
        entries = next(self._slices, None)
        if entries is None:
            self._over = True
        else:
            self._ready = b"".join(_line(entry) + b"\n" for entry in entries)
            assert len(self._ready) <= INLINE_MAX
        return AGAIN

    def failed(self, refusal: Refusal) -> None:
        self._context.refuse(self.ident, refusal)

    def abandon(self) -> None:
        close = getattr(self._slices, "close", None)
        if close is not None:
            close()


class Removal:
    """remove with "recursive", a slice at a time; then `removed` has it made durable."""

    def __init__(
        self,
        context: Context,
        ident: int,
        files: ChargedTree,
        parts: Parts,
        removed: Callable[[Removal], None],
    ) -> None:
        self.ident = ident
        self._context = context
        self._steps = files.remove_tree(parts)
        self._removed = removed
        self.files = 0
        self.folders = 0
        self._over = False

    def step(self) -> Outcome | None:
        if not self._over:
            return Job(self._remove, Weight.LONG)
        self._removed(self)
        return None

    def _remove(self) -> Outcome:
        ends = time.monotonic() + 0.5
        for files, folders in self._steps:
            self.files, self.folders = files, folders
            if time.monotonic() >= ends:
                return AGAIN
        self._over = True
        return AGAIN

    def failed(self, refusal: Refusal) -> None:
        self._context.refuse(self.ident, refusal)

    def abandon(self) -> None:
        return
