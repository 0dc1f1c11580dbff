"""The control socket as a file: made, opened to a group, taken away."""

from __future__ import annotations

import os
import socket

from forkd.errors import StartError
from forkd.supervisor.rights import Operators


class ControlSocket:
    """The listening socket at `path`, which its owner alone may open at first."""

    def __init__(self, path: str, backlog: int, fd: int = -1) -> None:
        """`fd`: the socket listens at `path` already.

        Raises StartError.  The daemon's lock says that nobody else serves here, so what is in the
        way is stale.
        """
        self.path = path
        if fd >= 0:
            self.socket = socket.socket(fileno=fd)
            self._file = _identity(path)
            return
        self.socket = socket.socket(
            socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
        try:
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass
            before = os.umask(0o177)
            try:
                self.socket.bind(path)
            finally:
                os.umask(before)
            self.socket.listen(backlog)
            self._file = _identity(path)
        except OSError as error:
            self.socket.close()
            reason = error.strerror or str(error)
            raise StartError(f"control socket {path}: {reason}") from None

    def admit(self, group: Operators | None) -> None:
        """Let a group open it too.

        Only root and members may give a file to a group.  Where the kernel refuses that, everybody
        may connect: who may ask for what is decided by the credentials of each connection anyway.
        Raises OSError.
        """
        if not self._file or _identity(self.path) != self._file:
            return
        if group is None:
            os.chmod(self.path, 0o600)
            return
        try:
            os.chown(self.path, -1, group.gid)
        except PermissionError:
            os.chmod(self.path, 0o666)  # noqa: S103
        else:
            os.chmod(self.path, 0o660)

    def close(self) -> None:
        """Close it, and remove the file if it is still ours."""
        self.socket.close()
        try:
            if self._file and _identity(self.path) == self._file:
                os.unlink(self.path)
        except OSError:
            pass


def _identity(path: str) -> tuple[int, int] | None:
    """Which file is there; None: it was taken away."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
