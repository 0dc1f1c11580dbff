"""What a download's target is: a name that a rename may take, or something to be written through.

A link to a file stays a link: the file that it names is replaced.  Devices and FIFOs are opened and
written, as `cp` does.  Folders, sockets and links to nothing are refused before a byte moves.
"""

from __future__ import annotations

import os
import stat
from types import TracebackType

from msgspec import Struct

from forkd.client.errors import LocalError, printable


class Place(Struct, frozen=True):
    """Where bytes end up: `path` is replaced by a rename, or written through when a `stream`."""

    path: str
    stream: bool = False


def place_of(target: str) -> Place:
    """What there is under the name `target`, links followed.  Raises LocalError."""
    try:
        mode = os.lstat(target).st_mode
    except FileNotFoundError:
        return Place(target)
    except OSError as error:
        raise LocalError.of(error, target) from None
    link = stat.S_ISLNK(mode)
    if link:
        mode = _behind(target)
    if stat.S_ISREG(mode):
        return Place(os.path.realpath(target) if link else target)
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) or stat.S_ISFIFO(mode):
        return Place(target, stream=True)
    kind = "folder" if stat.S_ISDIR(mode) else "socket"
    raise LocalError(f"{printable(target)}: is a {kind}, not a file")


def _behind(link: str) -> int:
    """The mode of what a link leads to.  Raises LocalError."""
    try:
        return os.stat(link).st_mode
    except FileNotFoundError:
        raise LocalError(f"{printable(link)}: is a link to nothing") from None
    except OSError as error:
        raise LocalError.of(error, link) from None


class Outlet:
    """An open device or FIFO.  Its methods raise LocalError; opening a FIFO waits for a reader."""

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY)
        except OSError as error:
            raise LocalError.of(error, path) from None

    def __enter__(self) -> Outlet:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None and stat.S_ISBLK(os.fstat(self._fd).st_mode):
                os.fsync(self._fd)  # a disk tells here what it could not write
        except OSError as failure:
            raise LocalError.of(failure, self._path) from None
        finally:
            os.close(self._fd)

    def write(self, view: memoryview) -> None:
        """Write a piece of the content."""
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            raise LocalError.of(error, self._path) from None
