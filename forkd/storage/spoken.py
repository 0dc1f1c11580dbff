"""What the kernel is told and says of a path, in the words of the tree."""

from __future__ import annotations

import errno
import os
import stat

from forkd import syscalls
from forkd.errors import Refusal, from_oserror
from forkd.storage.names import show, to_text
from forkd.storage.tree import Node, Parts
from forkd.verbs import Entry


def rename(source: int, name: bytes, target: int, new: bytes, flags: int) -> None:
    """renameat2(2).  Raises OSError, and Refusal where the administrator mounted something."""
    try:
        syscalls.rename(source, name, target, new, flags)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        raise Refusal(
            "io-error",
            f"the folder of {to_text(new)!r} lies on another filesystem than the server's storage; "
            "only the administrator can mend this",
        ) from error


def joined(parts: Parts) -> bytes:
    return b"/".join(parts) or b"."


def kind_of(mode: int) -> str:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "folder"
    return "link" if stat.S_ISLNK(mode) else "other"


def entry_of(name: str, status: os.stat_result) -> Entry:
    kind = kind_of(status.st_mode)
    return Entry(name, kind, status.st_size if kind == "file" else 0, status.st_mtime)


def node_of(name: bytes, status: os.stat_result) -> Node:
    kind = kind_of(status.st_mode)
    size = status.st_size if kind == "file" else 0
    mode = stat.S_IMODE(status.st_mode)
    return Node(name, kind, size, status.st_mtime, mode, status.st_dev, status.st_ino)


def refuse_folder(status: os.stat_result, name: bytes) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise Refusal("is-a-folder", f"{to_text(name)!r} is a folder")


class told:  # noqa: N801 - it reads as a function
    """Translate what the kernel says about a path into a refusal."""

    __slots__ = ("_parts",)

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def __enter__(self) -> None:
        return

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, OSError):
            raise from_oserror(error, show(self._parts)) from error
