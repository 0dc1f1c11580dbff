"""RETR: a file to the client."""

from __future__ import annotations

import os
import time

from forkd.doors.ftp.context import Context
from forkd.doors.ftp.lingering import Lingering
from forkd.doors.ftp.transfer import Transfer
from forkd.errors import Refusal
from forkd.ftp import paths
from forkd.ftp.replies import quoted
from forkd.ftp.requests import Retrieve
from forkd.serving.admission import Login
from forkd.serving.session import AGAIN, Job, Outcome, Weight
from forkd.serving.transfer import SMALL, Pace, Sender, ShortFileError
from forkd.storage.names import check_parts, show


class Sending(Transfer):
    """The file is open from the first step on: who replaces it changes nothing for us."""

    def __init__(self, context: Context, login: Login, request: Retrieve) -> None:
        """Raises Refusal, Negative."""
        login.demand("read")
        self._path = show(check_parts(request.path))
        super().__init__(context, b"Sending " + quoted(paths.show(request.path)) + b".")
        found = login.files.tree.open_read(request.path)
        if request.offset > found.size:
            os.close(found.fd)
            raise Refusal(
                "bad-range", f"byte {request.offset} is beyond the end, at {found.size} bytes"
            )
        self._fd = found.fd
        self._length = found.size - request.offset
        self._sender = Sender(
            *(found.fd, request.offset, self._length, None, self._path), login.down
        )
        self._small = self._length <= SMALL
        self._paid = not self._small
        self._pace = Pace.MORE
        activity = context.activity
        activity.state, activity.path, activity.transferring = "download", self._path, True
        activity.size, activity.moved = self._length, 0

    def move(self) -> Outcome | None:
        if self._sender.remaining and self._small:
            return self._send_small()
        if self._sender.remaining:
            pace, self._pace = self._pace, Pace.MORE
            if pace is Pace.BLOCKED:
                return self.wait()
            if pace is Pace.PAUSE:
                return self.pause(self._sender.flow)
            self.say_opening()
            return Job(self._pump, Weight.LONG)
        return self._done()

    def _send_small(self) -> Outcome | None:
        if not self._paid and not self._sender.flow.whole(self._length):
            return self.pause(self._sender.flow)
        self._paid = True
        kit = self.context.core.kits.take()
        before = self._sender.remaining
        try:
            while self._sender.remaining:
                count = self._sender.advance(self.transport, self._sender.remaining, kit)
                if count is None:
                    return self.wait()
        except ShortFileError:
            raise _shorter(self._path) from None
        finally:
            self.context.core.kits.give_back(kit)
            self._count(before - self._sender.remaining)
        return self._done()

    def _pump(self) -> Outcome:
        kit = self.context.core.kits.take()
        before = self._sender.remaining
        try:
            step = self._sender.pump(self.transport, before, kit)
        except ShortFileError:
            raise _shorter(self._path) from None
        finally:
            self.context.core.kits.give_back(kit)
            self._count(before - self._sender.remaining)
        self._pace = step.pace
        return AGAIN

    def _count(self, moved: int) -> None:
        if moved:
            self.progressed()
            self.context.moved_down += moved
            self.context.activity.moved += moved

    def _done(self) -> Outcome | None:
        if not self.transport.close_notify():  # a slow reader must not take it for an abort
            return self.wait()
        self.close_data(orderly=True)
        self._end("ok")
        self.finish(226, f"{self._length} bytes sent.")
        return None

    def end_data(self) -> None:
        """Much of a long file may be on its way still: the session knows when the client has it."""
        if self._small:
            super().end_data()
        else:
            self.context.linger(Lingering(self.context.core, self.transport, self.context.buffer))

    def give_up(self, outcome: str) -> None:
        self._end(outcome)

    def _end(self, outcome: str) -> None:
        if self._fd < 0:
            return
        os.close(self._fd)
        self._fd = -1
        moved = self._length - self._sender.remaining
        seconds = time.monotonic() - self.began
        self.context.ended("down", self._path, moved, seconds, outcome)


def _shorter(path: str) -> Refusal:
    return Refusal("busy", f"{path!r} became shorter while it was sent; try again")
