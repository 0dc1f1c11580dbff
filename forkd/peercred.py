"""Who is at the other end of a local socket (unix(7), SO_PEERCRED)."""

from __future__ import annotations

import os
import socket
import struct

_CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid


def is_trusted(connection: socket.socket) -> bool:
    """Whether the peer's process is root's or of our own user."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(raw)[1]
    return uid in (os.geteuid(), 0)
