"""Structured log lines: one line an event, for people on a terminal and JSON elsewhere.

Rules
  1. Whole lines are written at once, so lines of several processes never mix.  A line that cannot
     be written is lost and counted, never an error, nor waited for: a terminal, pipe or journal
     that nobody reads must not stop the daemon.  The lines of transfers are held until `flush`, so
     that many small files share a write.
  2. What a peer sent is data: everything unprintable in it is escaped (logs/forms.py).
  3. A field that is called like a secret is masked.  Do not rely on it: log no secrets.
  4. There is no logger to look up: a `Log` is made by each process and handed around.
  5. Only the master opens files anew.  It hands their descriptors to its children, which may be
     confined and find no path.
"""

from __future__ import annotations

import os
import re
import traceback
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from forkd.config import Log as LogSettings
from forkd.errors import StartError
from forkd.logs import priorities
from forkd.logs.forms import Form, Human, Json, WithPriority
from forkd.logs.journal import JournalForm, JournalSocket
from forkd.logs.outlet import Outlet, Sink
from forkd.logs.stream import STDERR, Stream, open_file
from forkd.logs.transferline import TransferLine
from forkd.logs.xferlog import Xferlog
from forkd.messages import LogLevel

__all__ = ["STDERR", "Files", "Log", "log_to", "open_log"]

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_SECRET = re.compile(r"passw|secret|token|credential|private", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Files:
    """Descriptors of the files that a process logs to; -1: none."""

    log: int = -1
    xferlog: int = -1


@dataclass(slots=True)
class _Ways:
    """What all logs of a process share."""

    settings: LogSettings
    level: int
    events: Outlet
    transfers: Outlet | None


class Log:
    """Where a process writes its events.  `bind` gives the same log with fields added to each."""

    def __init__(self, ways: _Ways, bound: dict[str, Any]) -> None:
        self._ways = ways
        self._bound = bound

    def bind(self, **fields: Any) -> Log:
        """A log whose every event carries `fields` too; it shares the descriptor."""
        return Log(self._ways, {**self._bound, **fields})

    def event(self, level: str, event: str, **fields: Any) -> None:
        """Write one line.  `level` is debug, info, warning or error."""
        if _LEVELS[level] < self._ways.level:
            return
        outlet = self._ways.events
        told = {name: _mask(name, value) for name, value in {**self._bound, **fields}.items()}
        outlet.write(lambda form: form.event(outlet.clock(), level, event, told))

    def debug(self, event: str, **fields: Any) -> None:
        self.event("debug", event, **fields)

    def info(self, event: str, **fields: Any) -> None:
        self.event("info", event, **fields)

    def warning(self, event: str, **fields: Any) -> None:
        self.event("warning", event, **fields)

    def error(self, event: str, **fields: Any) -> None:
        self.event("error", event, **fields)

    def unexpected(self, event: str, error: BaseException, **fields: Any) -> None:
        """An error nobody expected, with its traceback in the field `traceback`."""
        text = "".join(traceback.format_exception(error)).rstrip("\n")
        self.event("error", event, error=repr(error), traceback=text, **fields)

    def transfer(
        self,
        *,
        user: str,
        address: str,
        session: str,
        direction: str,
        path: str,
        size: int,
        seconds: float,
        outcome: str,
        door: str,
        completeness: str = "",
    ) -> None:
        """The line of one transfer that ended; `config.log.transfers` decides, not the level.

        `size` is the bytes moved, `direction` up or down, `outcome` "ok" or the code of a refusal.
        `completeness` "unknown" tells that nothing proved that all of an upload came.
        """
        ways = self._ways
        if not ways.settings.transfers and ways.transfers is None:
            return
        level = "info" if outcome == "ok" else "warning"
        stamp, took = ways.events.clock(), round(seconds, 6)
        line = TransferLine(
            *(stamp, level, "transfer", user, address, session),
            *(direction, path, size, took, outcome, door),
            completeness=completeness,
        )
        if ways.settings.transfers:
            ways.events.hold(lambda form: form.transfer(line))
        if ways.transfers is not None:
            ways.transfers.hold(lambda form: form.transfer(line))

    def flush(self) -> None:
        """Write the lines that are held."""
        self._ways.events.flush()
        if self._ways.transfers is not None:
            self._ways.transfers.flush()

    def set_level(self, level: LogLevel) -> None:
        """From now on, in `settings` too; holds for every log that was bound to this one."""
        self._ways.settings = replace(self._ways.settings, level=level)
        self._ways.level = _LEVELS[level]

    def reopen(self, settings: LogSettings) -> None:
        """Go on as other settings want it, or in the new file where the old one was moved away.

        Holds for every log that was bound to this one.  Raises StartError; nothing changed then.
        """
        ways, new = self._ways, _open(settings)
        ways.events.exchange(new.events.sink, _form(settings, new.events.sink))
        former, ways.transfers = ways.transfers, new.transfers
        if former is not None:
            former.close()
        ways.settings, ways.level = settings, new.level

    def go_on_in(self, files: Files) -> None:
        """Write to these files, which are owned from now on, instead of those written to so far.

        Standard error and the journal stay.
        """
        for outlet, fd in ((self._ways.events, files.log), (self._ways.transfers, files.xferlog)):
            if fd < 0:
                continue
            if outlet is not None and _is_file(outlet.sink):
                outlet.exchange(Stream(fd))
            else:
                os.close(fd)

    @property
    def settings(self) -> LogSettings:
        """As they hold now."""
        return self._ways.settings

    @property
    def files(self) -> Files:
        """What `go_on_in` of another process may get; standard error is nobody else's."""
        ways = self._ways
        log = ways.events.sink.fileno() if ways.settings.file else -1
        return Files(log, ways.transfers.sink.fileno() if ways.transfers else -1)

    @property
    def descriptors(self) -> list[int]:
        """All that must stay open, but standard error."""
        outlets = (self._ways.events, self._ways.transfers)
        held = [outlet.sink.fileno() for outlet in outlets if outlet is not None]
        return [fd for fd in held if fd != STDERR]

    def close(self) -> None:
        """Close the files; standard error stays open."""
        self._ways.events.close()
        if self._ways.transfers is not None:
            self._ways.transfers.close()


def open_log(settings: LogSettings, **bound: Any) -> Log:
    """The log of this process, as the configuration's [log] wants it.

    Raises StartError naming the file when it cannot be opened.
    """
    return Log(_open(settings), bound)


def log_to(fd: int, settings: LogSettings, **bound: Any) -> Log:
    """A log on an open descriptor, which it owns unless it is standard error."""
    sink = Stream(fd)
    outlet = Outlet(_form(settings, sink), sink)
    return Log(_Ways(settings, _LEVELS[settings.level], outlet, None), bound)


def _open(settings: LogSettings) -> _Ways:
    sink = _sink(settings)
    events = Outlet(_form(settings, sink), sink)
    transfers = None
    if settings.xferlog:
        try:
            transfers = Outlet(Xferlog(), Stream(open_file("log.xferlog", settings.xferlog)))
        except StartError:
            events.close()
            raise
    return _Ways(settings, _LEVELS[settings.level], events, transfers)


def _sink(settings: LogSettings) -> Sink:
    if settings.format == "journal":
        try:
            return JournalSocket()
        except OSError as error:
            raise StartError(f'log.format "journal": no journal: {error.strerror}') from None
    if settings.file:
        return Stream(open_file("log.file", settings.file))
    if settings.format == "auto" and priorities.is_journal(STDERR):
        try:
            return JournalSocket()
        except OSError:
            pass  # lines with a priority reach it too
    return Stream(STDERR)


def _form(settings: LogSettings, sink: Sink) -> Form:
    if isinstance(sink, JournalSocket):
        return JournalForm()
    fd = sink.fileno()
    for_people = settings.format == "human" or (settings.format == "auto" and os.isatty(fd))
    form: Form = Human() if for_people else Json()
    return WithPriority(form) if priorities.is_journal(fd) else form


def _is_file(sink: Sink) -> bool:
    return isinstance(sink, Stream) and sink.fileno() != STDERR


def _mask(name: str, value: Any) -> Any:
    return "***" if _SECRET.search(name) else value
