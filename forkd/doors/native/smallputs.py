"""Puts whose content came with the request: reserved, written and submitted together.

One reservation and one look at the folder serve many files, so a small file costs little more than
its own four system calls: open, write, rename, close.
"""

from __future__ import annotations

import os
import time

from forkd.digest import digest_of
from forkd.doors.native.changes import Answered, as_refusal, submit
from forkd.doors.native.context import Context, Login
from forkd.doors.native.publishing import Publication, Upload, mismatch, set_time
from forkd.errors import Refusal, from_oserror
from forkd.protocol import Message
from forkd.storage.charged import Incoming
from forkd.storage.names import parse_file_path
from forkd.verbs import Put

_MOST = 64
_MOST_BYTES = 1024 * 1024


class SmallPuts:
    """The small puts of one session that wait for each other, in their order."""

    __slots__ = ("_bytes", "_context", "_login", "_waiting")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._login: Login | None = None
        self._waiting: list[tuple[Upload, bytes]] = []
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, login: Login, message: Message, put: Put) -> None:
        """Take one up.  Raises Refusal."""
        login.demand("write")
        parts = parse_file_path(put.path)
        digest = _check_digest(put, message.payload)
        self._login = login
        upload = Upload(message.id, put, parts, digest, time.monotonic())
        self._waiting.append((upload, message.payload))
        self._bytes += put.size
        if len(self._waiting) >= _MOST or self._bytes >= _MOST_BYTES:
            self.flush()

    def flush(self) -> bool:
        """Write and submit those that wait; False when there are none.  Raises nothing."""
        waiting, login = self._waiting, self._login
        if not waiting or login is None:
            return False
        self._waiting, self._bytes = [], 0
        begun = self._begin(login, [(upload.put.path, upload.put.size) for upload, _ in waiting])
        changes: list[Answered] = []
        for (upload, content), incoming in zip(waiting, begun, strict=True):
            try:
                changes.append(self._written(login, upload, content, incoming))
            except Exception as error:  # the others' answers must not be lost with this one's
                submit(self._context, changes)
                changes = []
                self._context.refuse(upload.ident, as_refusal(self._context, error))
        submit(self._context, changes)
        return True

    def _begin(self, login: Login, wanted: list[tuple[str, int]]) -> list[Incoming | Refusal]:
        try:
            return login.files.begin_fresh(wanted)
        except Exception as error:  # each of them is told
            return [as_refusal(self._context, error)] * len(wanted)

    def _written(
        self, login: Login, upload: Upload, content: bytes, incoming: Incoming | Refusal
    ) -> Publication:
        if isinstance(incoming, Refusal):
            raise incoming
        try:
            written = os.write(incoming.staged.fd, content)
            while written < len(content):
                written += os.write(incoming.staged.fd, memoryview(content)[written:])
            set_time(incoming, upload.put)
            publication = Publication(self._context, login, upload, incoming)
        except BaseException as error:
            login.files.discard(incoming)
            if isinstance(error, OSError):
                raise from_oserror(error, upload.put.path) from error
            raise
        self._context.moved_up += len(content)
        return publication


def is_inline(message: Message, put: Put) -> bool:
    """Whether the content came with the request.  Raises Refusal where a part of it did."""
    if len(message.payload) == put.size:
        return True
    if message.payload:
        raise Refusal(
            "bad-request",
            f"put: {len(message.payload)} bytes came with a declared size of {put.size}",
        )
    return False


def _check_digest(put: Put, content: bytes) -> str | None:
    if put.digest is None and not put.check:
        return None
    digest = digest_of(content)
    if put.digest is not None and put.digest != digest:
        raise mismatch(put.digest, digest)
    return digest
