"""The line of one transfer, field by field in the order of the log."""

from __future__ import annotations

import msgspec


class TransferLine(msgspec.Struct, omit_defaults=True):
    """A transfer that ended: `bytes` were moved in `seconds`, `direction` up or down.

    `outcome` is "ok" or the code of a refusal.  `completeness` "unknown" tells that nothing proved
    that all of an upload came.
    """

    time: str
    level: str
    event: str
    user: str
    address: str
    session: str
    direction: str
    path: str
    bytes: int
    seconds: float
    outcome: str
    door: str
    completeness: str = ""
