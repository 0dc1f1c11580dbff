"""What the tasks of an FTP session share."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Protocol

from forkd.doors.ftp.dataport import DataPort
from forkd.doors.ftp.lingering import Lingering
from forkd.doors.ftp.settings import FtpSettings
from forkd.doors.ftp.wire import Wire
from forkd.errors import Fault, Refusal, from_oserror
from forkd.ftp.replies import Negative, code_for
from forkd.ftp.session import Conversation
from forkd.serving.admission import Login
from forkd.serving.core import Core, Peer
from forkd.serving.session import Activity, Outcome


@dataclass(slots=True, eq=False)
class Context:
    """One session's connections and state."""

    core: Core
    peer: Peer
    settings: FtpSettings
    wire: Wire
    talk: Conversation
    data: DataPort
    activity: Activity
    buffer: memoryview
    """Shared by all doors of the loop: its content lasts for one step on the loop's thread."""
    tls: ssl.SSLContext | None = None
    """That of the control connection, once it is under TLS."""
    login: Login | None = None
    moved_up: int = 0
    moved_down: int = 0
    changes: int = 0
    """Changes submitted and not done."""
    lingering: Lingering | None = None
    """The data connection of a refused upload or a long download; one at most."""
    woken_by_data: bool = False
    """The next step is for the data connection: what comes on this one has steps of its own."""
    _closed: bool = False

    def require_login(self) -> Login:
        if self.login is None:
            raise Refusal("auth-required", "log in with USER and PASS")
        return self.login

    def negative(self, refusal: Refusal) -> Negative:
        """The reply for a refusal of the core, which is counted; on the loop's thread."""
        self.core.refused(self.peer, self.activity.user, refusal)
        ours = refusal.fault in (Fault.OURS, Fault.MACHINE)
        text = self.signed(refusal.message) if ours else refusal.message
        return Negative(code_for(refusal), text)

    def signed(self, text: str) -> str:
        """With the session's id, for whoever has to ask the administrator."""
        return f"{text} (session {self.peer.session})"

    def say_farewell(self, text: str) -> None:
        """The last word of a session that ends without the client's QUIT."""
        self.talk.say(421, self.signed(text))

    def reply_for(self, error: BaseException) -> tuple[Negative, str]:
        """What a failed request ends with, and the outcome for the log; on the loop's thread."""
        if isinstance(error, Negative):
            return error, "broken-off"
        if isinstance(error, ConnectionError):
            return Negative(426, f"the data connection broke: {error}"), "broken-off"
        if isinstance(error, OSError):
            error = from_oserror(error, "")
        if not isinstance(error, Refusal):
            self.core.log.unexpected("session-failed", error, session=self.peer.session)
            error = Refusal("internal", "a fault in the server; it is in its log")
        return self.negative(error), error.code

    def ended(
        self,
        direction: str,
        path: str,
        size: int,
        seconds: float,
        outcome: str,
        completeness: str = "",
    ) -> None:
        """Count and log one transfer; on the loop's thread."""
        self.core.row.transfer("ftp", direction, size, seconds, outcome == "ok")
        self.core.log.transfer(
            user=self.activity.user,
            address=self.peer.address,
            session=self.peer.session,
            direction=direction,
            path=path,
            size=size,
            seconds=seconds,
            outcome=outcome,
            door="ftp",
            completeness=completeness,
        )

    def idle(self) -> None:
        activity = self.activity
        activity.state, activity.path, activity.transferring = "idle", "", False
        activity.size = activity.moved = 0

    def linger(self, lingering: Lingering) -> None:
        """Keep it until the session is over, or the next one takes its place."""
        before, self.lingering = self.lingering, lingering
        if before is not None:
            before.close()

    @property
    def lingers(self) -> bool:
        """The client is still busy with the last data connection."""
        return self.lingering is not None and self.lingering.is_busy

    def change_done(self) -> None:
        """A submitted change is done; on the loop's thread."""
        self.changes -= 1
        if self._closed:
            self.close()
        else:
            self.peer.wake()

    def log_out(self) -> None:
        """Nobody is logged in; no change is under way."""
        if self.login is not None:
            self.login.close()
            self.login = None
        self.activity.user, self.activity.state = "", "login"

    def close(self) -> None:
        """The session is over; the tree is kept until the last change is done."""
        self._closed = True
        if self.lingering is not None:
            self.lingering.close()
        self.count_bytes()
        if not self.changes:
            self.log_out()

    def count_bytes(self) -> None:
        """Bring what jobs have moved to the scoreboard; on the loop's thread."""
        if self.moved_up:
            self.core.row.add("bytes_total:ftp:up", self.moved_up)
            self.activity.bytes_up += self.moved_up
            self.moved_up = 0
        if self.moved_down:
            self.core.row.add("bytes_total:ftp:down", self.moved_down)
            self.activity.bytes_down += self.moved_down
            self.moved_down = 0


class Task(Protocol):
    """A request that takes more than one step.  It ends with `talk.finish`."""

    def step(self) -> Outcome | None:
        """Go on; None when the request is answered."""

    def abort(self) -> bool:
        """The client wants it broken off: True when that is done, and not answered yet."""

    def timed_out(self) -> Negative | None:
        """The patience of the last Park is used up; None where the session's own was."""

    def failed(self, reply: Negative, outcome: str) -> None:
        """Give back everything and answer with this; on the loop's thread.

        `outcome` is the code of a refusal, or "broken-off".
        """

    def abandon(self) -> None:
        """The session is over, on the loop's thread."""
