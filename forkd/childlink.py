"""A child's end of its link to the master.

What the master says about the log is done here, for every child alike; all else is the child's.
"""

from __future__ import annotations

import array
import os
import socket

from forkd.link import MAX_PACKET, Link
from forkd.log import Files, Log
from forkd.messages import LinkMessage, Reopen

_FILES_MAX = 2
_ANCILLARY = socket.CMSG_SPACE(_FILES_MAX * array.array("i").itemsize)


class ChildLink(Link):
    """Keeps `log` in the files that the master opened last."""

    def __init__(self, sock: socket.socket, log: Log) -> None:
        super().__init__(sock)
        self._log = log

    def _take_packet(self) -> tuple[bytes, int, list[int]]:
        packet, control, flags, _ = self._socket.recvmsg(
            MAX_PACKET, _ANCILLARY, socket.MSG_CMSG_CLOEXEC
        )
        files = array.array("i")
        for level, kind, data in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                files.frombytes(data[: len(data) - len(data) % files.itemsize])
        return packet, flags, list(files)

    def _taken(self, message: LinkMessage, files: list[int]) -> LinkMessage | None:
        held = dict(enumerate(files))  # a process without room for them gets none
        left: LinkMessage | None = message
        if isinstance(message, Reopen):
            left = None
            self._log.go_on_in(Files(held.pop(message.log, -1), held.pop(message.xferlog, -1)))
        for fd in held.values():
            os.close(fd)
        return left
