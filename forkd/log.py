"""Structured log lines: one line an event, for people on a terminal and JSON elsewhere.

Rules
  1. Whole lines are written with a single write(2) to a descriptor opened for appending, so lines
     of several processes never mix.  A line that cannot be written is lost, never an error; nor is
     it waited for: a terminal or pipe that nobody reads must not stop the daemon.
     The lines of transfers are held until `flush`, so that many small files share a write.
  2. What a peer sent is data: everything unprintable in it is escaped, so no name can forge a line
     or steer a terminal.
  3. A field that is called like a secret is masked.  Do not rely on it: log no secrets.
  4. There is no logger to look up: a `Log` is made by each process and handed around.
"""

from __future__ import annotations

import datetime
import logging
import os
import re
import select
import stat
import time
from collections.abc import Callable
from typing import Any

import msgspec

from forkd import priorities
from forkd.config import Log as LogSettings
from forkd.errors import StartError

STDERR = 2
_HELD_MAX = 4096
"""Bytes in one write of several lines: what a pipe takes as a whole, see PIPE_BUF in pipe(7)."""
_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_SECRET = re.compile(r"passw|secret|token|credential|private", re.IGNORECASE)
_ESCAPES = re.compile(r"[^\x20-\x7e]")
_BARE = re.compile(r"^[A-Za-z0-9_./:@%+,\[\]-]+$")


class _TransferLine(msgspec.Struct, omit_defaults=True):
    """The JSON of one transfer, field by field in this order."""

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


_encode = msgspec.json.Encoder(enc_hook=str).encode


class Log:
    """Where a process writes its events.  `bind` gives the same log with fields added to each."""

    def __init__(
        self, logger: logging.Logger, handler: LineHandler, transfers: bool, bound: dict[str, Any]
    ) -> None:
        self._logger = logger
        self._handler = handler
        self._transfers = transfers
        self._bound = bound

    def bind(self, **fields: Any) -> Log:
        """A log whose every event carries `fields` too; it shares the descriptor."""
        return Log(self._logger, self._handler, self._transfers, {**self._bound, **fields})

    def event(self, level: str, event: str, **fields: Any) -> None:
        """Write one line.  `level` is debug, info, warning or error."""
        number = _LEVELS[level]
        if number >= self._handler.level:
            self._logger.log(number, event, extra={"fields": {**self._bound, **fields}})

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
        text = logging.Formatter().formatException((type(error), error, error.__traceback__))
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
        if not self._transfers:
            return
        level = "info" if outcome == "ok" else "warning"
        stamp, took = self._handler.clock(), round(seconds, 6)
        line = _TransferLine(
            *(stamp, level, "transfer", user, address, session),
            *(direction, path, size, took, outcome, door),
            completeness=completeness,
        )
        if self._handler.json:
            self._handler.hold(level, lambda: _json_line(line))
        else:
            fields = msgspec.structs.asdict(line)
            for name in ("time", "level", "event"):
                del fields[name]
            self._handler.hold(level, lambda: _human_line(stamp, level, "transfer", fields))

    def flush(self) -> None:
        """Write the lines that are held; for the thread that logs the transfers."""
        self._handler.flush_held()

    def set_level(self, level: str) -> None:
        """From now on; holds for every log that was bound to this one."""
        self._handler.setLevel(_LEVELS[level])

    def reopen(self, settings: LogSettings) -> None:
        """Go on as other settings want it, or in the new file where the old one was moved away.

        Holds for every log that was bound to this one.  Raises StartError; nothing changed then.
        """
        fd = _open(settings)
        self._handler.close()
        self._handler.fd, self._handler.json = fd, _wants_json(fd, settings)
        self._handler.journal = priorities.is_journal(fd)
        self._handler.setLevel(_LEVELS[settings.level])

    def fileno(self) -> int:
        """The descriptor the lines go to."""
        return self._handler.fd

    def close(self) -> None:
        """Close the file; standard error stays open."""
        self._handler.flush_held()
        self._handler.close()


def open_log(settings: LogSettings, **bound: Any) -> Log:
    """The log of this process, as the configuration's [log] wants it.

    Raises StartError naming the file when it cannot be opened.
    """
    return log_to(_open(settings), settings, **bound)


def log_to(fd: int, settings: LogSettings, **bound: Any) -> Log:
    """A log on an open descriptor, which it owns unless it is standard error."""
    handler = LineHandler(fd, _wants_json(fd, settings))
    handler.setLevel(_LEVELS[settings.level])
    logger = logging.Logger("forkd")
    logger.addHandler(handler)
    return Log(logger, handler, settings.transfers, bound)


def _open(settings: LogSettings) -> int:
    if not settings.file:
        return STDERR
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    try:
        return os.open(settings.file, flags, 0o640)
    except OSError as error:
        raise StartError(f"log.file {settings.file}: {error.strerror}") from None


def _wants_json(fd: int, settings: LogSettings) -> bool:
    return settings.format == "json" or (settings.format == "auto" and not os.isatty(fd))


class LineHandler(logging.Handler):
    """Formats a record as one line and writes it with one write(2)."""

    def __init__(self, fd: int, json: bool) -> None:
        super().__init__()
        self.fd = fd
        self.json = json
        self.journal = priorities.is_journal(fd)
        self.clock = Clock().now
        self._lost = 0
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._room = _watch_room(fd)

    def emit(self, record: logging.LogRecord) -> None:
        fields = {name: _mask(name, value) for name, value in record.__dict__["fields"].items()}
        level = record.levelname.lower()
        stamp = _text_of(record.created)
        if self.json:
            head = {"time": stamp, "level": level, "event": record.msg}
            self.write(level, lambda: _json_line(head | fields))
        else:
            self.write(level, lambda: _human_line(stamp, level, record.msg, fields))

    def write(self, level: str, make: Callable[[], bytes]) -> None:
        """Hand one whole line to the kernel; a full disk, pipe or terminal loses it.

        So does a line that cannot be made: whoever logs has better things to do than fail.
        """
        self._write(self._made(level, make), 1)

    def hold(self, level: str, make: Callable[[], bytes]) -> None:
        """Keep a line for the next `flush_held`, or until no more fit into one write."""
        line = self._made(level, make)
        if self._held_bytes + len(line) > _HELD_MAX:
            self.flush_held()
        self._held.append(line)
        self._held_bytes += len(line)

    def flush_held(self) -> None:
        """Write what is held, at once."""
        if self._held:
            held, self._held, self._held_bytes = self._held, [], 0
            self._write(b"".join(held), len(held))

    def _made(self, level: str, make: Callable[[], bytes]) -> bytes:
        try:
            return self._start(level) + make()
        except Exception as error:
            return self._event_line("error", "line-failed", {"error": ascii(error)})

    def _write(self, text: bytes, lines: int) -> None:
        if self._room is not None and not self._room.poll(0):
            self._lost += lines
            return
        if self._lost:
            lost, self._lost = self._lost, 0
            text = self._event_line("warning", "lines-lost", {"lines": lost}) + text
        try:
            os.write(self.fd, text)
        except OSError:
            pass

    def _event_line(self, level: str, event: str, fields: dict[str, Any]) -> bytes:
        start = self._start(level)
        if self.json:
            head = {"time": self.clock(), "level": level, "event": event}
            return start + _json_line(head | fields)
        return start + _human_line(self.clock(), level, event, fields)

    def _start(self, level: str) -> bytes:
        return priorities.of_level(level) if self.journal else b""

    def close(self) -> None:
        super().close()
        if self.fd > STDERR:
            os.close(self.fd)
            self.fd = -1


def _watch_room(fd: int) -> select.poll | None:
    """Tells whether a pipe, terminal or socket takes a line at once; None for files."""
    try:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return None
    except OSError:
        return None
    room = select.poll()
    room.register(fd, select.POLLOUT)
    return room


class Clock:
    """The time now as text; the text of a second is made once."""

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def now(self) -> str:
        """RFC 3339 in UTC, with milliseconds."""
        at = time.time()
        second = int(at)
        if second != self._second:
            self._second, self._text = second, _text_of(second)[:-4]
        return f"{self._text}{int((at - second) * 1000):03d}Z"


def _text_of(at: float) -> str:
    """Seconds since 1970 as RFC 3339 in UTC, with milliseconds."""
    when = datetime.datetime.fromtimestamp(at, datetime.UTC)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _mask(name: str, value: Any) -> Any:
    return "***" if _SECRET.search(name) else value


def _json_line(line: _TransferLine | dict[str, Any]) -> bytes:
    try:
        text = _encode(line)
    except UnicodeEncodeError:  # a lone surrogate: a name that is not UTF-8
        text = _encode(_scrubbed(line))
    if not text.isascii() or b"\x7f" in text:
        text = _ESCAPES.sub(_json_escape, text.decode()).encode()
    return text + b"\n"


def _json_escape(match: re.Match[str]) -> str:
    """Printable text stays readable; the rest (C1 controls, bidi marks) is escaped."""
    character = match[0]
    if character.isprintable():
        return character
    point = ord(character)  # and no codec, which a confined process could not load any more
    if point < 0x10000:
        return f"\\u{point:04x}"
    point -= 0x10000
    return f"\\u{0xD800 | point >> 10:04x}\\u{0xDC00 | point & 0x3FF:04x}"


def _scrubbed(line: _TransferLine | dict[str, Any]) -> dict[str, Any]:
    fields = line if isinstance(line, dict) else msgspec.structs.asdict(line)
    return {
        name: value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value
        for name, value in fields.items()
    }


def _human_line(stamp: str, level: str, event: str, fields: dict[str, Any]) -> bytes:
    parts = [f"{stamp[11:19]} {level.upper():7} {event}"]
    parts += [f"{name}={_human_value(value)}" for name, value in fields.items() if value != ""]
    return (" ".join(parts) + "\n").encode(errors="backslashreplace")


def _human_value(value: Any) -> str:
    text = "; ".join(map(str, value)) if isinstance(value, list) else str(value)
    if _BARE.match(text):
        return text
    quoted = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text.replace("\\", "\\\\"))
    return '"' + quoted.replace('"', '\\"') + '"'
