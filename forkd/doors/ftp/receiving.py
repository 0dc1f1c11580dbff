"""STOR, APPE, STOU: a file from the client.

    gathering -> begun -> pumping -> proving -> committing -> over
        |                               ^
        +-- a small file, whole --------+

A small file is gathered in memory, and its size is known when its space is reserved.  What grows
beyond goes to a partial, whose lease grows with it.  A break keeps what came, so that the client
can go on with it.

Complete is an upload whose data connection ended in order (under TLS with close_notify) with as
many bytes as ALLO announced, if it did, while the client was still there.  Without TLS and ALLO
nothing proves that: `quarantine` waits whether the client goes away.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from forkd.doors.ftp.changes import Pending, parked
from forkd.doors.ftp.context import Context
from forkd.doors.ftp.transfer import Transfer
from forkd.errors import Refusal, from_oserror
from forkd.events.journal import UNTOLD, Ticket
from forkd.ftp import paths
from forkd.ftp.replies import Negative, quoted
from forkd.serving.admission import Login
from forkd.serving.session import AGAIN, Job, Outcome, Park, Weight
from forkd.serving.transfer import SMALL, STEP_BYTES, STEP_SECONDS, Kit, Pace, Receiver
from forkd.serving.transport import READABLE
from forkd.storage.charged import Incoming
from forkd.storage.commit import Folders
from forkd.storage.growing import copy_some
from forkd.storage.names import check_parts, show
from forkd.storage.sidecar import Source
from forkd.storage.targets import check_target, refuse_full
from forkd.storage.tree import OpenFile, Parts

CLIENT = "ftp"
_COPY_BYTES = 64 * 1024 * 1024


def source_of(parts: Parts) -> Source:
    """What tells an FTP upload from others: whose it is, and its path."""
    return Source(show(parts), CLIENT, None, "", False, None)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is uploaded and how.  `at` None: at the end of what is there; 0: afresh.

    `unique`: the name must be new.
    """

    parts: Parts
    at: int | None
    announced: int | None
    unique: bool = False


class Receiving(Transfer):
    """See the module."""

    def __init__(self, context: Context, login: Login, plan: Plan) -> None:
        """Raises Refusal, Negative."""
        login.demand("write")
        if not plan.parts:
            raise Refusal("is-a-folder", "this is the account's folder")
        self._path = show(check_parts(plan.parts))
        name = paths.show(plan.parts)
        opening = b"FILE: " + name[1:] if plan.unique else b"Taking " + quoted(name) + b"."
        super().__init__(context, opening)
        self._login = login
        self._plan = plan
        self._may_replace = not plan.unique and login.allows("replace")
        check_target(login.files, plan.parts, False, self._may_replace)
        self._source = source_of(plan.parts)
        self._small = b""
        self._incoming: Incoming | None = None
        self._receiver: Receiver | None = None
        self._base: OpenFile | None = None
        """The published file that is copied and appended to."""
        self._copied = 0
        self._moved = 0
        self._pace = Pace.MORE
        self._paid = False
        self._ended = False
        self._quarantined = 0.0
        self._ticket: Ticket = UNTOLD
        self._change: Pending | None = None
        self._copied_from: os.stat_result | None = None
        self._begin_first = plan.at != 0 or (plan.announced or 0) > SMALL
        activity = context.activity
        activity.state, activity.path, activity.transferring = "upload", self._path, True
        activity.size, activity.moved = plan.announced or 0, 0

    def step(self) -> Outcome | None:
        """What is refused for its size is refused before the data connection is used."""
        if self._change is not None:
            return self._committed(self._change)
        if self._begin_first:
            self._begin_first = False
            return Job(self._begin, Weight.LONG)
        if self._base is not None and self._incoming is not None:
            return Job(self._copy, Weight.LONG)
        return super().step()

    # moving

    def move(self) -> Outcome | None:
        if self._ended:
            return self._prove()
        if self._receiver is None:
            return self._gather()
        pace, self._pace = self._pace, Pace.MORE
        if pace is Pace.BLOCKED:
            return self.wait()
        if pace is Pace.PAUSE:
            return self.pause(self._login.up)
        self.say_opening()
        return Job(self._pump, Weight.LONG)

    def _gather(self) -> Outcome | None:
        """Take what is there, on the loop's thread."""
        buffer = self.context.buffer
        while len(self._small) <= SMALL:
            count = self.transport.receive_into(buffer)
            if count is None:
                return self.wait()
            if count == 0:
                return self._prove()
            self._small += buffer[:count]
            self._count(count)
        return Job(self._begin, Weight.LONG)

    def _begin(self) -> Outcome:
        """Find what is gone on with and reserve; on a thread."""
        plan, files = self._plan, self._login.files
        held = files.held(self._source, plan.parts) if plan.at != 0 else None
        published = self._published() if plan.at != 0 else None
        if published is not None and held is not None:
            if self.context.settings.config.resume == "published":
                os.close(published.fd)
                raise Refusal(
                    "source-changed",
                    f"{held.size} bytes of an interrupted upload of this name are held, and there "
                    "is a file: send it whole, with STOR alone",
                )
            os.close(published.fd)
            published = None
        if published is not None:
            self._begin_copy(published)
        else:
            self._incoming = files.begin_growing(self._source, plan.parts, plan.at, plan.announced)
        staged = self._incoming_now.staged
        refuse_full(staged, plan.announced or 0)
        self._receiver = Receiver(staged, self._path, self._login.up)
        self.context.activity.moved = staged.held + self._moved
        small, self._small = self._small, b""
        while small:
            room = self._room()
            self._receiver.absorb(small[:room])
            small = small[room:]
        return AGAIN

    def _published(self) -> OpenFile | None:
        try:
            return self._login.files.tree.open_read(self._plan.parts)
        except Refusal as refusal:
            if refusal.code == "not-found":
                return None
            raise

    def _begin_copy(self, published: OpenFile) -> None:
        self._base = published
        at = published.size if self._plan.at is None else self._plan.at
        if at > published.size:
            raise Refusal("bad-range", f"byte {at} is beyond the end, at {published.size} bytes")
        self._incoming = self._login.files.begin_copy(at, self._plan.announced, self._path)

    def _copy(self) -> Outcome:
        """The next piece of the published file; on a thread."""
        assert self._base is not None
        staged = self._incoming_now.staged
        if self._copied < staged.held:
            self._copied += copy_some(
                *(self._base, staged, self._copied, _COPY_BYTES, self._plan.parts)
            )
            return AGAIN
        base, self._base = self._base, None
        self._copied_from = os.fstat(base.fd)
        os.close(base.fd)
        return AGAIN

    def _pump(self) -> Outcome:
        """On a thread: never a byte beyond what is leased."""
        kit = self.context.core.kits.take()
        ends, moved = time.monotonic() + STEP_SECONDS, 0
        receiver = self._receiver_now
        try:
            while moved < STEP_BYTES and time.monotonic() < ends:
                room = self._incoming_now.lease.total - receiver.position
                if not room and not self._make_room(kit):
                    break
                room = self._incoming_now.lease.total - receiver.position
                before = receiver.position
                try:
                    step = receiver.pump(self.transport, min(STEP_BYTES - moved, room), kit)
                finally:
                    self._count(receiver.position - before)
                moved += step.moved
                self._pace, self._ended = step.pace, step.pace is Pace.EOF
                if step.pace in (Pace.BLOCKED, Pace.PAUSE, Pace.EOF):
                    break
        finally:
            self.context.core.kits.give_back(kit)
        self._refuse_too_much(receiver.position)
        return AGAIN

    def _make_room(self, kit: Kit) -> bool:
        """Lease more; where nothing is left, a byte must come before that is a refusal.

        False where the next byte is not there, or none comes any more.
        """
        receiver = self._receiver_now
        try:
            self._room()
            return True
        except Refusal as refusal:
            if refusal.code != "quota":
                raise
        count = self.transport.receive_into(kit.buffer[:1])
        if not count:
            self._pace = Pace.BLOCKED if count is None else Pace.EOF
            self._ended = count == 0
            return False
        self._room()
        receiver.absorb(kit.buffer[:1])
        self._count(1)
        return self._incoming_now.lease.total > receiver.position

    def _room(self) -> int:
        """Bytes that may be written now, at least one.  Raises Refusal."""
        incoming, receiver = self._incoming_now, self._receiver_now
        if incoming.lease.total <= receiver.position:
            incoming = self._login.files.extend(incoming, receiver.position)
            self._incoming = incoming
        return incoming.lease.total - receiver.position

    @property
    def _incoming_now(self) -> Incoming:
        assert self._incoming is not None
        return self._incoming

    @property
    def _receiver_now(self) -> Receiver:
        assert self._receiver is not None
        return self._receiver

    def _count(self, moved: int) -> None:
        if moved:
            self.progressed()
            self._moved += moved
            self.context.moved_up += moved
            self.context.activity.moved += moved

    # the end

    @property
    def _size(self) -> int:
        return self._receiver.position if self._receiver is not None else len(self._small)

    def _refuse_too_much(self, size: int) -> None:
        announced = self._plan.announced
        if announced is not None and self._moved > announced and size > announced:
            raise Refusal("quota", f"more came than the {announced} bytes that ALLO announced")

    def _prove(self) -> Outcome | None:
        """The data connection ended in order: is that the end of the file?"""
        announced = self._plan.announced
        if not self._quarantined:
            self._ended = True
            self._refuse_too_much(self._size)
            if announced is not None and announced not in (self._size, self._moved):
                raise Negative(
                    426, f"{self._size} bytes came, ALLO announced {announced}; you can go on there"
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
        if wire.fill() == 0 or (wait and self.context.talk.has_commands):
            raise Negative(426, "the end of the upload is in doubt; it is not published")
        return time.monotonic() >= self._quarantined

    def timed_out(self) -> Negative | None:
        return None if self._quarantined else super().timed_out()

    def _commit(self) -> Outcome | None:
        files = self._login.files
        if self._incoming is None:
            if not self._paid and not self._login.up.whole(len(self._small)):
                return self.pause(self._login.up)
            self._paid = True
            self._incoming = self._begin_small()
        else:
            self._incoming = files.complete(self._incoming, self._size)
        incoming = self._incoming
        self._ticket = files.publishing(incoming, self._plan.parts, None)
        self._change = Pending(
            self.context,
            self._apply,
            self._ticket,
            incoming.staged.fd,
            fail=lambda: files.discard(incoming),
            ended=self._tell,
        )
        return self._committed(self._change)

    def _begin_small(self) -> Incoming:
        """A whole small file: its size is known.  Raises Refusal."""
        files = self._login.files
        try:
            incoming = files.begin_own(self._path, len(self._small))
        except Refusal as refusal:
            if refusal.code != "quota" or not files.drop_held(self._source, self._plan.parts):
                raise
            incoming = files.begin_own(self._path, len(self._small))
        try:
            left = memoryview(self._small)
            while left:
                left = left[os.write(incoming.staged.fd, left) :]
        except OSError as error:
            files.discard(incoming)
            raise from_oserror(error, self._path) from error
        return incoming

    def _apply(self, folders: Folders) -> object:
        """Give it its name; on any thread."""
        files, parts, incoming = self._login.files, self._plan.parts, self._incoming_now
        try:
            folder = folders.get(files.tree, parts[:-1])
            self._refuse_other_base()
        except BaseException:
            files.abandon(incoming)
            raise
        replaced = files.publish(incoming, folder, parts[-1], self._may_replace, self._ticket)
        if self._receiver is None:
            self._drop_held()
        return replaced

    def _drop_held(self) -> None:
        """An upload that was begun before this one is of no use any more."""
        try:
            self._login.files.drop_held(self._source, self._plan.parts)
        except Refusal:
            pass  # somebody else is about to, or it expires

    def _refuse_other_base(self) -> None:
        """What was appended to must still be what has the name.  Raises Refusal (busy)."""
        base = self._copied_from
        if base is None:
            return
        now = self._login.files.tree.look(self._plan.parts)
        if (now.device, now.inode, now.size) != (base.st_dev, base.st_ino, base.st_size):
            raise Refusal("busy", f"{self._path!r} was changed meanwhile; try again")

    def _committed(self, change: Pending) -> Outcome | None:
        if not change.over:
            return parked(self.context)
        if change.refusal is not None:
            raise change.refusal
        self.finish(226, f"{self._size} bytes stored.")
        return None

    def abort(self) -> bool:
        return self._change is None and super().abort()

    def give_up(self, outcome: str) -> None:
        if self._change is not None:
            return  # the committer has it, or had it
        incoming, self._incoming = self._incoming, None
        try:
            if self._base is not None:
                os.close(self._base.fd)
                self._base = None
            if outcome not in ("no-space", "quota"):
                self._keep(incoming)
            elif incoming is not None:
                self._login.files.discard(incoming)  # what is kept would keep the others out
        finally:
            self._tell(outcome)

    def _keep(self, incoming: Incoming | None) -> None:
        """What came stays for the client to go on with."""
        if incoming is not None:
            self._login.files.abandon(incoming)
        elif self._small and not self._plan.unique:
            self._keep_small()

    def _keep_small(self) -> None:
        """Best effort: nobody was promised that what broke off is kept."""
        files = self._login.files
        try:
            incoming = files.begin_growing(self._source, self._plan.parts, 0, len(self._small))
        except Refusal:
            return
        try:
            os.pwrite(incoming.staged.fd, self._small, 0)
        except OSError:
            pass
        files.abandon(incoming)

    def _tell(self, outcome: str) -> None:
        seconds = time.monotonic() - self.began
        completeness = "" if outcome != "ok" or self._proven else "unknown"
        self.context.ended("up", self._path, self._moved, seconds, outcome, completeness)
