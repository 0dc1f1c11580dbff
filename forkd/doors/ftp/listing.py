"""LIST, NLST, MLSD over a data connection; STAT with a path over the control connection."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

from forkd.doors.ftp.context import Context
from forkd.doors.ftp.transfer import Transfer
from forkd.errors import Refusal
from forkd.ftp.facts import Item, Line, facts_line, list_line, name_line
from forkd.ftp.lines import escape
from forkd.ftp.patterns import is_pattern, matcher
from forkd.ftp.replies import Negative
from forkd.ftp.requests import Listing
from forkd.serving.admission import Login
from forkd.serving.session import AGAIN, Job, Outcome, Park, Weight
from forkd.serving.transport import READABLE
from forkd.storage.names import check_parts
from forkd.storage.tree import Node, Parts


def item_of(node: Node, name: bytes | None = None) -> Item:
    """A node as listings tell it, under its own name or another."""
    unique = f"{node.device:x}g{node.inode:x}"
    shown = node.name if name is None else name
    return Item(shown, node.type, node.size, node.mtime, node.mode, unique)


class Source:
    """The items that a request asks for, in slices."""

    def __init__(self, login: Login, request: Listing) -> None:
        """Raises Refusal, Negative."""
        login.demand("list")
        self._tree = login.files.tree
        parts = check_parts(request.path)
        self._prefix = b""
        self._fits: Callable[[bytes], bool] | None = None
        self._alone: Node | None = None
        self.folder = parts
        try:
            node = self._tree.look(parts)
        except Refusal as refusal:
            if refusal.code != "not-found" or not parts or not is_pattern(parts[-1]):
                raise
            self._begin_pattern(request, parts)
        else:
            if node.type == "folder":
                self._prefix_names(request, request.shown)
            elif request.form == "MLSD":
                raise Negative(501, "MLSD lists folders")
            else:
                self._alone = node
                self._prefix_names(request, os.path.dirname(request.shown))

    def _begin_pattern(self, request: Listing, parts: Parts) -> None:
        self.folder = parts[:-1]
        self._fits = matcher(parts[-1])
        self._prefix_names(request, os.path.dirname(request.shown))

    def _prefix_names(self, request: Listing, folder: bytes) -> None:
        """NLST gives names that RETR understands: with the folder, where one was named."""
        if request.form == "NLST" and folder and folder != b".":
            self._prefix = folder.rstrip(b"/") + b"/"

    def slices(self) -> Iterator[list[Item]]:
        """Reads the folder; on a thread.  Raises Refusal."""
        if self._alone is not None:
            yield [item_of(self._alone, self._prefix + self._alone.name)]
            return
        for nodes in self._tree.scan(self.folder):
            fits = self._fits
            yield [
                item_of(node, self._prefix + node.name)
                for node in nodes
                if fits is None or fits(node.name)
            ]

    def around(self) -> list[Item]:
        """The folder itself and that above it, for MLSD."""
        own = item_of(self._tree.look(self.folder))
        items = [_as(own, "cdir", b".")]
        if self.folder:
            items.append(_as(item_of(self._tree.look(self.folder[:-1])), "pdir", b".."))
        return items


def _as(item: Item, kind: str, name: bytes) -> Item:
    return Item(name, kind, item.size, item.mtime, item.mode, item.unique)


class SendingList(Transfer):
    """A slice of the folder at a time is read on a thread and sent from the loop's."""

    def __init__(self, context: Context, login: Login, request: Listing) -> None:
        """Raises Refusal, Negative."""
        super().__init__(context, "Here comes the listing.")
        self._source = Source(login, request)
        self._line = _line_of(context, login, request)
        self._slices = self._source.slices()
        self._with_around = request.form == "MLSD"
        self._ready = b""
        self._over = False
        context.activity.state = "listing"

    def move(self) -> Outcome | None:
        while self._ready:
            count = self.transport.send(self._ready)
            if count is None:
                return self.wait()
            self._ready = self._ready[count:]
            self.context.moved_down += count
            self.progressed()
        if not self._over:
            return Job(self._read, Weight.LONG)
        if not self.transport.close_notify():
            return self.wait()
        self.close_data(orderly=True)
        self.finish(226, "That is all.")
        return None

    def _read(self) -> Outcome:
        items = next(self._slices, None)
        if items is None:
            self._over = True
            return AGAIN
        if self._with_around:
            self._with_around = False
            items = self._source.around() + items
        self._ready = b"".join(map(self._line, items))
        return AGAIN

    def give_up(self, outcome: str) -> None:  # noqa: ARG002
        self._slices.close()  # type: ignore[attr-defined]


def _line_of(context: Context, login: Login, request: Listing) -> Line:
    if request.form == "NLST":
        return name_line
    if request.form == "MLSD":
        wanted, rights = context.talk.state.facts, login.account.permissions
        return lambda item: facts_line(item, wanted, rights) + b"\r\n"
    now = time.time()
    return lambda item: list_line(item, now)


class TellingList:
    """A context.Task: STAT with a path."""

    def __init__(self, context: Context, login: Login, request: Listing) -> None:
        """Raises Refusal, Negative."""
        self._context = context
        self._slices = Source(login, request).slices()
        self._line = _line_of(context, login, request)
        self._ready = b"213-Here it is:\r\n"
        self._over = False

    def step(self) -> Outcome | None:
        context = self._context
        if self._ready:
            context.talk.say_raw(self._ready)
            self._ready = b""
        if not context.wire.flush():
            stall = context.core.config.limits.stall_timeout
            wants = context.wire.transport.wants
            return Park(wants | (0 if context.talk.full else READABLE), stall)
        if not self._over:
            return Job(self._read, Weight.LONG)
        context.talk.finish(213, "That is all.")
        return None

    def _read(self) -> Outcome:
        items = next(self._slices, None)
        if items is None:
            self._over = True
        else:  # indented: a line that begins with a code would end the reply
            self._ready = escape(b"".join(b" " + self._line(item) for item in items))
        return AGAIN

    def abort(self) -> bool:
        self.failed(Negative(426, "broken off as you wish"), "broken-off")
        return True

    def timed_out(self) -> Negative | None:
        return Negative(421, "you took no answer for too long")

    def failed(self, reply: Negative, outcome: str) -> None:  # noqa: ARG002
        self.abandon()
        self._context.talk.finish(reply.code, reply.text)

    def abandon(self) -> None:
        self._slices.close()  # type: ignore[attr-defined]
