"""What the command line shows: on a terminal, as plain lines, as JSON, or only errors.

A Screen is also the library's listener.  Results go to standard output; progress, notes and errors
go to standard error, except with --json, where everything is one JSON object a line on standard
output, each with "event".
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from typing import Protocol

import msgspec

from forkd.client.errors import printable
from forkd.client.events import Event, Finished, Moved, Note, Planned, Started
from forkd.client.folding import Folding
from forkd.units import format_bytes, format_seconds

_WINDOW = 10.0
_LINE_EVERY = 10.0
_JSON_EVERY = 0.5


class Screen(Protocol):
    """Where a command's results and progress go.  `event` may be called from any thread."""

    def event(self, event: Event) -> None:
        """The library tells something."""

    def result(self, fields: dict[str, object], text: str) -> None:
        """A result: `fields` for programs, `text` for people (with its newlines)."""

    def summary(self, fields: dict[str, object], text: str) -> None:
        """How a transfer went."""

    def error(self, code: str, message: str) -> None:
        """Something failed."""

    def output(self, stream: str, data: memoryview) -> None:
        """A remote command wrote something."""

    def done(self) -> None:
        """The transfer is over: no bar after this, until the next one; what was folded is told."""


class Meter:
    """How fast bytes move now: over the last seconds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])
        self._moved = 0

    def add(self, count: int) -> None:
        """`count` more bytes moved."""
        self._moved += count
        now = time.monotonic()
        self._samples.append((now, self._moved))
        while len(self._samples) > 2 and now - self._samples[0][0] > _WINDOW:
            self._samples.popleft()

    def rate(self) -> float:
        """Bytes a second."""
        then, moved = self._samples[0]
        seconds = time.monotonic() - then
        return (self._moved - moved) / seconds if seconds > 0 else 0.0


class Tally:
    """What is done of a plan, as far as the events tell.  Not locked."""

    def __init__(self) -> None:
        self.files = 0
        self.total_files = 0
        self.total = 0
        self.done = 0
        self.skipped = 0
        self.meter = Meter()
        self.streams: dict[str, tuple[int, int]] = {}
        """path -> (bytes done, size) of the transfers under way"""

    def take(self, event: Event) -> None:
        """Count an event in."""
        if isinstance(event, Planned):
            self.files, self.total_files = 0, event.files
            self.done, self.total = 0, event.size
            self.skipped = event.skipped
        elif isinstance(event, Started):
            before = self.streams.get(event.path, (0, 0))[0]
            self.done += event.offset - before
            self.streams[event.path] = (event.offset, event.size)
        elif isinstance(event, Moved) and event.path in self.streams:
            done, size = self.streams[event.path]
            self.streams[event.path] = (done + event.count, size)
            self.done += event.count
            self.meter.add(event.count)
        elif isinstance(event, Finished):
            self._finish(event)

    def _finish(self, event: Finished) -> None:
        before = self.streams.pop(event.path, None)
        self.files += 1
        if event.error:
            self.done += event.size - (before[0] if before else 0)
        elif before is None:
            self.done += event.size
            self.meter.add(event.size)

    def remaining(self) -> float | None:
        """Seconds until all is done, at this rate; None when that cannot be told."""
        rate = self.meter.rate()
        return max(0.0, self.total - self.done) / rate if rate > 0 else None

    def line(self) -> str:
        """One line about everything."""
        left = self.remaining()
        text = (
            f"{self.files} of {plural(self.total_files, 'file')},"
            f" {format_bytes(self.done)} of {format_bytes(self.total)},"
            f" {format_bytes(self.meter.rate())}/s"
        )
        return f"{text}, {format_seconds(left)} left" if left is not None else text


def on_lines(text: str) -> str:
    """A text that may hold what a server said, for a terminal: lines, nothing that controls."""
    return "\n".join(printable(line) for line in text.split("\n"))


def plural(count: int, noun: str) -> str:
    """1 -> "1 file", 2 -> "2 files"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


class Quiet:
    """Results and errors only."""

    def __init__(self) -> None:
        self._folding = Folding()

    def event(self, event: Event) -> None:
        if isinstance(event, Finished) and event.error and self._folding.shows(event):
            self.error(event.code, f"{printable(event.path)}: {event.error}")

    def result(self, _fields: dict[str, object], text: str) -> None:
        sys.stdout.write(text)

    def summary(self, _fields: dict[str, object], text: str) -> None:
        """Nobody wants to hear it."""

    def error(self, _code: str, message: str) -> None:
        self._say(f"forkc: {message}")

    def output(self, stream: str, data: memoryview) -> None:
        target = sys.stderr if stream == "stderr" else sys.stdout
        target.flush()
        target.buffer.write(data)
        target.buffer.flush()

    def done(self) -> None:
        for line in self._folding.rest():
            self._say(f"forkc: {line}")

    def _say(self, text: str) -> None:
        print(on_lines(text), file=sys.stderr, flush=True)


class Plain(Quiet):
    """Lines: notes, big files, every few seconds how far everything is."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._tally = Tally()
        self._said = time.monotonic()

    def event(self, event: Event) -> None:
        with self._lock:
            self._tally.take(event)
            super().event(event)
            if isinstance(event, Note):
                if self._folding.shows(event):
                    self._say(f"forkc: {event.text}")
            elif isinstance(event, Started):
                of = f" from {format_bytes(event.offset)} on" if event.offset else ""
                self._say(f"{printable(event.path)}: {format_bytes(event.size)}{of}")
            elif isinstance(event, Moved | Finished):
                self._now_and_then()

    def summary(self, _fields: dict[str, object], text: str) -> None:
        if text:
            self._say(text)

    def done(self) -> None:
        super().done()
        self._tally = Tally()

    def _now_and_then(self) -> None:
        now = time.monotonic()
        if now - self._said >= _LINE_EVERY:
            self._said = now
            self._say(self._tally.line())


class Json(Quiet):
    """One JSON object a line, on standard output."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._encode = msgspec.json.Encoder().encode
        self._tally = Tally()
        self._told: dict[str, float] = {}

    def event(self, event: Event) -> None:
        if isinstance(event, Moved):
            self._moved(event)
            return
        with self._lock:
            self._tally.take(event)
            if isinstance(event, Finished):
                self._told.pop(event.path, None)
        fields = msgspec.structs.asdict(event)
        self._put(type(event).__name__.lower(), fields)

    def result(self, fields: dict[str, object], _text: str) -> None:
        self._put("result", fields)

    def summary(self, fields: dict[str, object], _text: str) -> None:
        self._put("result", fields)

    def error(self, code: str, message: str) -> None:
        self._put("error", {"code": code, "message": message})

    def output(self, stream: str, data: memoryview) -> None:
        self._put("output", {"stream": stream, "text": str(data, "utf-8", "replace")})

    def done(self) -> None:
        self._tally = Tally()
        self._told.clear()

    def _moved(self, event: Moved) -> None:
        with self._lock:
            self._tally.take(event)
            now = time.monotonic()
            if now - self._told.get(event.path, 0.0) < _JSON_EVERY:
                return
            self._told[event.path] = now
            done, size = self._tally.streams.get(event.path, (0, 0))
        self._put("progress", {"path": event.path, "done": done, "size": size})

    def _put(self, kind: str, fields: dict[str, object]) -> None:
        with self._lock:
            sys.stdout.write(self._encode({"event": kind, **fields}).decode() + "\n")
            sys.stdout.flush()
