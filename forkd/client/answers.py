"""Typed answers of a server.  Unknown fields are ignored; a wrong type is a ProtocolError."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from msgspec import Struct

from forkd.client.errors import ProtocolError
from forkd.verbs import QuotaReply


class Welcome(Struct, frozen=True):
    """Answer to hello.  `register`: whether one may make oneself an account."""

    version: int
    server: str = ""
    session: str = ""
    tls: bool = False
    register: bool = False


class Login(Struct, frozen=True):
    """Answer to auth."""

    user: str
    permissions: list[str] = []
    quota: QuotaReply | None = None
    commands: list[str] | None = None
    """The names that `run` takes from this user; None when the server does not tell."""


class Offer(Struct, frozen=True):
    """The server is ready for a stream: it holds `offset` bytes; `proof` is their digest."""

    offset: int = 0
    proof: str | None = None


class Stored(Struct, frozen=True):
    """A file is in place.  `size` bytes; `digest` is None when it was not asked for."""

    size: int
    digest: str | None = None
    replaced: bool = False


class Head(Struct, frozen=True):
    """First frame of a download: the file's size and mtime, and which bytes follow."""

    size: int
    mtime: float
    offset: int
    length: int


class Told(Struct, frozen=True):
    """Any later frame of a download: SHA-256 values of whole blocks sent before it, joined."""

    blocks: str = ""


class Tail(Struct, frozen=True):
    """Last frame of a download: the digest of the bytes sent, when it was asked for."""

    digest: str | None = None
    blocks: str = ""


class Removed(Struct, frozen=True):
    """What a remove took away."""

    files: int = 0
    folders: int = 0


class Ended(Struct, frozen=True):
    """How a command ended.  `reason`: "exit", "signal", "timeout" or "output-limit"."""

    status: int | None
    signal: int | None = None
    reason: str = "exit"


class Part(Struct, frozen=True):
    """Meta of a DATA frame of `run`: which stream the bytes belong to."""

    stream: str = "stdout"


class News(Struct, frozen=True):
    """A NOTICE."""

    notice: str = ""


T = TypeVar("T", bound=Struct)


def decode(meta: bytes, kind: type[T]) -> T:
    """The meta of a frame as `kind`; an empty meta is {}.  Raises ProtocolError."""
    try:
        return msgspec.json.decode(meta or b"{}", type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(
            f"the server's answer is not of this protocol ({kind.__name__}: {error})"
        ) from None
