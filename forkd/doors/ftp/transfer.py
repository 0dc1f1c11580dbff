"""What every command with a data connection has in common.

    connecting -> (handshake) -> moving -> over

Rules
  1. 150 is said before a handshake: clients wait for it.  Where the connection is there already
     and plain, it goes out with the last reply: one packet less for a small file.
  2. Short moves happen on the loop's thread, which never waits; long ones are jobs of a bounded
     time on a thread of the pool.  Between two jobs, and while the data connection gives or takes
     nothing, the session is stepped for its control connection: nothing else touches it meanwhile,
     and no lock is needed.
  3. Whatever waits for the data connection has `_deadline`, which only moved bytes put off: words
     on the control connection do not keep a transfer alive that stands still.
  4. The data connection is closed before the transfer's last reply.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from enum import Enum

from forkd.doors.ftp.context import Context
from forkd.errors import Refusal
from forkd.ftp.replies import Negative
from forkd.serving.bulktls import BulkTls
from forkd.serving.session import Outcome, Park, Pause
from forkd.serving.throttle import Flow
from forkd.serving.transport import READABLE, Plain, Transport


class Phase(Enum):
    """See the module."""

    CONNECTING = 1
    HANDSHAKE = 2
    MOVING = 3
    OVER = 4


class Transfer(ABC):
    """A context.Task.  Subclasses move the bytes and give back what they hold."""

    def __init__(self, context: Context, opening: str | bytes) -> None:
        """`opening` is the text of 150.  Raises Negative (425) where no data port was arranged."""
        if not context.data.ready:
            raise Negative(425, "say PASV, EPSV, PORT or EPRT first")
        self.context = context
        self.began = time.monotonic()
        self.transport: Transport
        self._phase = Phase.CONNECTING
        self._opening = opening
        self.said = False
        self._waiting = -1
        """The descriptor that is watched and was not heard of yet."""
        self._watched = -1
        self._deadline = 0.0
        self._unsent = 0
        """Bytes that the transport held when last it was waited for."""
        self.progressed()

    # what subclasses do

    @abstractmethod
    def move(self) -> Outcome | None:
        """Go on with moving bytes; None when that is over and answered."""

    @abstractmethod
    def give_up(self, outcome: str) -> None:
        """Give back what is held; the transfer failed."""

    # the steps

    def step(self) -> Outcome | None:
        if self._waiting >= 0:
            return self._park()
        if self._phase is Phase.CONNECTING:
            outcome = self._connect()
            if outcome is not None:
                return outcome
        if self._phase is Phase.HANDSHAKE:
            outcome = self._handshake()
            if outcome is not None:
                return outcome
        return self.move()

    def _connect(self) -> Outcome | None:
        context = self.context
        data = context.data
        self._unwatch()  # `take` closes what was waited for
        sock = data.take()
        if sock is None:
            self.say_opening()
            return self._wait_for(data.fileno(), data.wants)
        if context.talk.state.secure and context.talk.protects_data:
            assert context.tls is not None
            self.say_opening()
            # Tickets that an uploading client never reads would turn its close into a reset.
            if context.settings.certificate is not None:
                context.tls.num_tickets = 0
            self.transport = BulkTls(sock, context.tls)
            self._phase = Phase.HANDSHAKE
        else:
            self.transport = Plain(sock)
            self._phase = Phase.MOVING
        return None

    def _handshake(self) -> Outcome | None:
        if not self.transport.handshake():
            return self.wait()
        self._phase = Phase.MOVING
        self.progressed()
        bound = self.context.settings.config.data_session
        assert isinstance(self.transport, BulkTls)
        if bound == "off" or self.transport.resumed:
            return None
        if bound == "require":
            raise Negative(522, "the data connection must resume the TLS session of this one")
        self.context.core.log.debug("tls-session-not-resumed", session=self.context.peer.session)
        return None

    def say_opening(self) -> None:
        """150, once."""
        if not self.said:
            self.said = True
            self.context.talk.say(150, self._opening)

    # waiting

    def progressed(self) -> None:
        """Bytes moved: the client has a new time to move more."""
        self._deadline = time.monotonic() + self.context.core.config.limits.stall_timeout

    def wait(self) -> Outcome:
        """Until the data connection can go on."""
        self.say_opening()
        before, self._unsent = self._unsent, self.transport.unsent
        if self._unsent < before:
            self.progressed()
        return self._wait_for(self.transport.sock.fileno(), self.transport.wants)

    def pause(self, flow: Flow) -> Outcome:
        """Until the user's bandwidth allows more; the client is not to blame for that."""
        self.say_opening()
        self.progressed()
        return Pause(flow.until)

    def _wait_for(self, fd: int, wants: int) -> Outcome:
        if self._watched not in (-1, fd):
            self._unwatch()
        self._watched = self._waiting = fd
        self.context.core.watch(fd, self._heard, wants)
        return self._park()

    def _heard(self) -> None:
        self._waiting = -1
        self.context.woken_by_data = True
        self.context.peer.wake()

    def _park(self) -> Outcome:
        wants = 0 if self.context.talk.full else READABLE
        return Park(wants, max(0.0, self._deadline - time.monotonic()))

    def timed_out(self) -> Negative | None:
        if self._phase is Phase.CONNECTING:
            return Negative(425, "nobody connected for the data")
        return Negative(426, "the data connection stood still for too long")

    def _unwatch(self) -> None:
        if self._watched >= 0:
            self.context.core.unwatch(self._watched)
        self._watched = self._waiting = -1

    # the end

    def close_data(self, *, orderly: bool) -> None:
        """Close the data connection, `orderly` with TLS's close_notify."""
        self._unwatch()
        phase, self._phase = self._phase, Phase.OVER
        if phase in (Phase.HANDSHAKE, Phase.MOVING):
            if orderly:
                self.end_data()
            else:
                self.drop_data()
        self.context.data.close()

    def end_data(self) -> None:
        """Close the data connection of a transfer that went well."""
        if not self.transport.kernel:
            self.transport.shutdown()
        self.transport.sock.close()

    def drop_data(self) -> None:
        """Close the data connection of a transfer that failed."""
        self.transport.sock.close()

    def finish(self, code: int, text: str | bytes) -> None:
        """All went well."""
        self.say_opening()
        self.context.idle()
        self.context.talk.finish(code, text)

    def abort(self) -> bool:
        self.failed(Negative(426, "broken off as you wish"), "broken-off")
        return True

    def failed(self, reply: Negative, outcome: str) -> None:
        self._lose(outcome)
        self.context.talk.finish(reply.code, reply.text)

    def abandon(self) -> None:
        self._lose("broken-off")

    def _lose(self, outcome: str) -> None:
        try:
            self.close_data(orderly=False)
        finally:
            try:
                self.give_up(outcome)
            finally:
                self.context.idle()

    def refused(self, refusal: Refusal) -> None:
        """As `failed`, for a refusal of the core."""
        self.failed(self.context.negative(refusal), refusal.code)
