"""A complete upload on its way to its name."""

from __future__ import annotations

import os
import time

from msgspec import Struct

from forkd.doors.native.changes import Answered
from forkd.doors.native.context import Context, Login
from forkd.errors import Refusal
from forkd.storage.charged import Incoming
from forkd.storage.commit import Folders
from forkd.storage.names import show
from forkd.storage.tree import Parts
from forkd.verbs import Put


class Upload(Struct, frozen=True, gc=False):
    """What was asked for, and what has arrived.  `began` is of the monotonic clock, in seconds."""

    ident: int
    put: Put
    parts: Parts
    digest: str | None
    began: float


class _Stored(Struct, frozen=True, gc=False):
    size: int
    digest: str | None
    replaced: object


class Publication(Answered):
    """Makes an upload durable and gives it its name."""

    __slots__ = ("_incoming", "_login", "_upload", "data", "ticket")

    def __init__(self, context: Context, login: Login, upload: Upload, incoming: Incoming) -> None:
        super().__init__(context, upload.ident)
        self._login = login
        self._upload = upload
        self._incoming = incoming
        self.data = incoming.staged.fd
        self.ticket = login.files.publishing(incoming, upload.parts, upload.digest)

    def apply(self, folders: Folders) -> object:
        put, parts, files = self._upload.put, self._upload.parts, self._login.files
        permissions = self._login.account.permissions
        try:
            folder = folders.get(files.tree, parts[:-1], put.parents and "mkdir" in permissions)
        except BaseException:
            files.abandon(self._incoming)
            raise
        may_replace = put.replace and "replace" in permissions
        return files.publish(self._incoming, folder, parts[-1], may_replace, self.ticket)

    def fail(self) -> None:
        self._login.files.discard(self._incoming)

    def reply(self, result: object) -> object:
        return _Stored(self._upload.put.size, self._upload.digest, result)

    def ended(self, outcome: str) -> None:
        upload = self._upload
        arrived = upload.put.size - self._incoming.staged.held
        seconds = time.monotonic() - upload.began
        self._context.ended("up", show(upload.parts), arrived, seconds, outcome)


def set_time(incoming: Incoming, put: Put) -> None:
    """Give the file the time that its sender wants.  Raises OSError."""
    if put.mtime is not None:
        stamp = int(put.mtime * 1_000_000_000)
        os.utime(incoming.staged.fd, ns=(stamp, stamp))


def mismatch(announced: str, arrived: str) -> Refusal:
    """The content is not what was announced."""
    return Refusal(
        "digest-mismatch",
        f"the content has the digest {arrived}, announced was {announced}; nothing was changed",
    )
