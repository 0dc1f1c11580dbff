"""The typed vocabulary of the native protocol: what `meta` may say, both directions.

Requests are a union told apart by "op"; unknown fields are ignored, so that an older server
understands what it can of a newer client.  Nothing here does I/O.
"""

from __future__ import annotations

from typing import Annotated, get_args

import msgspec
from msgspec import Meta, Struct

from forkd.errors import Refusal

Size = Annotated[int, Meta(ge=0, le=(1 << 62))]
Path = Annotated[str, Meta(max_length=4096)]
Name = Annotated[str, Meta(min_length=1, max_length=64)]
Secret = Annotated[str, Meta(min_length=1, max_length=1024)]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Label = Annotated[str, Meta(max_length=128)]
Mtime = Annotated[float, Meta(ge=-1e11, le=1e11)]
"""Seconds since 1970; the bounds are those a file's time can be set to."""


class Request(Struct, frozen=True, tag_field="op", forbid_unknown_fields=False):
    """Base of all requests."""


class Hello(Request, frozen=True, tag="hello"):
    versions: list[int]
    agent: Label = ""


class Auth(Request, frozen=True, tag="auth"):
    user: Name
    password: Secret


class Register(Request, frozen=True, tag="register"):
    user: Name
    password: Secret


class Put(Request, frozen=True, tag="put"):
    """With `check` the upload is digested block by block; the digest comes here or at the end."""

    path: Path
    size: Size
    digest: Digest | None = None
    check: bool = False
    client: Label = ""
    tag: Label = ""
    mtime: Mtime | None = None
    parents: bool = False
    replace: bool = True
    restart: bool = False


class Get(Request, frozen=True, tag="get"):
    path: Path
    offset: Size = 0
    length: Size | None = None
    check: bool = False


class List(Request, frozen=True, tag="list"):
    path: Path = ""


class Stat(Request, frozen=True, tag="stat"):
    path: Path = ""


class Mkdir(Request, frozen=True, tag="mkdir"):
    path: Path
    parents: bool = False


class Move(Request, frozen=True, tag="move"):
    path: Path
    to: Path
    replace: bool = False


class Remove(Request, frozen=True, tag="remove"):
    path: Path
    recursive: bool = False


class Quota(Request, frozen=True, tag="quota"):
    pass


class Passwd(Request, frozen=True, tag="passwd"):
    old: Secret
    new: Secret


class Run(Request, frozen=True, tag="run"):
    command: Name


class Bye(Request, frozen=True, tag="bye"):
    pass


AnyRequest = (
    Hello
    | Auth
    | Register
    | Put
    | Get
    | List
    | Stat
    | Mkdir
    | Move
    | Remove
    | Quota
    | Passwd
    | Run
    | Bye
)


class UploadEnd(Struct, frozen=True):
    """Meta of the last DATA frame of an upload."""

    digest: Digest | None = None
    abort: bool = False


class _Op(Struct, frozen=True):
    op: str


_decoder: msgspec.json.Decoder[AnyRequest] = msgspec.json.Decoder(AnyRequest)
_decode_op = msgspec.json.Decoder(_Op).decode
_decode_end = msgspec.json.Decoder(UploadEnd).decode
OPS = frozenset(str(kind.__struct_config__.tag) for kind in get_args(AnyRequest))


def decode_request(meta: bytes) -> AnyRequest:
    """The typed request of a REQUEST frame.  Raises Refusal (unknown-verb, bad-request)."""
    try:
        return _decoder.decode(meta)
    except RecursionError:
        raise Refusal("bad-request", "the request is nested too deeply") from None
    except UnicodeDecodeError:
        raise Refusal("bad-request", "the request is not UTF-8 text") from None
    except msgspec.MsgspecError as error:
        raise _explain(meta, error) from None


def decode_upload_end(meta: bytes) -> UploadEnd:
    """The end of an upload.  Raises Refusal (bad-request)."""
    if not meta:
        return UploadEnd()
    try:
        return _decode_end(meta)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise Refusal("bad-request", f"the end of the upload is malformed: {error}") from None


def _explain(meta: bytes, error: Exception) -> Refusal:
    try:
        op = _decode_op(meta).op
    except (msgspec.MsgspecError, RecursionError):
        return Refusal("bad-request", "a request is a JSON object with a text in 'op'")
    if op not in OPS:
        return Refusal("unknown-verb", f"{op[:40]!r} is not a verb of this server")
    return Refusal("bad-request", f"{op}: {error}")


class Entry(Struct, frozen=True):
    """A file or folder as `stat` and `list` tell it.  `mtime` is seconds since 1970 (UTC)."""

    name: str
    type: str
    size: int
    mtime: float


class QuotaReply(Struct, frozen=True):
    """Bytes charged to the account (partials and reservations included) and its limit."""

    used: int
    limit: int | None


class ErrorMeta(Struct, frozen=True):
    """Meta of an ERROR frame."""

    code: str
    message: str
    retry: bool
    fault: str
