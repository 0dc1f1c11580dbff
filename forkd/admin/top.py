"""forkctl top: looks again and again.  Live on a terminal, or frame after frame for pipes."""

from __future__ import annotations

import argparse
import os
import select
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from forkd import controlmessages, reports
from forkd.admin import looks, render
from forkd.admin.controlclient import ControlClient
from forkd.admin.exits import Exit
from forkd.admin.results import Frame
from forkd.admin.sessionview import top_screen
from forkd.admin.site import Site

if TYPE_CHECKING:
    from rich.text import Text

_HISTORY = 500
"""Looks that the curves remember."""
_QUIT = "q\x03\x04"


def top(site: Site, args: argparse.Namespace) -> int:
    live = not (site.json or args.batch) and sys.stdout.isatty() and sys.stdin.isatty()
    rows = None if live else args.rows
    watch = Watch(site.control(), args.user or "", args.sort, args.interval, rows)
    frames = watch.frames(args.frames)
    if site.json:
        for frame in frames:
            print(msgspec.json.encode(frame).decode(), flush=True)
    elif live:
        _live(watch, frames)
    else:
        for number, frame in enumerate(frames):
            width = render.terminal_width()
            print(("\n" if number else "") + top_screen(frame, list(watch.history), width, None))
            sys.stdout.flush()
    return Exit.OK


class Watch:
    """Looks at the daemon each `interval` seconds; tells of so many sessions, None: of all."""

    def __init__(
        self, control: ControlClient, user: str, sort: str, interval: float, rows: int | None
    ) -> None:
        self._control = control
        self._user = user
        self._sort = sort
        self._interval = interval
        self._rows = rows
        self.sleep: Callable[[float], None] = time.sleep
        self.history: deque[tuple[float, float]] = deque(maxlen=_HISTORY)

    def frames(self, most: int | None) -> Iterator[Frame]:
        """At most so many; raises CtlError.  The first one comes after an interval."""
        state = self._control.get(controlmessages.Status(), reports.Status)
        look = looks.take(self._control, self._user)
        made = 0
        while most is None or made < most:
            self.sleep(self._interval)
            before, state = state, self._control.get(controlmessages.Status(), reports.Status)
            earlier, look = look, looks.take(self._control, self._user)
            if state.pid != before.pid or state.uptime < before.uptime:
                continue  # another daemon: there is nothing to compare it with
            sessions = looks.ordered(looks.between(earlier, look), self._sort)
            frame = looks.frame(before, state, sessions, self._rows, time.time())
            self.history.append((frame.rate_up, frame.rate_down))
            made += 1
            yield frame


class _QuitError(Exception):
    """A key was pressed that ends it."""


def _live(watch: Watch, frames: Iterator[Frame]) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(highlight=False)
    with _keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:

        def sleep(seconds: float) -> None:
            if pressed(seconds):
                raise _QuitError

        watch.sleep = sleep
        live.update(Text("looking ..."), refresh=True)
        try:
            for frame in frames:
                width, height = console.size
                shown = top_screen(frame, list(watch.history), width, height)
                live.update(_styled(shown), refresh=True)
        except _QuitError:
            pass


def _styled(screen: str) -> Text:
    """The headline bold, headings reversed."""
    from rich.text import Text

    text = Text(no_wrap=True)
    for number, line in enumerate(screen.splitlines()):
        heading = line.startswith("USER ")
        style = "bold" if not number else "reverse" if heading else ""
        text.append(line, style).append("\n")
    return text


@contextmanager
def _keys() -> Iterator[_Pressed]:
    """Reads single keys; the terminal is as before afterwards."""
    import termios
    import tty

    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)
    try:
        yield _Pressed(fd)
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


class _Pressed:
    """Whether somebody wants to quit, within some seconds."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __call__(self, seconds: float) -> bool:
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            if select.select([self._fd], [], [], left)[0]:
                keys = os.read(self._fd, 64).decode(errors="replace")
                if not keys or any(key in _QUIT for key in keys):
                    return True
        return False
