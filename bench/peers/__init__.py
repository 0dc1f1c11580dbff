"""What can be measured.  A peer is one server with the clients it is measured by.

A further server is one more module here and one more line in `bench/run.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.files import Source
from bench.moves import Move, Speech
from bench.processes import Meter


@dataclass(frozen=True, slots=True)
class Way:
    """One way of doing a move.  Only what its meter times counts."""

    label: str
    measure: Callable[[Meter], float]
    """Starts and stops the meter around the move, and answers with its seconds; for Kind.MEMORY
    with the bytes of a session.  Raises BenchError."""
    check: Callable[[], None] = lambda: None
    """Raises BenchError when what arrived is wrong."""
    clean: Callable[[], None] = lambda: None
    server: int | None = None
    """The process whose family's processor time is the server's."""


class Peer(Protocol):
    """A server that can be started and stopped, and knows ways to do some of the moves."""

    @property
    def name(self) -> str: ...

    @property
    def speech(self) -> Speech:
        """The protocol of the moves that it may know."""

    def missing(self) -> str | None:
        """Why it cannot be measured here; None when it can."""

    def start(self, folder: Path, source: Source) -> None:
        """Serve the source's files from a new folder, and take others."""

    def stop(self) -> None:
        """Also after a start that failed."""

    def ways(self, move: Move) -> list[Way]:
        """None for a move it does not know."""
