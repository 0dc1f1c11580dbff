"""Log files that were moved away: the master opens them anew and hands them to its children."""

from __future__ import annotations

from forkd.config import Log as LogSettings
from forkd.errors import StartError
from forkd.log import Log
from forkd.messages import Reopen
from forkd.supervisor.children import Children

READERS = ("worker", "exporter", "keeper", "runner", "dispatcher")
"""Who reads its link."""


class LogFiles:
    """Has all processes log to the files that have the configured names now."""

    def __init__(self, log: Log, children: Children) -> None:
        self._log = log
        self._children = children

    def reopen(self, settings: LogSettings) -> None:
        """As `settings` want it, former generations too.

        Raises StartError; everybody goes on in the former files then.
        """
        self._log.reopen(settings)
        held = self._log.files
        files = [fd for fd in (held.log, held.xferlog) if fd >= 0]
        if not files:
            return
        message = Reopen(
            log=files.index(held.log) if held.log >= 0 else -1,
            xferlog=files.index(held.xferlog) if held.xferlog >= 0 else -1,
        )
        for key, process in list(self._children.running.items()):
            if process.role not in READERS:
                continue
            try:
                self._children.send(key, message, files)
            except OSError as error:  # no descriptor is left for what waits to be sent
                why = f"{process.title}: {error.strerror}"
                self._log.error("log-not-reopened", reason=why)

    def reopen_again(self) -> None:
        """As they are; what fails is told in the former files."""
        try:
            self.reopen(self._log.settings)
        except StartError as error:
            self._log.error("log-not-reopened", reason=str(error))
            return
        self._log.info("log-reopened")
