"""Folders that outlive a power cut: a new one is flushed in the folder that holds it."""

from __future__ import annotations

import os


def make(path: str, mode: int = 0o777) -> None:
    """Make a folder, and those above it that are missing; nothing happens where it exists.

    Each that is made is flushed in the one above it (fsync(2), "Calling fsync() does not
    necessarily ensure that the entry in the directory ... has also reached disk").  `mode` is that
    of the last one, less the umask.  Raises OSError.
    """
    if os.path.isdir(path):
        return
    above = os.path.dirname(path.rstrip("/"))
    if above and not os.path.lexists(above):
        make(above)
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
    flush(above or ".")


def flush(path: str) -> None:
    """Bring a folder's entries to the disk.  Raises OSError.

    A folder that we may write to but not read cannot be flushed: then this does nothing.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        return
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
