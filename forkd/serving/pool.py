"""Threads for work that may take long, and the way back to the loop.

Made on demand up to a maximum, daemonic, each ends after a while without work.  Results come back
through a queue and a wake-up descriptor that the loop's epoll watches.
"""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable

MAX_THREADS = max(6, 3 * len(os.sched_getaffinity(0)))
"""More than keep processors and disks busy only take time from the loop's thread."""
_IDLE_SECONDS = 30.0

Task = Callable[[], None]


class Mailbox:
    """Calls for the loop's thread, posted from any thread."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._calls: deque[Task] = deque()
        self._signalled = False

    def post(self, call: Task) -> None:
        """Let the loop's thread make this call soon."""
        self._calls.append(call)
        if not self._signalled:  # a race here costs one superfluous wake-up, never a lost one
            self._signalled = True
            os.eventfd_write(self.fd, 1)

    def deliver(self) -> None:
        """Make the calls posted so far; on the loop's thread."""
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            pass
        self._signalled = False
        for _ in range(len(self._calls)):
            self._calls.popleft()()


class Pool:
    """Runs tasks.  A task must not raise."""

    def __init__(self, most: int = MAX_THREADS) -> None:
        self._most = most
        self._tasks: queue.SimpleQueue[Task] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._load = 0

    @property
    def load(self) -> int:
        """Tasks that wait or run."""
        return self._load

    @property
    def has_spare(self) -> bool:
        """A thread has nothing to do: a task may wait briefly on its own for something."""
        return self._load < self._most

    def submit(self, task: Task) -> None:
        """Run `task` on a thread as soon as one is free."""
        with self._lock:
            self._load += 1
            if self._threads < min(self._load, self._most):
                threading.Thread(target=self._run, daemon=True, name="forkd-pool").start()
                self._threads += 1
        self._tasks.put(task)

    def _run(self) -> None:
        while True:
            try:
                task = self._tasks.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                if self._may_leave():
                    return
                continue
            task()
            with self._lock:
                self._load -= 1

    def _may_leave(self) -> bool:
        """Not the last thread that a waiting task could have."""
        with self._lock:
            if self._threads <= self._load:
                return False
            self._threads -= 1
            return True
