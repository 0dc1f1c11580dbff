"""The FTP door: requests of the engine -> core calls -> replies.

    (implicit TLS) -> commands <-> task     a request that takes more than one step
                        |   ^
                        |   +-- AUTH TLS: handshake
                        +-> ending -> lingering

While a task runs, the session is stepped whenever the control connection or the data connection
wants it, and between the task's jobs; see transfer.py.  No two threads are ever in a door at once.
"""

from __future__ import annotations

import socket
import time

from forkd.doors.ftp.context import Context, Task
from forkd.doors.ftp.dataport import DataPort
from forkd.doors.ftp.ending import Ending
from forkd.doors.ftp.gate import Gate
from forkd.doors.ftp.patience import Patience
from forkd.doors.ftp.requests import carry_out
from forkd.doors.ftp.settings import FtpSettings
from forkd.doors.ftp.telling import tell_status
from forkd.doors.ftp.wire import ControlBroken, Wire
from forkd.errors import Refusal
from forkd.ftp import requests
from forkd.ftp.replies import Negative
from forkd.ftp.requests import Request
from forkd.ftp.session import Conversation
from forkd.ftp.state import ProtocolAbuse
from forkd.serving.core import Core, Peer
from forkd.serving.session import AGAIN, Activity, Closed, Job, Outcome, Park, Weight
from forkd.serving.transport import READABLE, Plain, Tls

_EVENTS_A_STEP = 16
_LOOK_SECONDS = 0.5
"""How often a leaving worker looks whether a client has read its last download."""


class FtpDoor:
    """See session.Door."""

    name = "ftp"
    __slots__ = (
        "_changed",
        "_context",
        "_ending",
        "_gate",
        "_handshake",
        "_kicked",
        "_patience",
        "_refusal",
        "_stuck",
        "_task",
    )

    def __init__(
        self,
        core: Core,
        peer: Peer,
        sock: socket.socket,
        settings: FtpSettings,
        implicit: bool,
        activity: Activity,
        buffer: memoryview,
        refusal: Refusal | None = None,
    ) -> None:
        """`implicit`: under TLS from the first byte.  `buffer` is shared by all doors of the loop.

        With a `refusal`, the client is told that, and no more.  Raises OSError, ConnectionError.
        """
        talk = Conversation(settings.policy)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)  # the Synch of ABOR
        data = DataPort(sock, peer.session, core.log)
        wire = Wire(Plain(sock), talk, buffer)
        self._context = Context(core, peer, settings, wire, talk, data, activity, buffer)
        self._ending = Ending(self._context)
        self._gate = Gate(self._context, self._ending.begin, self.kick)
        self._patience = Patience(core.config.limits, time.monotonic())
        self._task: Task | None = None
        self._handshake = implicit
        self._changed = False
        self._kicked = False
        self._stuck = False
        """The client takes none of what was said."""
        self._refusal = refusal
        if implicit:
            talk.imply_protection()
            self._wrap()
        else:
            self._greet()

    def _greet(self) -> None:
        if self._refusal is None:
            self._context.talk.greet(self._context.peer.session)
        else:
            self._ending.refuse(self._refusal, "refused")

    # the steps

    def step(self) -> Outcome:
        context = self._context
        context.count_bytes()
        context.wire.drained, context.woken_by_data = context.woken_by_data, False
        for _ in range(_EVENTS_A_STEP):
            outcome = self._go_on()
            if outcome is not None:
                return self._flushed(outcome)
        return AGAIN

    def _flushed(self, outcome: Outcome) -> Outcome:
        """Whatever was said goes out before anything is waited for."""
        wire = self._context.wire
        if self._handshake or isinstance(outcome, Closed) or wire.flush():
            return outcome
        if isinstance(outcome, Park):
            return Park(outcome.wants | wire.transport.wants, outcome.patience)
        return outcome

    def _go_on(self) -> Outcome | None:
        """One thing; None when there may be another at once."""
        context, wire = self._context, self._context.wire
        if self._ending.lingering:
            return self._ending.linger()
        if self._kicked:
            return self._ending.at_once(heard=not self._handshake)
        if self._handshake and not self._shake_hands():
            return Park(wire.transport.wants, self._patience_left())
        if self._changed:
            self._changed = False
            return Job(self._gate.look_again, Weight.LONG)
        self._stuck = (context.talk.crowded or wire.blocked) and not wire.flush()
        if self._stuck:
            return Park(wire.transport.wants, context.core.config.limits.stall_timeout)
        request = None if self._ending.reason is not None else context.talk.next_request()
        if request is not None:
            return self._on_request(request)
        if context.talk.crowded:
            return None
        if self._task is not None:
            return self._go_on_with(self._task)
        if self._ending.reason is not None:
            return self._ending.finish()
        late = self._patience.is_over(time.monotonic(), stranger=context.login is None)
        if late and not context.lingers:
            self._say_too_late()
            return None
        count = self._fill()
        if count is not None:
            return None if count else Closed("the client left")
        left = self._patience_left()
        if left <= 0 and self._patience.is_leaving:
            self._say_too_late()
            return None
        return Park(wire.transport.wants, left)

    def _fill(self) -> int | None:
        count = self._context.wire.fill()
        if count:
            self._patience.heard()
        return count

    def _go_on_with(self, task: Task) -> Outcome | None:
        """The control connection first: what is said there may concern the task."""
        count = self._fill()
        if count is not None:
            return None if count else Closed("the client left")
        outcome = task.step()
        if outcome is None:
            self._task = None
        return outcome

    # TLS on the control connection

    def _wrap(self) -> None:
        context = self._context
        context.tls = context.settings.context()
        transport = Tls(context.wire.transport.sock, context.tls)
        context.wire.transport = transport

    def _shake_hands(self) -> bool:
        context = self._context
        if not context.wire.transport.handshake():
            return False
        self._handshake = False
        context.activity.tls = context.wire.transport.label
        if context.talk.state.secure:
            self._greet()
        else:
            context.talk.secured()
        return True

    def _start_tls(self) -> Outcome | None:
        """234 went out, in clear; nothing that came in clear is left."""
        wire = self._context.wire
        if not wire.flush():
            raise ControlBroken("the client does not read")
        self._context.log_out()
        self._context.data.close()
        self._wrap()
        self._handshake = True
        return None

    # requests

    def _on_request(self, request: Request) -> Outcome | None:
        context = self._context
        match request:
            case requests.Abort():
                self._abort()
            case requests.Status():
                tell_status(context)
            case requests.Leave():
                self._ending.begin("quit")
            case requests.StartTls():
                return self._start_tls()
            case requests.OpenPassive() | requests.UseActive() if self._patience.is_late(
                time.monotonic()
            ):
                self._say_too_late()
            case requests.LogIn():
                self._task = self._gate.log_in(request)
            case requests.LogOut():
                context.log_out()
                context.data.close()
                context.talk.finish(220, "Logged out.")
            case _:
                self._task = carry_out(context, request)
        return None

    def _abort(self) -> None:
        """A transfer's own reply, then that of ABOR (RFC 959 section 4.1.3)."""
        context = self._context
        if self._task is None:
            context.data.close()
            context.talk.say(226, "There was nothing to break off.")
        elif self._task.abort():
            self._task = None
            context.talk.say(226, "It is broken off.")
        else:
            context.talk.say(225, "It is too late to break that off.")

    # what comes from outside

    def failed(self, error: BaseException) -> Outcome:
        context = self._context
        if self._ending.lingering:
            return self._ending.closed()
        if isinstance(error, ProtocolAbuse):
            context.core.log.warning(
                "protocol-abuse",
                session=context.peer.session,
                address=context.peer.address,
                error=str(error),
            )
            return Closed(str(error))
        broken = isinstance(error, ConnectionError)
        if broken and (self._task is None or isinstance(error, ControlBroken)):
            return Closed(str(error) or "the connection broke")
        self._answer(*context.reply_for(error))
        return AGAIN

    def _answer(self, reply: Negative, outcome: str) -> None:
        """The request ends with this."""
        task, self._task = self._task, None
        if task is not None:
            task.failed(reply, outcome)
            return
        self._context.talk.finish(reply.code, reply.text)

    def timed_out(self) -> Outcome:
        context = self._context
        if self._task is not None and not self._stuck:
            reply = self._task.timed_out()
            if reply is not None:
                context.core.row.timed_out(working=True, logged_in=True)
                self._answer(reply, "timeout")
            return AGAIN
        if self._ending.reason is None and not self._handshake and not self._stuck:
            if self._patience.is_leaving:
                return AGAIN
            context.data.close()  # a port that nobody used need not be the end
            left = self._patience_left()
            if left > 0:
                return Park(READABLE, left)
        if not self._ending.lingering and not self._handshake:
            self._say_too_late()
            context.wire.flush()
        return Closed("timed out")

    def _say_too_late(self) -> None:
        """The session's time is over."""
        if self._patience.is_leaving:
            self._ending.leave()
            return
        logged_in = self._context.login is not None
        self._context.core.row.timed_out(working=False, logged_in=logged_in)
        self._ending.refuse(Refusal("timeout", "nothing came for too long"), "timed out")

    def drain(self) -> None:
        self._patience.leave(time.monotonic())

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
            self._context.data.close()
            self._context.close()
            self._context.wire.transport.sock.close()

    def _patience_left(self) -> float:
        context = self._context
        if context.lingers:
            self._patience.heard()  # who still reads is not silent
            if self._patience.is_leaving:
                return _LOOK_SECONDS
        port, stranger = context.data.ready, context.login is None
        return self._patience.left(
            time.monotonic(),
            stranger=stranger,
            port=port,
            amid=port or stranger or context.talk.is_amid,
        )
