"""Progress bars for a terminal: one for everything, one for each big file under way.

The bars are drawn by rich, on standard error; they appear with the first plan and go with `done`.
The events that move them are only counted here; a thread of rich draws a few times a second.
"""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from forkd.client.errors import printable
from forkd.client.events import Event, Finished, Moved, Note, Planned, Started
from forkd.client.show import Quiet, Tally, on_lines, plural
from forkd.units import format_bytes, format_seconds


@dataclass(frozen=True, slots=True)
class Layout:
    """What fits a terminal's width: characters of name and bar (0: none), and how numbers read."""

    name: int
    bar: int
    sizes: str
    remaining: str

    @classmethod
    def of(cls, width: int) -> Layout:
        """The layout for so many columns."""
        if width >= 110:
            return cls(32, 24, "{done} of {total}", "{left} left")
        if width >= 80:
            return cls(15, 8, "{done}/{total}", "{left}")
        return cls(max(8, width - 38), 0, "", "{left}")

    def shorten(self, name: str) -> str:
        """The end of a name that is too long."""
        return name if len(name) <= self.name else "…" + name[1 - self.name :]


class _Numbers(ProgressColumn):
    """Bytes done of all, and for the line about everything rate and remaining time."""

    def __init__(self, tally: Tally, layout: Layout) -> None:
        super().__init__(_column())
        self._tally = tally
        self._layout = layout

    def render(self, task: Task) -> Text:
        done, total = format_bytes(task.completed), format_bytes(task.total or 0)
        parts = [self._layout.sizes.format(done=done, total=total)]
        if task.fields["overall"]:
            parts.append(f"{format_bytes(self._tally.meter.rate())}/s")
            left = self._tally.remaining()
            if left is not None:
                parts.append(self._layout.remaining.format(left=format_seconds(left)))
        return Text("  ".join(filter(None, parts)), style="progress.download")


def _column() -> Column:
    return Column(no_wrap=True, overflow="ellipsis")


class Bars(Quiet):
    """A terminal."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._console = Console(stderr=True, highlight=False)
        self._layout = Layout.of(80)
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
                if self._folding.shows(event):
                    self._say(f"forkc: {event.text}")
            elif isinstance(event, Finished) and event.error and self._folding.shows(event):
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
        super().done()

    def _begin(self) -> None:
        if self._progress is not None or not self._tally.total_files:
            return
        layout = self._layout = Layout.of(self._console.width)
        columns: list[ProgressColumn] = [
            TextColumn("{task.description}", markup=False, table_column=_column()),
            TextColumn("{task.percentage:>3.0f}%", table_column=_column()),
            _Numbers(self._tally, layout),
        ]
        if layout.bar:
            columns.insert(1, BarColumn(bar_width=layout.bar))
        self._progress = Progress(
            *columns,
            console=self._console,
            refresh_per_second=8,
            transient=True,
        )
        self._overall = self._progress.add_task("1 file", total=self._tally.total, overall=True)
        self._progress.start()

    def _move(self, progress: Progress, event: Event) -> None:
        tally = self._tally
        if tally.total_files == 1:  # one file is everything: one line
            self._move_single(progress, event)
            return
        if isinstance(event, Started):
            if event.path not in self._tasks:
                shown = self._layout.shorten(printable(event.path))
                self._tasks[event.path] = progress.add_task(shown, overall=False)
            task = self._tasks[event.path]
            progress.update(task, completed=event.offset, total=event.size)
        elif isinstance(event, Moved) and event.path in self._tasks:
            progress.advance(self._tasks[event.path], event.count)
        elif isinstance(event, Finished) and event.path in self._tasks:
            progress.remove_task(self._tasks.pop(event.path))
        count = f"{tally.files}/{plural(tally.total_files, 'file')}"
        progress.update(self._overall, completed=tally.done, total=tally.total, description=count)

    def _move_single(self, progress: Progress, event: Event) -> None:
        if isinstance(event, Started):
            name = self._layout.shorten(printable(event.path))
            progress.update(self._overall, description=name)
        progress.update(self._overall, completed=self._tally.done, total=self._tally.total)

    def _say(self, text: str) -> None:
        if self._progress is None:
            print(on_lines(text), file=sys.stderr, flush=True)
        else:
            self._progress.console.print(on_lines(text), markup=False, soft_wrap=True)
