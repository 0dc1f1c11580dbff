"""What was ordered at the control socket and holds for processes that come later, too."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from forkd.config import Config
from forkd.messages import LogLevel


@dataclass(slots=True)
class Orders:
    """`closed`: no new sessions; `closed_until`: when what is left is cut (CLOCK_MONOTONIC).

    A log `level` holds for the generations there are, up to the `newest`; that of the next reload
    has its own.
    """

    closed: bool = False
    closed_until: float | None = None
    level: LogLevel | None = None
    newest: int = 0

    def set_level(self, level: LogLevel, generation: int) -> None:
        """For all processes up to this generation."""
        self.level, self.newest = level, generation

    def config_for(self, generation: int, config: Config) -> Config:
        """The configuration as a process of this generation is to have it."""
        if self.level is None or generation > self.newest:
            return config
        log = msgspec.structs.replace(config.log, level=self.level)
        return msgspec.structs.replace(config, log=log)
