"""Where the bytes of an upload are until they have their name.

A small upload is held in memory: its size is known when its space is reserved.  What grows beyond
goes to a partial, whose lease grows with it.  What is appended to a published file goes behind a
copy of that, which nobody else may append to meanwhile.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass

from forkd.errors import Refusal, from_oserror
from forkd.serving.admission import Login
from forkd.serving.transfer import Kit, Pace, Receiver, Step
from forkd.serving.transport import Transport
from forkd.storage.charged import Incoming
from forkd.storage.growing import copy_some
from forkd.storage.names import check_parts, show
from forkd.storage.sidecar import Source
from forkd.storage.targets import refuse_full
from forkd.storage.tree import OpenFile, Parts

CLIENT = "ftp"
_COPY_BYTES = 64 * 1024 * 1024


def source_of(parts: Parts) -> Source:
    """What tells an FTP upload from others: whose it is, and its path."""
    return Source(show(parts), CLIENT, None, "", False, None)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is uploaded and how.  `at` None: at the end of what is there; 0: afresh.

    `announced` is ALLO's number of bytes.  `unique`: the name must be new.
    """

    parts: Parts
    at: int | None
    announced: int | None
    unique: bool = False


class Landing:
    """One upload's bytes."""

    def __init__(self, login: Login, plan: Plan, *, prefers_held: bool) -> None:
        """`prefers_held`: of a file and an interrupted upload of one name, the upload is meant.

        Raises Refusal (bad-name).
        """
        self.path = show(check_parts(plan.parts))
        self.incoming: Incoming | None = None
        self._files = login.files
        self._flow = login.up
        self._plan = plan
        self._prefers_held = prefers_held
        self._source = source_of(plan.parts)
        self._small = b""
        self._receiver: Receiver | None = None
        self._base: OpenFile | None = None
        """The published file that is appended to, locked against others who would."""
        self._copied = 0
        self._is_copied = False

    @property
    def size(self) -> int:
        """Bytes of the file so far."""
        return self._receiver.position if self._receiver is not None else len(self._small)

    @property
    def is_small(self) -> bool:
        """All of it is in memory."""
        return self._receiver is None

    @property
    def needs_copy(self) -> bool:
        """`copy` has more to do."""
        return self._base is not None and not self._is_copied

    def hold(self, data: memoryview) -> None:
        """Take bytes of what may be a small upload."""
        self._small += data

    # a partial; on a thread

    def begin(self) -> int:
        """Find what is gone on with and reserve; how many bytes are there.  Raises Refusal."""
        plan, files = self._plan, self._files
        held = files.held(self._source, plan.parts) if plan.at != 0 else None
        base = self._published() if plan.at != 0 else None
        if base is not None and held is not None:
            os.close(base.fd)
            base = None
            if not self._prefers_held:
                raise Refusal(
                    "source-changed",
                    f"{held.size} bytes of an interrupted upload of this name are held, and there "
                    "is a file: send it whole, with STOR alone",
                )
        if base is not None:
            self._base = base
            self.incoming = self._begin_behind(base)
        else:
            self.incoming = files.begin_growing(self._source, plan.parts, plan.at, plan.announced)
        staged = self._incoming.staged
        refuse_full(staged, plan.announced or 0)
        self._receiver = Receiver(staged, self.path, self._flow)
        small, self._small = self._small, b""
        while small:
            room = self._room()
            self._receiver.absorb(small[:room])
            small = small[room:]
        return staged.held

    def _published(self) -> OpenFile | None:
        try:
            return self._files.tree.open_read(self._plan.parts)
        except Refusal as refusal:
            if refusal.code == "not-found":
                return None
            raise

    def _begin_behind(self, base: OpenFile) -> Incoming:
        at = base.size if self._plan.at is None else self._plan.at
        if at > base.size:
            raise Refusal("bad-range", f"byte {at} is beyond the end, at {base.size} bytes")
        try:
            fcntl.flock(base.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refusal("busy", f"{self.path!r} is being appended to; try again") from None
        return self._files.begin_copy(at, self._plan.announced, self.path)

    def copy(self) -> None:
        """The next piece of the published file.  Raises Refusal."""
        assert self._base is not None
        staged = self._incoming.staged
        if self._copied < staged.held:
            self._copied += copy_some(
                *(self._base, staged, self._copied, _COPY_BYTES, self._plan.parts)
            )
        self._is_copied = self._copied >= staged.held

    def pump(self, transport: Transport, most: int, kit: Kit) -> Step:
        """Move bytes from the connection, never one beyond what is leased.

        Raises Refusal (quota, once a byte came that nothing is left for), ConnectionError.
        """
        assert self._receiver is not None
        try:
            room = self._room()
        except Refusal as refusal:
            if refusal.code != "quota":
                raise
            return self._pump_one(self._receiver, transport, kit)
        return self._receiver.pump(transport, min(most, room), kit)

    def _pump_one(self, receiver: Receiver, transport: Transport, kit: Kit) -> Step:
        count = transport.receive_into(kit.buffer[:1])
        if not count:
            return Step(0, Pace.BLOCKED if count is None else Pace.EOF)
        self._room()
        receiver.absorb(kit.buffer[:1])
        return Step(1, Pace.MORE)

    def _room(self) -> int:
        """Bytes that may be written now, at least one.  Raises Refusal."""
        incoming, position = self._incoming, self.size
        if incoming.lease.total <= position:
            incoming = self._files.extend(incoming, position)
            self.incoming = incoming
        return incoming.lease.total - position

    @property
    def _incoming(self) -> Incoming:
        assert self.incoming is not None
        return self.incoming

    # whole

    def complete(self) -> Incoming:
        """All of it came: exactly its size is reserved and staged.  Raises Refusal."""
        if self.incoming is None:
            self.incoming = self._stage_small()
        else:
            self.incoming = self._files.complete(self.incoming, self.size)
        return self.incoming

    def _stage_small(self) -> Incoming:
        files = self._files
        try:
            incoming = files.begin_own(self.path, len(self._small))
        except Refusal as refusal:
            if refusal.code != "quota" or not files.drop_held(self._source, self._plan.parts):
                raise
            incoming = files.begin_own(self.path, len(self._small))
        try:
            left = memoryview(self._small)
            while left:
                left = left[os.write(incoming.staged.fd, left) :]
        except OSError as error:
            files.discard(incoming)
            raise from_oserror(error, self.path) from error
        return incoming

    def refuse_other_base(self) -> None:
        """What was appended to must still be what has the name.  Raises Refusal (busy)."""
        if self._base is None:
            return
        base, now = os.fstat(self._base.fd), self._files.tree.look(self._plan.parts)
        if (now.device, now.inode, now.size) != (base.st_dev, base.st_ino, base.st_size):
            raise Refusal("busy", f"{self.path!r} was changed meanwhile; try again")

    def drop_older(self) -> None:
        """An upload that was begun before this one is of no use any more."""
        try:
            self._files.drop_held(self._source, self._plan.parts)
        except Refusal:
            pass  # somebody else is about to, or it expires

    # not whole

    def discard(self) -> None:
        """Nothing is kept."""
        incoming, self.incoming = self.incoming, None
        if incoming is not None:
            self._files.discard(incoming)

    def keep(self) -> None:
        """What came stays for the client to go on with."""
        incoming, self.incoming = self.incoming, None
        if incoming is not None:
            self._files.abandon(incoming)
        elif self._small and not self._plan.unique:
            self._keep_small()

    def _keep_small(self) -> None:
        """Best effort: nobody was promised that what broke off is kept."""
        files = self._files
        try:
            incoming = files.begin_growing(self._source, self._plan.parts, 0, len(self._small))
        except Refusal:
            return
        try:
            os.pwrite(incoming.staged.fd, self._small, 0)
        except OSError:
            pass
        files.abandon(incoming)

    def close(self) -> None:
        """Let go of the file that was appended to; once nothing of this is under way."""
        base, self._base = self._base, None
        if base is not None:
            os.close(base.fd)
