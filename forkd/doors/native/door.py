"""The native door: wire events -> core calls -> answers.

Order: requests are worked on as they come and answered in that order.  Small puts do not wait for
each other's commit; every other request waits until all changes before it are done.

    handshake -> events <-> task            a request that takes more than one step
                   |  \\--> await changes    answers wait for their commit
                   \\-> ending -> lingering  the last answer is on its way, the rest is dropped
"""

from __future__ import annotations

import socket
import ssl
import time
from functools import partial

from forkd.doors.native import answers
from forkd.doors.native.context import Context, Login, Task
from forkd.doors.native.gate import Gate
from forkd.doors.native.requests import carry_out
from forkd.doors.native.smallputs import SmallPuts
from forkd.doors.native.waiting import when_paid
from forkd.doors.native.wire import OUT_MAX, Wire
from forkd.errors import FrameError, Refusal
from forkd.protocol import Message
from forkd.serving.core import Core, Peer
from forkd.serving.session import (
    AGAIN,
    FOREVER,
    Activity,
    Closed,
    Job,
    Outcome,
    Park,
    Pause,
    Weight,
)
from forkd.serving.transport import READABLE, Plain, open_transport
from forkd.verbs import AnyRequest, Auth, Bye, Hello, Passwd, Put, Register, decode_request

_EVENTS_A_STEP = 64
_CHANGES_MAX = 512
"""Small puts of one session that wait for their commit."""
_FAREWELL_SECONDS = 5.0
"""How long a client that was told to leave may stay silent."""
_LINGER_SECONDS = 2.0
"""How long the client may take to read the last answer."""
_SKIP = 1024 * 1024
_SKIPPED_MAX = 1024
"""Refused uploads of one session whose client has not ended them."""
_STRANGERS_PAYLOAD = 16 * 1024
"""Bytes that somebody who is not logged in may have us keep; no request of his needs any."""


class NativeDoor:
    """See session.Door."""

    name = "native"

    def __init__(
        self,
        core: Core,
        peer: Peer,
        sock: socket.socket,
        tls: ssl.SSLContext | None,
        activity: Activity,
        buffer: memoryview,
        refusal: Refusal | None = None,
    ) -> None:
        """`tls` None: whatever comes is plain.  `buffer` is shared by all doors of the loop.

        With a `refusal`, the client is told that, and no more.
        """
        self._context = Context(core, peer, Wire(Plain(sock), buffer), activity)
        self._context.wire.engine.inline_max = _STRANGERS_PAYLOAD
        self._small = SmallPuts(self._context)
        self._gate = Gate(self._context, self._end, self.kick)
        self._refusal = refusal
        patience = float(core.config.limits.login_timeout)
        self._login_by = time.monotonic() + (
            min(patience, _FAREWELL_SECONDS) if refusal else patience
        )
        self._linger_until = 0.0
        self._sock = sock
        self._tls = tls
        self._opened = False
        self._secured = False
        self._held: Message | None = None
        self._task: Task | None = None
        self._skipping: set[int] = set()
        self._ending: str | None = None
        self._lingering = False
        self._draining = False
        self._farewell = False
        self._changed = False
        self._kicked = False

    # the steps

    def step(self) -> Outcome:
        context, wire = self._context, self._context.wire
        context.count_bytes()
        if not self._secured:
            if self._kicked:
                return Closed("kicked")
            if not self._open():
                return Park(wire.transport.wants, self._patience())
            if self._refusal is not None:
                context.refuse(0, self._refusal)
                self._end("refused")
        for _ in range(_EVENTS_A_STEP):
            outcome = self._linger() if self._lingering else self._go_on()
            if outcome is not None:
                return outcome
        return AGAIN

    def _open(self) -> bool:
        """Plain or TLS, as the client's first byte says; False while that is under way."""
        context, wire = self._context, self._context.wire
        if not self._opened:
            transport = open_transport(self._sock, self._tls)
            if transport is None:
                return False
            wire.transport = transport
            self._opened = True
        self._secured = wire.transport.handshake()
        context.activity.tls = wire.transport.label
        return self._secured

    def _go_on(self) -> Outcome | None:
        """One thing; None when there may be another at once."""
        context, wire = self._context, self._context.wire
        if self._kicked:
            return self._leave_at_once()
        if self._changed and context.login is not None:
            self._changed = False
            return Job(self._gate.look_again, Weight.LONG)
        if self._draining and not self._farewell and self._between_frames():
            self._farewell = True
            wire.notice("going-away")
        if self._task is not None:
            outcome = self._task.step()
            if outcome is None:
                self._task = None
            elif isinstance(outcome, Pause):
                wire.flush()  # what came before it is answered
            return outcome
        if self._ending is not None:
            return self._finish(self._ending)
        if wire.waiting >= OUT_MAX and not wire.flush():
            return Park(wire.transport.wants, self._stall())
        most = 1 if context.core.committer.crowded else _CHANGES_MAX
        if len(context.pending) + len(self._small) >= most:
            self._small.flush()
            return self._await_changes()
        return self._take_event()

    def _take_event(self) -> Outcome | None:
        context, engine = self._context, self._context.wire.engine
        if engine.payload_left:
            return None if engine.take(_SKIP) else self._read()
        if self._held is not None:
            message, self._held = self._held, None
            return self._on_message(message)
        if context.deferred:
            return self._on_message(context.deferred.pop(0))
        event = engine.next_event()
        if event is None:
            return self._read()
        if isinstance(event, Message):
            return self._on_message(event)
        if event.id not in self._skipping:
            raise FrameError(f"DATA for request {event.id}, which is not being uploaded")
        if event.last:
            self._skipping.discard(event.id)
        return None

    def _read(self) -> Outcome | None:
        wire = self._context.wire
        count = wire.fill()
        if count or self._small.flush():
            return None
        if count == 0:
            self._end("the client left")
            return None
        if not wire.flush():
            more = READABLE if wire.waiting < OUT_MAX else 0
            return Park(wire.transport.wants | more, self._stall())
        return Park(wire.transport.wants, self._patience())

    def _await_changes(self) -> Outcome:
        wire = self._context.wire
        if not wire.flush():
            return Park(wire.transport.wants, self._stall())
        return Park(0, FOREVER)

    # requests

    def _on_message(self, message: Message) -> Outcome | None:
        context = self._context
        try:
            request = decode_request(message.meta)
            if isinstance(request, Put) and _is_inline(message, request):
                login = self._login()
                put = partial(self._small.add, login, message, request)
                self._task = when_paid(context, message.id, login.up, request.size, put)
                if self._task is not None:
                    self._small.flush()
                return None
            self._small.flush()
            if context.pending:
                self._held = message
                return self._await_changes()
            return self._dispatch(message.id, request)
        except FrameError:
            raise
        except Refusal as refusal:
            self._small.flush()
            context.refuse(message.id, refusal)
            return None

    def _dispatch(self, ident: int, request: AnyRequest) -> Outcome | None:
        match request:
            case Hello():
                self._gate.hello(ident, request)
            case Bye():
                self._context.wire.reply(ident, {})
                self._end("bye")
            case Auth():
                self._task = self._gate.auth(ident, request)
            case Register():
                return self._gate.register(ident, request)
            case Passwd():
                self._task = self._gate.passwd(ident, self._login(), request)
            case _:
                self._task = carry_out(
                    self._context, self._login(), ident, request, self._skip_upload
                )
        return None

    def _skip_upload(self, ident: int) -> None:
        """The rest of a refused upload's DATA is dropped."""
        if len(self._skipping) >= _SKIPPED_MAX:
            raise FrameError(f"more than {_SKIPPED_MAX} refused uploads were not ended with LAST")
        self._skipping.add(ident)

    def _login(self) -> Login:
        login = self._context.login
        if login is None:
            raise Refusal("auth-required", "log in first")
        return login

    # the end

    def _end(self, reason: str) -> None:
        self._ending = self._ending or reason

    def _finish(self, reason: str) -> Outcome | None:
        """Send what is still to be answered, then let the client read it."""
        wire = self._context.wire
        if self._context.pending:
            return self._await_changes()
        if not wire.flush():
            return Park(wire.transport.wants, self._stall())
        if reason == "the client left":
            return Closed(reason)
        wire.transport.shutdown()
        self._lingering = True
        self._linger_until = time.monotonic() + _LINGER_SECONDS
        return None

    def _linger(self) -> Outcome | None:
        """A close with unread bytes would destroy the last answer on its way."""
        wire = self._context.wire
        count = wire.fill()
        wire.engine.discard()
        if count is None:
            return Park(wire.transport.wants, _LINGER_SECONDS)
        late = time.monotonic() > self._linger_until
        return Closed(self._ending or "") if late or not count else None

    def _leave_at_once(self) -> Outcome:
        if self._task is None:
            refusal = Refusal("kicked", "an administrator ended this session")
            self._context.refuse(0, refusal)
            self._context.wire.flush()
        return Closed("kicked")

    # what comes from outside

    def failed(self, error: BaseException) -> Outcome:
        context = self._context
        if isinstance(error, ConnectionError):
            return Closed(str(error) or "the connection broke")
        if self._lingering:
            return Closed(self._ending or "")
        if isinstance(error, FrameError):
            self._fail_task(error)
            self._refuse_stream(error)
        elif isinstance(error, Refusal):
            try:
                self._fail_task(error)
            except FrameError as broken:  # one refused upload too many
                self._refuse_stream(broken)
        else:
            context.core.log.unexpected("session-failed", error, session=context.peer.session)
            if self._ending is not None or not self._secured:
                return Closed("a fault in the server")
            refusal = Refusal("internal", "a fault in the server; it is in its log")
            if self._task is None:
                context.refuse(0, refusal)
                self._end("internal fault")
            self._fail_task(refusal)
        return AGAIN

    def _refuse_stream(self, error: FrameError) -> None:
        """What follows cannot be understood; what came before is done and answered."""
        self._small.flush()
        self._context.refuse(0, error)
        self._end("broken frame")

    def _fail_task(self, refusal: Refusal) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.failed(refusal)

    def timed_out(self) -> Outcome:
        context = self._context
        if self._task is None and not self._farewell and not self._lingering:
            context.refuse(0, Refusal("timeout", "nothing came for too long"))
            context.wire.flush()
        return Closed("going away" if self._farewell else "timed out")

    def drain(self) -> None:
        self._draining = True

    def kick(self) -> None:
        self._kicked = True

    def account_changed(self) -> None:
        self._changed = True

    def close(self) -> None:
        task, self._task = self._task, None
        try:
            if task is not None:
                task.abandon()
        finally:
            self._context.close()
            self._context.wire.transport.sock.close()

    # patience, in seconds

    def _stall(self) -> float:
        return self._context.core.config.limits.stall_timeout

    def _patience(self) -> float:
        """Never short of what we owe the client; a stranger has one time for all he does."""
        context, limits = self._context, self._context.core.config.limits
        if context.changes:
            return FOREVER
        usual = float(limits.idle_timeout)
        if context.login is None:
            usual = max(0.0, self._login_by - time.monotonic())
        return min(_FAREWELL_SECONDS, usual) if self._farewell else usual

    def _between_frames(self) -> bool:
        task = self._task
        return not isinstance(task, answers.Download) or task.between_frames


def _is_inline(message: Message, put: Put) -> bool:
    if len(message.payload) == put.size:
        return True
    if message.payload:
        raise Refusal(
            "bad-request",
            f"put: {len(message.payload)} bytes came with a declared size of {put.size}",
        )
    return False
