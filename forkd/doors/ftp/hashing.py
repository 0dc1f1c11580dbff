"""HASH and its older aliases: a file's digest, computed a piece at a time on a thread."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable
from typing import Protocol

from forkd.doors.ftp.context import Context
from forkd.errors import Refusal, from_oserror
from forkd.ftp.replies import Negative
from forkd.ftp.requests import Digest
from forkd.serving.admission import Login
from forkd.serving.session import AGAIN, Job, Outcome, Weight
from forkd.storage.names import check_parts, show

_STEP_BYTES = 32 * 1024 * 1024
_READ = 1024 * 1024


class Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:08X}"


_MAKE: dict[str, Callable[[], Hash]] = {
    "SHA-256": hashlib.sha256,
    "SHA-512": hashlib.sha512,
    "SHA-1": lambda: hashlib.sha1(usedforsecurity=False),
    "MD5": lambda: hashlib.md5(usedforsecurity=False),
    "CRC32": _Crc32,
}


class Hashing:
    """A context.Task."""

    def __init__(self, context: Context, login: Login, request: Digest) -> None:
        """Raises Refusal."""
        login.demand("read")
        self._context = context
        self._request = request
        self._path = show(check_parts(request.path))
        self._hash = _MAKE[request.algorithm]()
        found = login.files.tree.open_read(request.path)
        self._fd, self._size, self._position = found.fd, found.size, 0

    def step(self) -> Outcome | None:
        if self._position < self._size:
            return Job(self._read, Weight.LONG)
        self.abandon()
        digest, finish = self._hash.hexdigest(), self._context.talk.finish
        if self._request.verb == "HASH":  # draft-bryan-ftpext-hash-02 section 3.2
            last = max(0, self._size - 1)
            path = b"/" + b"/".join(self._request.path)
            finish(213, f"{self._request.algorithm} 0-{last} {digest} ".encode() + path)
        else:
            finish(250, digest)
        return None

    def _read(self) -> Outcome:
        ends = min(self._size, self._position + _STEP_BYTES)
        try:
            while self._position < ends:
                piece = os.pread(self._fd, min(_READ, ends - self._position), self._position)
                if not piece:
                    raise Refusal("busy", f"{self._path!r} became shorter while it was read")
                self._hash.update(piece)
                self._position += len(piece)
        except OSError as error:
            raise from_oserror(error, self._path) from error
        return AGAIN

    def abort(self) -> bool:
        self.failed(Negative(426, "broken off as you wish"), "broken-off")
        return True

    def timed_out(self) -> Negative | None:
        return None

    def failed(self, reply: Negative, outcome: str) -> None:  # noqa: ARG002
        self.abandon()
        self._context.talk.finish(reply.code, reply.text)

    def abandon(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
