"""What a worker offers its doors: the one implementation of every seam, made after the fork."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from forkd.accounts import Accounts
from forkd.config import Config
from forkd.errors import Fault, Refusal
from forkd.events.journal import Journal
from forkd.limits.table import LimitTable
from forkd.log import Log
from forkd.messages import SessionInfo
from forkd.quota import Ledger
from forkd.scoreboard import Row
from forkd.serving.remembered import Remembered
from forkd.serving.transfer import Kits
from forkd.serving.transport import READABLE
from forkd.storage.commit import Committer
from forkd.storage.partials import Namer
from forkd.storage.tree import Store

_TOLD_ELSEWHERE = ("kicked", "going-away")
"""Codes that an event of the administrator's makes many of, or that have an event of their own."""


class Watch(Protocol):
    """How a door hears of a descriptor besides its session's own."""

    def __call__(self, fd: int, call: Callable[[], None], wants: int = READABLE) -> None:
        """Call back once when it is ready for `wants`, or has ended."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end.  `trusted_path` tells that nobody else can read along."""

    session: str
    address: str
    origin: str
    """What it counts as where addresses are limited."""
    trusted_path: bool
    door: str
    wake: Callable[[], None]
    """Have the session stepped soon; on the loop's thread."""


@dataclass(frozen=True, slots=True)
class Core:
    """`row` is written, everything that is called is called on the loop's thread only."""

    config: Config
    generation: int
    accounts: Accounts
    store: Store
    ledger: Ledger
    committer: Committer
    journal: Journal
    namer: Namer
    limits: LimitTable
    remembered: Remembered
    kits: Kits
    row: Row
    log: Log
    hashes_full: Callable[[], bool]
    """Whether whoever brings a password is to come again later."""
    watch: Watch
    unwatch: Callable[[int], None]
    ask_sessions: Callable[[Callable[[list[SessionInfo]], None]], Callable[[], None]]
    """Hear, some time later, of the sessions of all workers; the answer calls that off."""

    def refused(self, peer: Peer, user: str, refusal: Refusal) -> None:
        """Count and log a refusal that a peer is told; on the loop's thread."""
        self.row.add(f"refusals_total:{refusal.code}")
        usual = refusal.fault is Fault.PEER or refusal.code in _TOLD_ELSEWHERE
        self.log.event(
            "debug" if usual else "info",
            "refused",
            user=user,
            session=peer.session,
            address=peer.address,
            code=refusal.code,
            reason=refusal.message,
        )
