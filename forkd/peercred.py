"""Who is at the other end of a local socket (unix(7), SO_PEERCRED and SO_PEERGROUPS)."""

from __future__ import annotations

import errno
import os
import pwd
import socket
import struct
from dataclasses import dataclass

_CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid
_SO_PEERGROUPS = 59  # asm-generic/socket.h; Python has no name for it
_GROUPS_BYTES = 1024
"""As many as Python's getsockopt takes: 256 groups."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A process of this machine, as it was when it connected."""

    pid: int
    uid: int
    groups: frozenset[int]

    @property
    def is_trusted(self) -> bool:
        """Whether it is root's or of our own user."""
        return self.uid in (os.geteuid(), 0)


def caller_of(connection: socket.socket) -> Caller:
    """Whose process connected.  Raises OSError."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(raw)
    return Caller(pid, uid, frozenset((gid, *_groups(connection, uid, gid))))


def is_trusted(connection: socket.socket) -> bool:
    """Whether the peer's process is root's or of our own user."""
    return caller_of(connection).is_trusted


def user_name(uid: int) -> str:
    """Its name, or the number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _groups(connection: socket.socket, uid: int, gid: int) -> tuple[int, ...]:
    """The supplementary groups; of somebody in very many, what the user database says."""
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES)
    except OSError as error:
        if error.errno != errno.ERANGE:
            return ()  # a socketpair within one process has none
        return tuple(os.getgrouplist(user_name(uid), gid))
    return struct.unpack(f"{len(raw) // 4}I", raw)
