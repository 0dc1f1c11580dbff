"""The helper process that tells hooks what has happened to files (docs/hooks.md).

Rules
  1. One dispatcher at a time has the events: of two generations the older one, until it leaves.
  2. Each hook has its own queue and its own tries; a slow or dead one holds up nobody else, and
     nobody who transfers files knows of any.
  3. A journal is removed when nobody adds to it and every hook's saved position is behind it.
  4. There is one thread: whatever may hang is in a process of its own (deliver.py).
"""

from __future__ import annotations

import fcntl
import os
import selectors
import signal
import subprocess
import time
from dataclasses import dataclass

from forkd.childlink import ChildLink
from forkd.config import Config
from forkd.events import files
from forkd.events.files import ENDED
from forkd.events.queue import Delivery, HookQueue
from forkd.events.records import Intent
from forkd.helpers.deliver import Target, Try
from forkd.link import Link
from forkd.log import Log, open_log
from forkd.messages import Drain, Ready, SetLogLevel
from forkd.scoreboard import DISPATCHER_ROW, Row
from forkd.seat import ChildSeat
from forkd.storage import sidecar
from forkd.title import set_title

_TURN = 0.1
"""Seconds between two looks at the journals."""
_TROUBLE_PAUSE = 5.0
"""Seconds that a hook rests whose files cannot be written."""
_LEAVE_SECONDS = 2.0
"""What is under way when we are told to leave may take so long; then it is told again later."""


def main(seat: ChildSeat) -> int:
    """Tell hooks until the master says `Drain` or is gone.  Raises OSError."""
    log = open_log(seat.config.log, process="dispatcher")
    link = ChildLink(seat.link, log)
    set_title("dispatcher")
    link.send(Ready())
    folder = files.folder_of(seat.config)
    lock = os.open(os.path.join(folder, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if _hold(lock, link, log):
        row = seat.board.rows[DISPATCHER_ROW]
        row.take_seat(os.getpid(), seat.generation, int(time.time() * 1000))
        Dispatcher(seat.config, folder, row, link, log).serve()
    return 0


def _hold(lock: int, link: Link, log: Log) -> bool:
    """Wait for a predecessor to leave; False when it is us who must leave first."""
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(_TURN)
        if _told_to_leave(link, log):
            return False


def _told_to_leave(link: Link, log: Log) -> bool:
    told = link.receive()
    for message in told:
        if isinstance(message, SetLogLevel):
            log.set_level(message.level)
    return bool(link.eof or link.fault or any(isinstance(message, Drain) for message in told))


@dataclass(slots=True, eq=False)
class _Post:
    """One hook at work."""

    queue: HookQueue
    target: Target
    tries: dict[Try, Delivery]
    rests_until: float = 0.0
    backlog: int = 0
    oldest: float | None = None


class Dispatcher:
    """The loop: the link first, then each hook in turn."""

    def __init__(self, config: Config, folder: str, row: Row, link: Link, log: Log) -> None:
        self._folder = folder
        self._row = row
        self._link = link
        self._log = log
        self._selector = selectors.DefaultSelector()
        self._selector.register(link, selectors.EVENT_READ)
        boot = sidecar.boot_id()
        self._posts = [
            _Post(HookQueue(name, hook, folder, boot), Target(hook, config.storage.path), {})
            for name, hook in config.hooks.items()
        ]

    def serve(self) -> None:
        """Returns when told to leave."""
        next_look = 0.0
        while not _told_to_leave(self._link, self._log):
            now = time.monotonic()
            look = now >= next_look
            if look:
                next_look = now + _TURN
            for post in self._posts:
                if now >= post.rests_until:
                    self._turn(post, now, look)
            if look:
                self._remove_told()
                self._show()
            self._wait(max(0.0, next_look - time.monotonic()))
        self._leave()

    def _turn(self, post: _Post, now: float, look: bool) -> None:
        """See what is new, and tell what is due."""
        queue = post.queue
        try:
            if look:
                queue.look()
                for stem in queue.broken():
                    self._log.error("journal-damaged", hook=queue.name, journal=str(stem))
            while (delivery := queue.next(now)) is not None:
                self._start(post, delivery)
            queue.save_if_due(now)
            if look:
                post.backlog, post.oldest = queue.backlog, queue.oldest()
        except OSError as error:
            self._rest(post, error)

    def _rest(self, post: _Post, error: OSError) -> None:
        post.rests_until = time.monotonic() + _TROUBLE_PAUSE
        self._log.error("hook-rests", hook=post.queue.name, error=str(error))

    def _start(self, post: _Post, delivery: Delivery) -> None:
        try:
            begun = post.target.start(delivery.event)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            self._failed(post, delivery, str(error))
            return
        post.tries[begun] = delivery
        self._selector.register(begun.pidfd, selectors.EVENT_READ, (post, begun))

    def _wait(self, seconds: float) -> None:
        """Until something happens, at most `seconds`; collect what has ended."""
        for key, _ in self._selector.select(seconds):
            if key.data is not None:
                post, begun = key.data
                try:
                    self._ended(post, begun)
                except OSError as error:
                    self._rest(post, error)
        now = time.monotonic()
        for post in self._posts:
            for begun in post.tries:
                if now >= begun.deadline:
                    begun.end("timeout")

    def _ended(self, post: _Post, begun: Try) -> None:
        self._selector.unregister(begun.pidfd)
        begun.signal_group(signal.SIGKILL)  # what it left behind
        delivery = post.tries.pop(begun)
        reason = begun.finish()
        if reason:
            self._failed(post, delivery, reason)
            return
        self._row.add("deliveries_total:ok")
        self._log.debug(
            "hook-told",
            **_fields(post, delivery.event),
            seconds=round(time.monotonic() - begun.started, 3),
        )
        post.queue.succeeded(delivery)

    def _failed(self, post: _Post, delivery: Delivery, reason: str) -> None:
        event = delivery.event
        self._log.warning("hook-failed", **_fields(post, event), reason=reason)
        lost = post.queue.failed(delivery, time.monotonic())
        self._row.add("deliveries_total:given-up", len(lost))
        self._row.add("deliveries_total:retried", int(event not in lost))
        for each in lost:
            self._log.error("hook-given-up", **_fields(post, each), reason=reason)

    def _remove_told(self) -> None:
        """Journals of which everybody has been told all."""
        done = set.intersection(*(post.queue.finished() for post in self._posts))
        for stem in done:
            try:
                os.unlink(os.path.join(self._folder, str(stem) + ENDED))
            except FileNotFoundError:
                pass
            except OSError as error:
                self._log.error("journal-stays", journal=str(stem), error=str(error))

    def _show(self) -> None:
        """On the scoreboard: what is left."""
        times = [post.oldest for post in self._posts if post.oldest is not None]
        self._row.set("undelivered_bytes", sum(post.backlog for post in self._posts))
        self._row.set("undelivered_since_ms", int(min(times, default=0.0) * 1000))
        self._row.set("beat_ns", time.monotonic_ns())

    def _leave(self) -> None:
        """What is under way may end; what does not is told again by who comes after."""
        ends = time.monotonic() + _LEAVE_SECONDS
        self._selector.unregister(self._link)
        while any(post.tries for post in self._posts) and time.monotonic() < ends:
            self._wait(_TURN)
        for post in self._posts:
            for begun, delivery in post.tries.items():
                begun.signal_group(signal.SIGKILL)
                begun.finish()
                post.queue.dropped(delivery)
            try:
                post.queue.leave()
            except OSError as error:
                self._rest(post, error)
        self._row.clear_gauges()


def _fields(post: _Post, event: Intent) -> dict[str, str]:
    return {
        "hook": post.queue.name,
        "id": event.id,
        "kind": event.kind,
        "user": event.origin.user,
        "session": event.origin.session,
        "path": event.path,
    }
