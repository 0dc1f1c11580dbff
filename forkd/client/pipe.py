"""A pipe through which the kernel moves bytes from a socket to a file (splice(2))."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress

_WISHED = 1 << 20  # more than /proc/sys/fs/pipe-max-size is for root alone


class Pipe:
    """Both ends of a pipe.  `size` is how many bytes it holds."""

    def __init__(self) -> None:
        self._out, self.into = os.pipe2(os.O_CLOEXEC)
        with suppress(PermissionError):
            fcntl.fcntl(self.into, fcntl.F_SETPIPE_SZ, _WISHED)
        self.size = fcntl.fcntl(self.into, fcntl.F_GETPIPE_SZ)

    def empty(self, fd: int, offset: int, count: int) -> None:
        """Move the `count` bytes that are in it to `offset` of a file.  Raises OSError."""
        while count:
            try:
                moved = os.splice(self._out, fd, count, offset_dst=offset)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                moved = os.pwrite(fd, os.read(self._out, count), offset)  # no splice to this disk
            offset += moved
            count -= moved

    def close(self) -> None:
        """Close both ends; what is left in it is lost."""
        os.close(self._out)
        os.close(self.into)
