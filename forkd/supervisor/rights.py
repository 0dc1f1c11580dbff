"""Who may ask for what at the control socket.

Root and the daemon's own user may all; the operators' group (server.operators) may look.
"""

from __future__ import annotations

import grp
from dataclasses import dataclass

from forkd.config import Config
from forkd.controlmessages import LOOKING, ControlRequest
from forkd.peercred import Caller

DENIED = "denied"
"""The code of a refusal for want of rights."""


@dataclass(frozen=True, slots=True)
class Operators:
    """The group that may look."""

    name: str
    gid: int


def operators(config: Config) -> Operators | None:
    """The group of server.operators; None where none is named, or it is not there any more."""
    name = config.server.operators
    try:
        return Operators(name, grp.getgrnam(name).gr_gid) if name else None
    except KeyError:
        return None


def refusal(caller: Caller, request: ControlRequest | None, group: Operators | None) -> str:
    """Why this is not for the caller, in one sentence; "" where it is.

    Without a request: whether he may ask for anything at all.
    """
    if caller.is_trusted:
        return ""
    if group is None:
        return "only root and the daemon's own user may steer forkd"
    if group.gid not in caller.groups:
        return (
            "only root, the daemon's own user and, to look, the members of the group "
            f"{group.name} may speak with forkd"
        )
    if request is None or isinstance(request, LOOKING):
        return ""
    return (
        f"members of the group {group.name} may look; only root and the daemon's own user may "
        "change anything"
    )
