"""What a generation serves, and how the last change to another one went."""

from __future__ import annotations

import os
from dataclasses import dataclass

from forkd.config import Config
from forkd.seat import BoundListener


@dataclass(frozen=True, slots=True)
class World:
    """What a generation serves: its configuration and sockets.  Times are seconds since 1970.

    `text` is the configuration file as it was read.
    """

    config: Config
    listeners: tuple[BoundListener, ...]
    loaded_at: float
    file_mtime: float
    text: str = ""


@dataclass(frozen=True, slots=True)
class LastReload:
    """`at` is seconds since 1970, `took` seconds, `outcome` ok or failed."""

    at: float
    outcome: str
    message: str
    took: float


def file_mtime(path: str) -> float:
    """When a file was last written, in seconds since 1970; 0.0 for none."""
    try:
        return os.stat(path).st_mtime if path else 0.0
    except OSError:
        return 0.0
