"""Progress bars for a terminal: one for everything, one for each big file under way.

The bars are drawn by rich, on standard error; they appear with the first plan and go with `done`.
The events that move them are only counted here; a thread of rich draws a few times a second.
"""

from __future__ import annotations

import sys
import threading

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from forkd.client.errors import printable
from forkd.client.events import Event, Finished, Moved, Note, Planned, Started
from forkd.client.show import Quiet, Tally, on_lines
from forkd.units import format_bytes, format_seconds

_NAME_WIDTH = 32


class _Numbers(ProgressColumn):
    """Bytes done of all, and for the line about everything rate and remaining time."""

    def __init__(self, tally: Tally) -> None:
        super().__init__()
        self._tally = tally

    def render(self, task: Task) -> Text:
        text = f"{format_bytes(task.completed)} of {format_bytes(task.total or 0)}"
        if task.fields["overall"]:
            left = self._tally.remaining()
            text += f"  {format_bytes(self._tally.meter.rate())}/s"
            text += f"  {format_seconds(left)} left" if left is not None else ""
        return Text(text, style="progress.download")


class Bars(Quiet):
    """A terminal."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._console = Console(stderr=True, highlight=False)
        self._tally = Tally()
        self._progress: Progress | None = None
        self._overall = TaskID(0)
        self._tasks: dict[str, TaskID] = {}

    def event(self, event: Event) -> None:
        with self._lock:
            self._tally.take(event)
            if isinstance(event, Planned):
                self._begin()
            elif isinstance(event, Note):
                self._say(f"forkc: {event.text}")
            elif isinstance(event, Finished) and event.error:
                self._say(f"forkc: {printable(event.path)}: {event.error}")
            if self._progress is not None:
                self._move(self._progress, event)

    def summary(self, _fields: dict[str, object], text: str) -> None:
        if text:
            self._say(text)

    def done(self) -> None:
        with self._lock:
            if self._progress is not None:
                self._progress.stop()
            self._progress = None
            self._tally = Tally()
            self._tasks.clear()

    def _begin(self) -> None:
        if self._progress is not None or not self._tally.total_files:
            return
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            _Numbers(self._tally),
            console=self._console,
            refresh_per_second=8,
            transient=True,
        )
        self._overall = self._progress.add_task("", total=self._tally.total, overall=True)
        self._progress.start()

    def _move(self, progress: Progress, event: Event) -> None:
        tally = self._tally
        if isinstance(event, Started):
            if event.path not in self._tasks:
                name = printable(event.path)
                shown = name if len(name) <= _NAME_WIDTH else "…" + name[-_NAME_WIDTH + 1 :]
                self._tasks[event.path] = progress.add_task(shown, overall=False)
            task = self._tasks[event.path]
            progress.update(task, completed=event.offset, total=event.size)
        elif isinstance(event, Moved) and event.path in self._tasks:
            progress.advance(self._tasks[event.path], event.count)
        elif isinstance(event, Finished) and event.path in self._tasks:
            progress.remove_task(self._tasks.pop(event.path))
        count = f"{tally.files} of {tally.total_files} files"
        progress.update(self._overall, completed=tally.done, total=tally.total, description=count)

    def _say(self, text: str) -> None:
        if self._progress is None:
            print(on_lines(text), file=sys.stderr, flush=True)
        else:
            self._progress.console.print(on_lines(text), markup=False, soft_wrap=True)
