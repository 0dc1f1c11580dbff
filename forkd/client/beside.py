"""A second thread for what holds no GIL: a digest while bytes are sent, a flush while they come."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType


class Beside:
    """Carries out one action at a time on a thread of its own.  For one thread to use.

    `begin` waits for the action before.  What an action raises is raised by the next `wait`,
    `begin` or `close`.
    """

    def __init__(self) -> None:
        self._action: Callable[[], None] | None = None
        self._error: BaseException | None = None
        self._given = threading.Lock()
        self._given.acquire()
        self._busy = threading.Lock()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Beside:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except Exception:
            if error is None:
                raise

    @property
    def idle(self) -> bool:
        """Whether `begin` would not wait."""
        return not self._busy.locked()

    def begin(self, action: Callable[[], None]) -> None:
        """Start an action, once the one before is over."""
        self.wait()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        self._busy.acquire()
        self._action = action
        self._given.release()

    def wait(self) -> None:
        """Until the action is over.  Raises what it raised."""
        with self._busy:
            pass
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Wait for the action and end the thread.  It may be used again: that makes a new one."""
        try:
            self.wait()
        finally:
            thread, self._thread = self._thread, None
            if thread is not None:
                with self._busy:
                    self._action = None
                self._given.release()
                thread.join()

    def _run(self) -> None:
        while True:
            self._given.acquire()
            action = self._action
            if action is None:
                return
            try:
                action()
            except BaseException as error:
                self._error = error
            self._busy.release()
