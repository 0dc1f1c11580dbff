"""What one hook has still to be told, in order for each account, and kept over a crash.

Rules
  1. An account's events are told one after the other; accounts do not wait for each other.
  2. An event that fails goes to its account's lane, a file, and all later events of the account go
     behind it.  A lane is tried again after a pause that doubles with every failure.
  3. What has failed for `give_up` seconds, counted from when it came to its lane, becomes a line of
     the dead letters.
  4. The position file says what is settled: told, in a lane, or a dead letter.  It is saved after
     SAVE_AFTER settled events at the latest; those after it are told again by who comes after a
     crash.  So every event is told at least once, and few are told twice.

Below <state_dir>/events/hooks/<name>:  position, <account>.lane, dead-letters
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
from msgspec import Struct

from forkd.config import Hook
from forkd.events.files import Stem
from forkd.events.follow import Follower, Taken
from forkd.events.lanes import SUFFIX, Lane, end_line, pause_after
from forkd.events.records import Intent

WINDOW = 256
"""Events in memory at most, beside the head of each lane."""
SAVE_AFTER = 64
SAVE_SECONDS = 1.0

_LOOK = 2048
"""Events in one look: many may be unwanted."""


class _Position(Struct, frozen=True):
    journals: dict[str, int] = {}
    lanes: dict[str, int] = {}


_decode_position = msgspec.json.Decoder(_Position).decode


@dataclass(frozen=True, slots=True, eq=False)
class Delivery:
    """An event to be told now."""

    event: Intent
    taken: Taken | None
    """None: it is the head of its account's lane."""

    @property
    def account(self) -> int:
        return self.event.origin.account


class HookQueue:
    """The queue of one hook.  `now` is seconds of a monotonic clock.  Methods raise OSError."""

    def __init__(self, name: str, hook: Hook, events: str, boot: str) -> None:
        self.name = name
        self.hook = hook
        self._folder = os.path.join(events, "hooks", name)
        os.makedirs(self._folder, 0o700, exist_ok=True)
        position = self._load()
        self._follower = Follower(events, position.journals, boot)
        self._lanes = self._find_lanes(position.lanes)
        self._window: dict[int, deque[Taken]] = {}
        self._waiting = 0
        self._held: Taken | None = None
        self._busy: set[int] = set()
        self._lanes_busy = 0
        self._unsaved = 0
        self._saved_at = time.monotonic()
        self._saved: set[Stem] = set()

    # what is to be told

    def look(self) -> None:
        """See what has been journaled, as far as there is room for it."""
        self._follower.look()
        for _ in range(_LOOK):
            if self._waiting >= WINDOW:
                return
            self._held = self._held or self._follower.take()
            if self._held is None:
                return
            self._arrive(self._held)
            self._held = None

    def _arrive(self, taken: Taken) -> None:
        event = taken.intent
        if not self._is_wanted(event):
            self._settle(taken)
        elif (lane := self._lanes.get(event.origin.account)) is not None:
            lane.append([event])
            self._settle(taken)
        else:
            self._window.setdefault(event.origin.account, deque()).append(taken)
            self._waiting += 1

    def _is_wanted(self, event: Intent) -> bool:
        users = self.hook.users
        return event.kind in self.hook.events and ("*" in users or event.origin.user in users)

    def next(self, now: float) -> Delivery | None:
        """What to tell now; the same account's next not before `succeeded` or `failed`."""
        if len(self._busy) >= self.hook.concurrency:
            return None
        if self._lanes_busy < max(1, self.hook.concurrency // 2):
            for account, lane in self._lanes.items():
                if account not in self._busy and now >= lane.next_try and (head := lane.first()):
                    self._busy.add(account)
                    self._lanes_busy += 1
                    return Delivery(head.event, None)
        for account, waiting in self._window.items():
            if account not in self._busy:
                self._busy.add(account)
                return Delivery(waiting[0].intent, waiting[0])
        return None

    # what became of it

    def succeeded(self, delivery: Delivery) -> None:
        account = delivery.account
        self._busy.remove(account)
        if delivery.taken is None:
            self._lanes_busy -= 1
            lane = self._lanes[account]
            lane.failures, lane.next_try = 0, 0.0
            self._advance(account, lane)
            return
        self._leave(account)
        self._settle(delivery.taken)

    def failed(self, delivery: Delivery, now: float) -> list[Intent]:
        """It is to be told again later; answers with what is given up."""
        account = delivery.account
        self._busy.remove(account)
        if delivery.taken is not None:
            self._defer(account, now)
            return []
        self._lanes_busy -= 1
        lane = self._lanes[account]
        lane.failures += 1
        lane.next_try = now + pause_after(lane.failures)
        return list(self._bury(account, lane))

    def dropped(self, delivery: Delivery) -> None:
        """It was neither told nor refused: we leave."""
        self._busy.remove(delivery.account)
        self._lanes_busy -= delivery.taken is None

    def _defer(self, account: int, now: float) -> None:
        """The first failure: all that waits of the account goes into a lane."""
        lane = Lane(os.path.join(self._folder, f"{account}{SUFFIX}"))
        waiting = list(self._window[account])
        lane.append([taken.intent for taken in waiting])
        lane.failures, lane.next_try = 1, now + pause_after(1)
        self._lanes[account] = lane
        for taken in waiting:
            self._leave(account)
            self._settle(taken)

    def _leave(self, account: int) -> None:
        waiting = self._window[account]
        waiting.popleft()
        self._waiting -= 1
        if not waiting:
            del self._window[account]

    def _bury(self, account: int, lane: Lane) -> Iterator[Intent]:
        """Give up what has failed for too long."""
        while (head := lane.first()) and time.time() - head.since >= self.hook.give_up:
            with open(os.path.join(self._folder, "dead-letters"), "ab") as file:
                file.write(msgspec.json.encode(head) + b"\n")
                file.flush()
                os.fdatasync(file.fileno())
            yield head.event
            self._advance(account, lane)

    def _advance(self, account: int, lane: Lane) -> None:
        lane.advance()
        self._unsaved += 1
        if lane.first() is None:
            self._save()
            del self._lanes[account]
            os.unlink(lane.path)

    def _settle(self, taken: Taken) -> None:
        self._follower.settle(taken)
        self._unsaved += 1

    # what outlives us

    def save_if_due(self, now: float) -> None:
        """Save the position when enough has happened since it was."""
        late = now - self._saved_at >= SAVE_SECONDS
        if self._unsaved >= SAVE_AFTER or (late and (self._unsaved or self._moved_on())):
            self._save()

    def leave(self) -> None:
        self._save()
        self._follower.close()

    def _moved_on(self) -> bool:
        return self._follower.finished() != self._saved

    def _save(self) -> None:
        """Lanes first: what the position passes over is in them."""
        for lane in self._lanes.values():
            lane.sync()
        finished = self._follower.finished()
        position = _Position(
            self._follower.positions(),
            {str(account): lane.at for account, lane in self._lanes.items()},
        )
        path = os.path.join(self._folder, "position")
        with open(path + ".new", "wb") as file:
            file.write(msgspec.json.encode(position))
            file.flush()
            os.fdatasync(file.fileno())
        os.rename(path + ".new", path)
        self._saved, self._saved_at, self._unsaved = finished, time.monotonic(), 0

    def _load(self) -> _Position:
        """Where there is none, or none that can be read, all is told anew."""
        try:
            with open(os.path.join(self._folder, "position"), "rb") as file:
                return _decode_position(file.read())
        except (FileNotFoundError, msgspec.MsgspecError):
            return _Position()

    def _find_lanes(self, positions: dict[str, int]) -> dict[int, Lane]:
        lanes = {}
        for name in sorted(os.listdir(self._folder)):
            account = name.removesuffix(SUFFIX)
            if account != name and account.isdigit():
                path = os.path.join(self._folder, name)
                size = end_line(path)
                lane = Lane(path, min(positions.get(account, 0), size), size)
                if lane.first() is None:
                    os.unlink(path)
                else:
                    lanes[int(account)] = lane
        return lanes

    # what others want to know

    def finished(self) -> set[Stem]:
        """Journals of which nothing is left to be told, also not after a crash."""
        return self._saved

    def broken(self) -> list[Stem]:
        """See Follower."""
        return self._follower.broken()

    @property
    def idle(self) -> bool:
        """Nothing is to be told now or later, of what is known."""
        return not self._window and not self._lanes

    @property
    def backlog(self) -> int:
        """Bytes of events that are not settled."""
        return self._follower.behind + sum(lane.size - lane.at for lane in self._lanes.values())

    def oldest(self) -> float | None:
        """When the oldest event that is known was made, in seconds since 1970."""
        times = [waiting[0].intent.time for waiting in self._window.values()]
        times += [head.event.time for lane in self._lanes.values() if (head := lane.first())]
        return min(times, default=None)

    def wake_at(self) -> float | None:
        """When the next lane is to be tried."""
        times = [
            lane.next_try for account, lane in self._lanes.items() if account not in self._busy
        ]
        return min(times, default=None)
