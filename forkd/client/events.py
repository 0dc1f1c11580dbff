"""What the library tells while it works, for progress bars and logs.

A listener is called from the thread that does the work; with several connections, from several
threads.  It must not block for long.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from forkd.client.errors import printable
from forkd.units import format_bytes


class Planned(Struct, frozen=True):
    """So much is about to be done.  `skipped` files are at their destination already."""

    files: int
    size: int
    skipped: int = 0


class Started(Struct, frozen=True):
    """A streamed transfer begins (or begins anew), `offset` of `size` bytes being there already."""

    path: str
    size: int
    offset: int


class Moved(Struct, frozen=True):
    """`count` more bytes of a streamed transfer are on their way."""

    path: str
    count: int


class Finished(Struct, frozen=True):
    """A file arrived (`error` empty) or failed.  `path` is the one that Started named.

    `size` is bytes, `digest` "" when the content was not digested, `code` the stable code of a
    refusal, or the kind of another error.
    """

    path: str
    size: int
    digest: str = ""
    error: str = ""
    code: str = ""


class Note(Struct, frozen=True):
    """Something a person would like to know: a reconnect, a restart, a skipped special file.

    `kind` is "link" or "special" for what a folder holds and is left out, else empty.
    """

    text: str
    kind: str = ""


def going_on(path: str, offset: int, size: int) -> Note:
    """That a transfer goes on where an earlier one stopped."""
    held, whole = format_bytes(offset), format_bytes(size)
    return Note(f"{printable(path)}: going on from {held} of {whole}")


Event = Planned | Started | Moved | Finished | Note
Listener = Callable[[Event], None]


def nobody(_event: Event) -> None:
    """The listener that does not listen."""
