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
from functools import partial

from forkd.doors.native import answers
from forkd.doors.native.context import Context, Login, Task
from forkd.doors.native.ending import LEFT, Ending
from forkd.doors.native.gate import Gate
from forkd.doors.native.opening import Opening
from forkd.doors.native.patience import Patience
from forkd.doors.native.requests import carry_out
from forkd.doors.native.smallputs import SmallPuts, is_inline
from forkd.doors.native.waiting import when_paid
from forkd.doors.native.wire import OUT_MAX, Wire
from forkd.errors import FrameError, Refusal
from forkd.protocol import Message
from forkd.serving.core import Core, Peer
from forkd.serving.session import AGAIN, Activity, Closed, Job, Outcome, Park, Pause, Weight
from forkd.serving.transport import READABLE, Plain
from forkd.verbs import AnyRequest, Auth, Bye, Hello, Passwd, Put, Register, decode_request

_EVENTS_A_STEP = 64
_CHANGES_MAX = 512
"""Small puts of one session that wait for their commit."""
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
        self._patience = Patience(self._context, refusal is not None)
        self._ending = Ending(self._context, self._patience)
        self._gate = Gate(self._context, self._ending.begin, self._lost, self.kick)
        self._refusal = refusal
        self._opening = Opening(sock, tls, self._context.wire, activity)
        self._held: Message | None = None
        self._task: Task | None = None
        self._skipping: set[int] = set()
        self._draining = False
        self._changed = False
        self._kicked = False

    # the steps

    def step(self) -> Outcome:
        context, wire = self._context, self._context.wire
        context.count_bytes()
        if self._task is None and not self._ending.lingering and self._patience.over:
            return self.timed_out()
        if not self._opening.done:
            if self._kicked:
                return Closed("kicked")
            if not self._opening.step():
                return Park(wire.transport.wants, self._patience.idle())
            if self._refusal is not None:
                context.refuse(0, self._refusal)
                self._ending.begin("refused")
        for _ in range(_EVENTS_A_STEP):
            outcome = self._ending.linger() if self._ending.lingering else self._go_on()
            if outcome is not None:
                return outcome
        return AGAIN

    def _go_on(self) -> Outcome | None:
        """One thing; None when there may be another at once."""
        context, wire = self._context, self._context.wire
        if self._kicked:
            return self._ending.at_once(answering=self._task is not None)
        if self._changed and context.login is not None:
            self._changed = False
            return Job(self._gate.look_again, Weight.LONG)
        if self._draining and not self._patience.farewell and self._between_frames():
            self._patience.bid_farewell()
            wire.notice("going-away")
        if self._task is not None:
            outcome = self._task.step()
            if outcome is None:
                self._task = None
            elif isinstance(outcome, Pause):
                wire.flush()  # what came before it is answered
            return outcome
        if self._ending.reason is not None:
            return self._ending.finish(self._ending.reason)
        if wire.waiting >= OUT_MAX and not wire.flush():
            return Park(wire.transport.wants, self._patience.stall())
        most = 1 if context.core.committer.crowded else _CHANGES_MAX
        if len(context.pending) + len(self._small) >= most:
            self._small.flush()
            return self._ending.await_changes()
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
            self._ending.begin(LEFT)
            return None
        if not wire.flush():
            more = READABLE if wire.waiting < OUT_MAX else 0
            return Park(wire.transport.wants | more, self._patience.stall())
        return Park(wire.transport.wants, self._patience.idle())

    # requests

    def _on_message(self, message: Message) -> Outcome | None:
        context = self._context
        if self._patience.left_too_late:
            self._small.flush()
            if context.pending:
                self._held = message
                return self._ending.await_changes()
            context.refuse(0, Refusal("going-away", "this process is being replaced: reconnect"))
            self._ending.begin("going away")
            return None
        try:
            request = decode_request(message.meta)
            if isinstance(request, Put) and is_inline(message, request):
                login = self._login()
                put = partial(self._small.add, login, message, request)
                self._task = when_paid(context, message.id, login.up, request.size, put)
                if self._task is not None:
                    self._small.flush()
                return None
            self._small.flush()
            if context.pending:
                self._held = message
                return self._ending.await_changes()
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
                self._ending.begin("bye")
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
        self._skipping.add(ident)
        if len(self._skipping) > _SKIPPED_MAX:
            why = f"more than {_SKIPPED_MAX} refused uploads were not ended with LAST"
            self._context.wire.engine.stop(FrameError(why))

    def _login(self) -> Login:
        login = self._context.login
        if login is None:
            raise Refusal("auth-required", "log in first")
        return login

    # what comes from outside

    def failed(self, error: BaseException) -> Outcome:
        context, ending = self._context, self._ending
        if isinstance(error, ConnectionError):
            return Closed(str(error) or "the connection broke")
        if ending.lingering:
            return Closed(ending.reason or "")
        if isinstance(error, FrameError):
            self._break_off(error)
        elif isinstance(error, Refusal):
            self._fail_task(error)
        else:
            context.core.log.unexpected("session-failed", error, session=context.peer.session)
            if ending.reason is not None or not self._opening.done:
                return Closed("a fault in the server")
            refusal = Refusal("internal", "a fault in the server; it is in its log")
            if self._task is None:
                context.refuse(0, refusal)
                ending.begin("internal fault")
            self._fail_task(refusal)
        return AGAIN

    def _break_off(self, error: FrameError) -> None:
        """What follows cannot be understood; what came before is done and answered.

        Before it came what was put off while a stream was uploaded: only when that is done is
        the error told, by the engine's next event.
        """
        context = self._context
        if self._task is not None:
            context.wire.engine.stop(error)
            self._fail_task(error)
            return
        self._small.flush()
        context.refuse(0, error)
        self._ending.begin("broken frame")

    def _lost(self, refusal: Refusal) -> None:
        """End whatever is under way: nobody knows what the account may do by now."""
        self._fail_task(refusal)
        self._context.refuse(0, refusal)
        self._ending.begin("the account could not be looked up")

    def _fail_task(self, refusal: Refusal) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.failed(refusal)

    def timed_out(self) -> Outcome:
        context, farewell = self._context, self._patience.farewell
        if not farewell and not self._ending.lingering:
            busy, known = self._task is not None, context.login is not None
            context.core.row.timed_out(working=busy, logged_in=known)
        if self._task is None and not farewell and not self._ending.lingering:
            context.refuse(0, Refusal("timeout", "nothing came for too long"))
            context.wire.flush()
        return Closed("going away" if farewell else "timed out")

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

    def _between_frames(self) -> bool:
        task = self._task
        return not isinstance(task, answers.Download) or task.between_frames
