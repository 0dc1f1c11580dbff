"""put as a stream that can be resumed; smallputs.py has those in one message."""

from __future__ import annotations

import time
from collections.abc import Callable

from forkd.doors.native.changes import submit
from forkd.doors.native.context import Context, Login
from forkd.doors.native.publishing import Publication, Upload, mismatch, set_time
from forkd.errors import FrameError, Refusal, from_oserror
from forkd.protocol import DataHead, Message
from forkd.serving.session import AGAIN, Closed, Job, Outcome, Park, Pause, Weight
from forkd.serving.transfer import Pace, Receiver
from forkd.storage.charged import Incoming
from forkd.storage.names import parse_file_path, show
from forkd.storage.sidecar import Source
from forkd.storage.targets import check_target, refuse_full
from forkd.verbs import Put, UploadEnd, decode_upload_end

_DEFERRED_MAX = 1024
_DEFERRED_BYTES = 4 * 1024 * 1024
_TAKE = 256 * 1024
_TURNS = 32
"""Frames, or pieces of them, in one step: others want a turn too."""


class StreamUpload:
    """A put whose content comes in DATA frames."""

    def __init__(
        self, context: Context, login: Login, ident: int, put: Put, skip: Callable[[int], None]
    ) -> None:
        self.ident = ident
        self._context = context
        self._login = login
        self._put = put
        self._skip = skip
        self._began = time.monotonic()
        self._parts = parse_file_path(put.path)
        login.demand("write")
        self._incoming: Incoming | None = None
        self._receiver: Receiver | None = None
        self._end: UploadEnd | None = None
        self._told = False
        self._last_seen = False
        self._finished = False
        self._deferred_bytes = 0

    def _begin(self) -> Outcome:
        """Reserve, find what is held, tell the client where to go on; on a thread."""
        put, context = self._put, self._context
        may_replace = put.replace and "replace" in self._login.account.permissions
        parents = put.parents and "mkdir" in self._login.account.permissions
        files = self._login.files
        check_target(files, self._parts, parents, may_replace)
        check = put.check or put.digest is not None
        if check or put.tag:
            source = Source(show(self._parts), put.client, put.size, put.tag, check, put.digest)
            incoming = files.begin_stream(source, self._parts, put.restart)
        else:
            incoming = files.begin_own(put.path, put.size)
        self._incoming = incoming
        staged = incoming.staged
        refuse_full(staged, put.size)
        self._receiver = Receiver(staged, put.path, self._login.up)
        proof = staged.digest.hexdigest() if staged.digest is not None and staged.held else None
        activity = context.activity
        activity.state, activity.path, activity.transferring = "upload", show(self._parts), True
        activity.size, activity.moved = put.size, staged.held
        context.wire.interim(self.ident, {"offset": staged.held, "proof": proof})
        self._told = True
        return AGAIN

    def step(self) -> Outcome | None:
        if self._receiver is None:
            return Job(self._begin, Weight.LONG)
        for _ in range(_TURNS):
            outcome = self._turn(self._receiver)
            if outcome is not None or self._finished:
                return outcome
        return AGAIN

    def _turn(self, receiver: Receiver) -> Outcome | None:
        """One frame, or a piece of it."""
        wire, engine = self._context.wire, self._context.wire.engine
        stall = self._context.core.config.limits.stall_timeout
        if not wire.flush():
            return Park(wire.transport.wants, stall)
        if engine.payload_left:
            allowed = receiver.flow.take(engine.payload_left)
            if not allowed:
                return Pause(receiver.flow.until)
            taken = engine.take(min(_TAKE, allowed))
            if not taken:
                return Job(self._pump, Weight.LONG)
            receiver.absorb(taken)
            self._count(len(taken))
            return None
        if self._end is not None:
            self._finish(self._end)
            self._finished = True
            return None
        event = engine.next_event()
        if event is None:
            count = wire.fill()
            if count is None:
                return Park(wire.transport.wants, stall)
            return Closed("the client left during an upload") if count == 0 else None
        if isinstance(event, DataHead):
            self._on_data(event)
        else:
            self._defer(event)
        return None

    def _on_data(self, head: DataHead) -> None:
        if head.id != self.ident:
            raise FrameError(f"DATA for request {head.id}, which is not being uploaded")
        assert self._receiver is not None
        self._last_seen = head.last
        if head.length > self._put.size - self._receiver.position:
            raise Refusal("bad-request", "more bytes were sent than the declared size")
        if head.last:
            self._end = decode_upload_end(head.meta)

    def _defer(self, message: Message) -> None:
        if len(self._context.deferred) >= _DEFERRED_MAX:
            raise FrameError(f"more than {_DEFERRED_MAX} requests between the DATA of an upload")
        self._deferred_bytes += len(message.meta) + len(message.payload)
        if self._deferred_bytes > _DEFERRED_BYTES:
            raise FrameError(
                f"requests of more than {_DEFERRED_BYTES} bytes between the DATA of an upload"
            )
        self._context.deferred.append(message)

    def _pump(self) -> Outcome:
        context, receiver = self._context, self._receiver
        assert receiver is not None
        wire = context.wire
        kit = context.core.kits.take()
        try:
            before = receiver.consumed
            try:
                step = receiver.pump(wire.transport, wire.engine.payload_left, kit)
            finally:
                moved = receiver.consumed - before
                wire.engine.bypass(moved)
                self._count(moved)
        finally:
            context.core.kits.give_back(kit)
        if step.pace is Pace.EOF:
            return Closed("the client left during an upload")
        if step.pace is Pace.BLOCKED:
            return Park(wire.transport.wants, context.core.config.limits.stall_timeout)
        if step.pace is Pace.PAUSE:
            return Pause(receiver.flow.until)
        if wire.engine.payload_left:
            return Job(self._pump, Weight.LONG)
        return AGAIN

    def _count(self, moved: int) -> None:
        self._context.moved_up += moved
        self._context.activity.moved += moved

    def _finish(self, end: UploadEnd) -> None:
        """Prove completeness, then commit."""
        incoming, receiver, put = self._incoming, self._receiver, self._put
        assert incoming is not None
        assert receiver is not None
        if end.abort:
            raise Refusal("bad-request", f"aborted by the client at byte {receiver.position}")
        if receiver.position != put.size:
            raise Refusal(
                "bad-request",
                f"the upload ended at byte {receiver.position} of {put.size}; repeat it to go on",
            )
        digest = incoming.staged.digest
        arrived = digest.hexdigest() if digest is not None else None
        announced = put.digest or end.digest
        if arrived is not None:
            if announced is None:
                raise Refusal("bad-request", "the digest is missing at the end of the upload")
            if announced != arrived:
                self._login.files.discard(incoming)
                self._incoming = None
                raise mismatch(announced, arrived)
        try:
            set_time(incoming, put)
        except OSError as error:
            raise from_oserror(error, put.path) from error
        upload = Upload(self.ident, put, self._parts, arrived, self._began)
        publication = Publication(self._context, self._login, upload, incoming)
        self._incoming = None
        self._idle()
        submit(self._context, [publication])

    def failed(self, refusal: Refusal) -> None:
        self._give_up(refusal.code)
        self._context.refuse(self.ident, refusal)
        if self._told and not self._last_seen:
            self._skip(self.ident)

    def abandon(self) -> None:
        self._give_up("broken-off")

    def _give_up(self, outcome: str) -> None:
        moved = self._receiver.moved if self._receiver else 0
        incoming, self._incoming = self._incoming, None
        if incoming is not None and outcome == "no-space":
            self._login.files.discard(incoming)  # what is kept would keep the others out
        elif incoming is not None:
            self._login.files.abandon(incoming)
        if self._told:
            seconds = time.monotonic() - self._began
            self._context.ended("up", show(self._parts), moved, seconds, outcome)
        self._idle()

    def _idle(self) -> None:
        activity = self._context.activity
        activity.state, activity.path, activity.transferring = "idle", "", False
        activity.size = activity.moved = 0
