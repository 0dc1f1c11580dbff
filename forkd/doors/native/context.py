"""What the tasks of a native session share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from forkd.doors.native.wire import Wire, error_frame
from forkd.errors import Refusal
from forkd.protocol import Message
from forkd.serving.admission import Login as Login
from forkd.serving.core import Core, Peer
from forkd.serving.session import Activity, Outcome


class Slot:
    """The place of one answer in the order of answers."""

    __slots__ = ("frame",)

    def __init__(self, frame: bytes | None = None) -> None:
        self.frame = frame


@dataclass(slots=True)
class Context:
    """One session's wire and state."""

    core: Core
    peer: Peer
    wire: Wire
    activity: Activity
    login: Login | None = None
    pending: list[Slot] = field(default_factory=list)
    """Answers that wait for a commit, and those behind them; hundreds at most, mostly none."""
    changes: int = 0
    """Changes submitted and not done."""
    deferred: list[Message] = field(default_factory=list)
    """Requests that came while a stream is uploaded."""
    moved_up: int = 0
    moved_down: int = 0
    _closed: bool = False

    def answer(self, frame: bytes) -> None:
        """Send an answer in its turn."""
        if self.pending:
            self.pending.append(Slot(frame))
        else:
            self.wire.queue(frame)

    def release(self) -> None:
        """Send the answers whose turn has come."""
        while self.pending and self.pending[0].frame is not None:
            frame = self.pending.pop(0).frame
            assert frame is not None
            self.wire.queue(frame)

    def refuse(self, ident: int, refusal: Refusal) -> None:
        """Answer a request with a refusal, in its turn."""
        self.core.refused(self.peer, self.activity.user, refusal)
        self.answer(error_frame(ident, refusal))

    def ended(self, direction: str, path: str, size: int, seconds: float, outcome: str) -> None:
        """Count and log one transfer; on the loop's thread."""
        self.core.row.transfer("native", direction, size, seconds, outcome == "ok")
        self.core.log.transfer(
            user=self.activity.user,
            address=self.peer.address,
            session=self.peer.session,
            direction=direction,
            path=path,
            size=size,
            seconds=seconds,
            outcome=outcome,
            door="native",
        )

    def change_done(self) -> None:
        """A submitted change is done; on the loop's thread."""
        self.changes -= 1
        self.release()
        if self._closed:
            self.close()
        else:
            self.peer.wake()

    def close(self) -> None:
        """The session is over; the tree is kept until the last change is done."""
        self._closed = True
        self.count_bytes()
        if self.login is not None and not self.changes:
            self.login.close()
            self.login = None

    def count_bytes(self) -> None:
        """Bring what jobs have moved to the scoreboard; on the loop's thread."""
        if self.moved_up:
            self.core.row.add("bytes_total:native:up", self.moved_up)
            self.activity.bytes_up += self.moved_up
            self.moved_up = 0
        if self.moved_down:
            self.core.row.add("bytes_total:native:down", self.moved_down)
            self.activity.bytes_down += self.moved_down
            self.moved_down = 0


class Task(Protocol):
    """A request that takes more than one step."""

    ident: int

    def step(self) -> Outcome | None:
        """Go on; None when the request is answered."""

    def failed(self, refusal: Refusal) -> None:
        """Answer with the refusal, on the loop's thread; the task is over."""

    def abandon(self) -> None:
        """The session is over, on the loop's thread."""
