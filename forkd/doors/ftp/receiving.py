"""STOR, APPE, STOU: a file from the client.

    gathering -> begun -> pumping -> proving -> committing -> over
        |                               ^
        +-- a small file, whole --------+

Where the bytes are meanwhile is landing.py's.  A break keeps what came, so that the client can go
on with it.

Complete is an upload whose data connection ended in order (under TLS with close_notify) with as
many bytes as ALLO announced, if it did, while the client was still there.  Without TLS and ALLO
nothing proves that: `quarantine` waits whether the client goes away.
"""

from __future__ import annotations

import time

from forkd.doors.ftp.changes import Pending, parked
from forkd.doors.ftp.context import Context
from forkd.doors.ftp.landing import Landing, Plan
from forkd.doors.ftp.lingering import Lingering
from forkd.doors.ftp.transfer import Transfer
from forkd.errors import Refusal
from forkd.events.journal import UNTOLD, Ticket
from forkd.ftp import paths
from forkd.ftp.replies import Negative, quoted
from forkd.serving.admission import Login
from forkd.serving.session import AGAIN, Job, Outcome, Park, Weight
from forkd.serving.transfer import SMALL, STEP_BYTES, Pace, Turn
from forkd.serving.transport import READABLE
from forkd.storage.commit import Folders
from forkd.storage.targets import check_target


class Receiving(Transfer):
    """See the module."""

    def __init__(self, context: Context, login: Login, plan: Plan) -> None:
        """Raises Refusal, Negative."""
        login.demand("write")
        if not plan.parts:
            raise Refusal("is-a-folder", "this is the account's folder")
        held_first = context.settings.config.resume == "partial"
        self._landing = Landing(login, plan, prefers_held=held_first)
        name = paths.show(plan.parts)
        opening = b"FILE: " + name[1:] if plan.unique else b"Taking " + quoted(name) + b"."
        super().__init__(context, opening)
        self._login = login
        self._plan = plan
        self._may_replace = not plan.unique and login.allows("replace")
        check_target(login.files, plan.parts, False, self._may_replace)
        self._moved = 0
        self._pace = Pace.MORE
        self._paid = False
        self._ended = False
        self._quarantined = 0.0
        self._ticket: Ticket = UNTOLD
        self._change: Pending | None = None
        self._begin_first = plan.at != 0 or (plan.announced or 0) > SMALL
        activity = context.activity
        activity.state, activity.path, activity.transferring = "upload", self._landing.path, True
        activity.size, activity.moved = plan.announced or 0, 0

    def step(self) -> Outcome | None:
        """What is refused for its size is refused before the data connection is used."""
        if self._change is not None:
            return self._committed(self._change)
        if self._begin_first:
            self._begin_first = False
            return Job(self._begin, Weight.LONG)
        if self._landing.needs_copy:
            return Job(self._copy, Weight.LONG)
        return super().step()

    # moving

    def move(self) -> Outcome | None:
        if self._ended:
            return self._prove()
        if self._landing.is_small:
            return self._gather()
        pace, self._pace = self._pace, Pace.MORE
        if pace is Pace.BLOCKED:
            return self.wait()
        if pace is Pace.PAUSE:
            return self.pause(self._login.up)
        self.say_opening()
        return Job(self._pump, Weight.LONG)

    def _gather(self) -> Outcome | None:
        """Take what is there, on the loop's thread; nothing is before the client heard 150."""
        if not self.said:
            return self.wait()
        buffer, landing = self.context.buffer, self._landing
        while landing.size <= SMALL:
            count = self.transport.receive_into(buffer)
            if count is None:
                return self.wait()
            if count == 0:
                return self._prove()
            landing.hold(buffer[:count])
            self._count(count)
        return Job(self._begin, Weight.LONG)

    def _begin(self) -> Outcome:
        """On a thread."""
        self.context.activity.moved = self._landing.begin() + self._moved
        return AGAIN

    def _copy(self) -> Outcome:
        """On a thread."""
        self._landing.copy()
        return AGAIN

    def _pump(self) -> Outcome:
        """On a thread."""
        kit, landing = self.context.core.kits.take(), self._landing
        turn, moved = Turn(kit), 0
        try:
            while not turn.is_over(moved):
                before = landing.size
                try:
                    step = landing.pump(self.transport, STEP_BYTES, kit)
                finally:
                    self._count(landing.size - before)
                moved += step.moved
                self._pace, self._ended = step.pace, step.pace is Pace.EOF
                if step.pace in (Pace.BLOCKED, Pace.PAUSE, Pace.EOF):
                    break
        finally:
            self.context.core.kits.give_back(kit)
        self._refuse_too_much()
        return AGAIN

    def _count(self, moved: int) -> None:
        if moved:
            self.progressed()
            self._moved += moved
            self.context.moved_up += moved
            self.context.activity.moved += moved

    # the end

    def _refuse_too_much(self) -> None:
        announced = self._plan.announced
        if announced is not None and self._moved > announced and self._landing.size > announced:
            raise Refusal("quota", f"more came than the {announced} bytes that ALLO announced")

    def _prove(self) -> Outcome | None:
        """The data connection ended in order: is that the end of the file?"""
        announced, size = self._plan.announced, self._landing.size
        if not self._quarantined:
            self._ended = True
            self._refuse_too_much()
            if announced is not None and announced not in (size, self._moved):
                raise Negative(
                    426, f"{size} bytes came, ALLO announced {announced}; you can go on there"
                )
            self.close_data(orderly=True)
        if self._proven or self._is_quiet():
            return self._commit()
        return Park(READABLE, max(0.0, self._quarantined - time.monotonic()))

    @property
    def _proven(self) -> bool:
        return self._plan.announced is not None or not self.transport.kernel

    def _is_quiet(self) -> bool:
        """An unprotected upload counts when its client is still there.  Raises Negative (426)."""
        wire, wait = self.context.wire, self.context.settings.config.quarantine
        if not self._quarantined:
            self._quarantined = time.monotonic() + wait
        wire.drained = False  # what was found before the upload's end says nothing
        if wire.fill() == 0 or (wait and self.context.talk.has_commands):
            raise Negative(426, "the end of the upload is in doubt; it is not published")
        return time.monotonic() >= self._quarantined

    def timed_out(self) -> Negative | None:
        return None if self._quarantined else super().timed_out()

    def _commit(self) -> Outcome | None:
        files, landing = self._login.files, self._landing
        if landing.is_small and not self._paid and not self._login.up.whole(landing.size):
            return self.pause(self._login.up)
        self._paid = True
        incoming = landing.complete()
        self._ticket = files.publishing(incoming, self._plan.parts, None)
        self._change = Pending(
            self.context,
            self._apply,
            self._ticket,
            incoming.staged.fd,
            fail=landing.discard,
            ended=self._over,
        )
        return self._committed(self._change)

    def _apply(self, folders: Folders) -> object:
        """Give it its name; on any thread."""
        files, parts, landing = self._login.files, self._plan.parts, self._landing
        incoming = landing.incoming
        assert incoming is not None
        try:
            folder = folders.get(files.tree, parts[:-1])
            landing.refuse_other_base()
        except BaseException:
            files.abandon(incoming)
            raise
        replaced = files.publish(incoming, folder, parts[-1], self._may_replace, self._ticket)
        if landing.is_small:
            landing.drop_older()
        return replaced

    def _committed(self, change: Pending) -> Outcome | None:
        if not change.over:
            return parked(self.context)
        if change.refusal is not None:
            raise change.refusal
        self.finish(226, f"{self._landing.size} bytes stored.")
        return None

    def _over(self, outcome: str) -> None:
        """The committer is done with it."""
        self._landing.close()
        self._tell(outcome)

    def _tell(self, outcome: str) -> None:
        seconds = time.monotonic() - self.began
        completeness = "" if outcome != "ok" or self._proven else "unknown"
        path = self._landing.path
        self.context.ended("up", path, self._moved, seconds, outcome, completeness)

    # what failed

    def abort(self) -> bool:
        return self._change is None and super().abort()

    def drop_data(self) -> None:
        self.context.linger(Lingering(self.context.core, self.transport, self.context.buffer))

    def give_up(self, outcome: str) -> None:
        if self._change is not None:
            return  # the committer has it, or had it
        landing = self._landing
        try:
            if outcome in ("no-space", "quota"):
                landing.discard()  # what is kept would keep the others out
            else:
                landing.keep()
        finally:
            landing.close()
            self._tell(outcome)
