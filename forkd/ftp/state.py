"""What holds between the commands of one session."""

from __future__ import annotations

from dataclasses import dataclass

from forkd.ftp.facts import FACTS
from forkd.ftp.paths import Parts

HASHES = ("SHA-256", "SHA-512", "SHA-1", "MD5", "CRC32")
"""Digests that HASH can be set to; the first is the default."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the server wants of its clients."""

    tls: str = "off"
    """off: AUTH is not known; allow: as the client likes; require: no log-in, no data in clear."""
    greeting: str = "Ready."


class ProtocolAbuse(Exception):  # noqa: N818 - see errors.Refusal
    """The session must end without a further word."""


class State:
    """The parameters; REIN, AUTH and another USER make most of them new."""

    __slots__ = (
        "allocated",
        "epsv_only",
        "facts",
        "hash",
        "here",
        "logged_in",
        "protected_data",
        "rename_from",
        "restart",
        "secure",
        "type",
        "user",
    )

    def __init__(self) -> None:
        self.secure = False
        """The control connection is under TLS."""
        self.protected_data: bool | None = None
        """Data goes under TLS; None before PBSZ."""
        self.epsv_only = False
        self.hash = HASHES[0]
        self.facts: tuple[str, ...] = FACTS
        self.forget()

    def forget(self) -> None:
        """As for a new user."""
        self.logged_in = False
        self.user: str | None = None
        self.here: Parts = ()
        self.type = "A"
        self.restart = 0
        self.allocated: int | None = None
        self.rename_from: Parts | None = None
