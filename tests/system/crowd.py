"""Many clients at once, as threads of a test."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Crowd:
    """For `with`: the block's end waits for all, and raises the first failure of any.

    A client that is to go on for the whole block asks `going`; the block's end makes it False, as
    does any failure.
    """

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self._stop = threading.Event()
        self._failures: list[BaseException] = []

    @property
    def going(self) -> bool:
        return not self._stop.is_set()

    def start(self, client: Callable[..., object], *args: object) -> None:
        def run() -> None:
            try:
                client(*args)
            except BaseException as error:
                self._failures.append(error)
                self._stop.set()

        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()

    def wait(self, seconds: float = 300) -> None:
        """Until all are done by themselves."""
        for thread in self._threads:
            thread.join(seconds)
            assert not thread.is_alive(), "a client got stuck"
        self.check()

    def check(self) -> None:
        """Raises the first failure so far."""
        if self._failures:
            raise self._failures[0]

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._stop.set()
        if kind is None:
            self.wait()
