"""A form of lines and where they go: holds lines back for one write, and counts those lost.

What could not be written is told once there is room again.  Any thread may write.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from forkd.logs.clock import Clock
from forkd.logs.forms import Form

HELD_MAX = 4096
"""Bytes in one write of several lines: what a pipe takes as a whole, see PIPE_BUF in pipe(7)."""


class Sink(Protocol):
    def send(self, messages: list[bytes]) -> int:
        """Hand whole messages to the kernel, at once: how many, from the first on, it took."""

    def fileno(self) -> int: ...

    def close(self) -> None: ...


class Outlet:
    """`clock` gives the time as the log tells it."""

    def __init__(self, form: Form, sink: Sink) -> None:
        self._form = form
        self.sink = sink
        self.clock = Clock().now
        self._lost = 0
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._lock = threading.Lock()

    def write(self, make: Callable[[Form], bytes]) -> None:
        """Hand one message to the kernel.

        One that cannot be made is lost too: whoever logs has better things to do than fail.
        """
        message = self._made(make)
        with self._lock:
            self._send([message])

    def hold(self, make: Callable[[Form], bytes]) -> None:
        """Keep a message for the next `flush`, or until no more fit into one write."""
        message = self._made(make)
        with self._lock:
            if self._held_bytes + len(message) > HELD_MAX:
                self._flush()
            self._held.append(message)
            self._held_bytes += len(message)

    def flush(self) -> None:
        """Write what is held, at once."""
        if self._held:
            with self._lock:
                self._flush()

    def exchange(self, sink: Sink, form: Form | None = None) -> None:
        """Go on with another sink, and in another form; the former sink is closed."""
        with self._lock:
            self._flush()
            former, self.sink = self.sink, sink
            former.close()
            self._form = form or self._form

    def close(self) -> None:
        """What is held goes out first."""
        with self._lock:
            self._flush()
            self.sink.close()

    def _flush(self) -> None:
        held, self._held, self._held_bytes = self._held, [], 0
        if held:
            self._send(held)

    def _send(self, messages: list[bytes]) -> None:
        lost = self._lost
        if lost:
            fields = {"lines": lost}
            told = self._made(
                lambda form: form.event(self.clock(), "warning", "lines-lost", fields)
            )
            messages = [told, *messages]
        taken = self.sink.send(messages)
        if taken:
            self._lost = len(messages) - taken
        else:
            self._lost += len(messages) - (lost > 0)

    def _made(self, make: Callable[[Form], bytes]) -> bytes:
        form = self._form
        try:
            return make(form)
        except Exception as error:
            return form.event(self.clock(), "error", "line-failed", {"error": ascii(error)})
