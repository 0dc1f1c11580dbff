"""One hook's queue: order for each account, lanes, dead letters, and what crashes leave of it."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path

import pytest

from forkd.config import Hook
from forkd.events import queue as queue_module
from forkd.events.files import Stem
from forkd.events.journal import FileJournal, Identity, Told
from forkd.events.lanes import FIRST_PAUSE, LONGEST_PAUSE, pause_after
from forkd.events.queue import SAVE_AFTER, WINDOW, Delivery, HookQueue
from forkd.events.records import KINDS, Origin
from forkd.units import Seconds

BOOT = "now"


class Place:
    """A process that tells, and queues that listen."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = FileJournal(str(folder), 1, 100, BOOT, KINDS, durable=False)

    def queue(self, **settings) -> HookQueue:
        """As a dispatcher opens it, also one that comes after a crash."""
        hook = Hook(exec=("x",), **settings)
        made = HookQueue("h", hook, str(self.folder), BOOT)
        made.look()
        return made

    def happen(self, *paths: str, account: int = 1, kind="published") -> None:
        origin = Origin(account, f"user{account}", f"user{account}", "s", "native")
        tickets = [Told(kind, origin, path, lambda: Identity(1)) for path in paths]
        self.journal.begin(tickets)
        for ticket in tickets:
            ticket.done()
        self.journal.settle(tickets)

    def file(self, name: str) -> Path:
        return self.folder / "hooks" / "h" / name


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def paths(queue: HookQueue, now: float = 0.0) -> list[str]:
    """Tell all that is due, successfully."""
    found = []
    queue.look()
    while (delivery := queue.next(now)) is not None:
        found.append(delivery.event.path)
        queue.succeeded(delivery)
        queue.look()
    return found


def the_next(queue: HookQueue, now: float = 0.0) -> Delivery:
    delivery = queue.next(now)
    assert delivery is not None
    return delivery


def test_an_accounts_events_come_one_after_the_other(place: Place) -> None:
    place.happen("a", "b", account=1)
    place.happen("c", account=2)
    queue = place.queue(concurrency=4)
    first, second = the_next(queue), the_next(queue)
    assert [first.event.path, second.event.path] == ["a", "c"]
    assert queue.next(0) is None
    queue.succeeded(first)
    assert the_next(queue).event.path == "b"


def test_no_more_at_a_time_than_asked_for(place: Place) -> None:
    for account in range(1, 5):
        place.happen("f", account=account)
    queue = place.queue(concurrency=2)
    first = the_next(queue)
    the_next(queue)
    assert queue.next(0) is None
    queue.succeeded(first)
    the_next(queue)
    assert queue.next(0) is None


def test_only_what_was_asked_for(place: Place) -> None:
    place.happen("a", kind="removed")
    place.happen("b", account=2)
    place.happen("c")
    assert paths(place.queue(events=("published",), users=("user1",))) == ["c"]


def test_pauses_double_up_to_a_limit() -> None:
    pauses = [pause_after(n) for n in range(1, 1000)]
    assert pauses[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE


def test_what_fails_is_tried_again_in_its_order(place: Place) -> None:
    place.happen("a", "b", account=1)
    place.happen("c", account=2)
    queue = place.queue()
    delivery = the_next(queue, 10)
    assert queue.failed(delivery, 10) == []
    place.happen("d", account=1)
    assert paths(queue, 10) == ["c"]
    assert queue.wake_at() == 10 + FIRST_PAUSE
    again = the_next(queue, 10 + FIRST_PAUSE)
    assert again.event == delivery.event
    queue.failed(again, 20)
    assert queue.next(20 + FIRST_PAUSE) is None
    assert paths(queue, 20 + 2 * FIRST_PAUSE) == ["a", "b", "d"]
    assert queue.idle
    assert list(place.file("").glob("*.lane")) == []
    place.happen("e", account=1)
    assert paths(queue) == ["e"]


def test_failing_accounts_leave_room_for_the_others(place: Place) -> None:
    queue = place.queue(concurrency=4)
    for account in range(1, 10):
        place.happen("bad", account=account)
    queue.look()
    while (delivery := queue.next(0)) is not None:
        queue.failed(delivery, 0)
    place.happen("good", account=20)
    queue.look()
    due = [the_next(queue, 100).event.path for _ in range(3)]
    assert sorted(due) == ["bad", "bad", "good"]


def test_what_fails_too_long_is_a_dead_letter(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [time.time()]
    monkeypatch.setattr(queue_module.time, "time", lambda: clock[0])
    place.happen("a", "b")
    queue = place.queue(give_up=Seconds(100))
    queue.failed(the_next(queue), 0)
    clock[0] += 50
    place.happen("c")
    queue.look()
    assert queue.failed(the_next(queue, 50), 50) == []
    clock[0] += 50
    lost = queue.failed(the_next(queue, 100), 100)
    assert [event.path for event in lost] == ["a", "b"]
    letters = [json.loads(line) for line in place.file("dead-letters").read_text().splitlines()]
    assert [letter["event"]["path"] for letter in letters] == ["a", "b"]
    assert paths(queue, 1000) == ["c"]


def test_a_crash_tells_again_what_was_not_saved_and_nothing_else(place: Place) -> None:
    names = [f"f{i}" for i in range(3 * SAVE_AFTER)]
    place.happen(*names)
    queue = place.queue()
    done = []
    for _ in range(2 * SAVE_AFTER + 10):
        delivery = the_next(queue)
        queue.succeeded(delivery)
        done.append(delivery.event.path)
        queue.save_if_due(0.0)
    again = paths(place.queue())
    assert again == names[2 * SAVE_AFTER :]


@pytest.mark.parametrize("failures", [1, 3])
def test_a_crash_keeps_the_lanes(place: Place, failures: int) -> None:
    place.happen("a", "b")
    queue = place.queue()
    for _ in range(failures):
        queue.failed(the_next(queue, 1e6), 0)
    queue.save_if_due(1e9)
    place.happen("c")
    after = place.queue()
    assert paths(after) == ["a", "b", "c"]
    after.leave()
    assert paths(place.queue()) == []


def test_a_crash_before_a_lane_is_saved_loses_nothing(place: Place) -> None:
    place.happen("a", "b")
    queue = place.queue()
    queue.failed(the_next(queue), 0)
    told = paths(place.queue())
    assert sorted(set(told)) == ["a", "b"]
    assert told.index("a") < told.index("b")


def test_a_crash_after_a_lane_was_used_up_and_made_anew(place: Place) -> None:
    place.happen("a")
    queue = place.queue()
    queue.failed(the_next(queue), 0)
    assert paths(queue, 1e6) == ["a"]
    place.happen("b")
    queue.look()
    queue.failed(the_next(queue), 0)
    assert paths(place.queue()) == ["b"]


def test_a_torn_lane_loses_nothing_that_came_after(place: Place) -> None:
    place.happen("a")
    queue = place.queue()
    queue.failed(the_next(queue), 0)
    queue.leave()
    lane = place.file("1.lane")
    lane.write_bytes(lane.read_bytes() + b'{"since": 1.0, "ev')
    after = place.queue()
    place.happen("b")
    after.look()
    assert paths(after) == ["a", "b"]


def test_a_lane_that_cannot_be_written_keeps_its_events(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.happen("a", "b")
    queue = place.queue()
    delivery = the_next(queue)
    place.file("1.lane").mkdir()
    with pytest.raises(IsADirectoryError):
        queue.failed(delivery, 0)
    place.file("1.lane").rmdir()
    assert paths(queue) == ["a", "b"]


def test_an_event_on_its_way_to_a_lane_that_cannot_be_written_waits(place: Place) -> None:
    place.happen("a")
    queue = place.queue()
    queue.failed(the_next(queue), 0)
    lane = place.file("1.lane")
    aside = lane.rename(lane.with_suffix(".aside"))
    lane.mkdir()
    place.happen("b")
    with pytest.raises(IsADirectoryError):
        queue.look()
    lane.rmdir()
    aside.rename(lane)
    assert paths(queue, 1e6) == ["a", "b"]


@pytest.mark.parametrize("content", [b"", b"{", b"\0" * 50])
def test_a_position_that_cannot_be_read_tells_all_anew(place: Place, content: bytes) -> None:
    place.happen("a")
    queue = place.queue()
    assert paths(queue) == ["a"]
    queue.leave()
    place.file("position").write_bytes(content)
    assert paths(place.queue()) == ["a"]


def test_a_position_that_was_not_saved_whole_is_not_there(place: Place) -> None:
    place.happen("a")
    queue = place.queue()
    assert paths(queue) == ["a"]
    queue.leave()
    place.file("position.new").write_bytes(b"{")
    assert paths(place.queue()) == []


def test_a_journal_is_finished_only_when_that_is_saved(place: Place) -> None:
    place.happen("a")
    queue = place.queue()
    os.rename(place.folder / "1.100-0.live", place.folder / "1.100-0.ended")
    assert paths(queue) == ["a"]
    assert queue.finished() == set()
    queue.save_if_due(1e9)
    assert queue.finished() == {Stem(100, 1, 0)}


def test_a_backlog_is_not_held_in_memory(place: Place) -> None:
    count = 20 * WINDOW
    place.happen(*(f"f{i}" for i in range(count)))
    queue = place.queue()
    assert queue._waiting == WINDOW
    queue.look()
    assert queue._waiting == WINDOW
    assert queue.backlog > count * 100
    assert paths(queue) == [f"f{i}" for i in range(count)]
    assert queue.backlog == 0
    assert queue.oldest() is None


def test_the_oldest_is_of_window_and_lanes(place: Place) -> None:
    before = time.time()
    place.happen("a")
    between = time.time()
    queue = place.queue()
    queue.failed(the_next(queue), 0)
    place.happen("b", account=2)
    queue.look()
    oldest = queue.oldest()
    assert oldest is not None
    assert before <= oldest <= between


def test_any_sequence_of_failures_and_crashes_tells_everything_in_order(place: Place) -> None:
    """Each account's events, at their first telling, come in order, and none is missing."""
    dice = random.Random(11)
    happened: dict[int, list[str]] = {account: [] for account in range(1, 6)}
    told: dict[int, list[str]] = {account: [] for account in happened}
    queue = place.queue()
    now = 0.0
    for number in range(2500):
        now += dice.random()
        account = dice.randrange(1, 6)
        if number < 2000 and dice.random() < 0.6:
            happened[account].append(f"f{number}")
            place.happen(f"f{number}", account=account)
        queue.look()
        under_way = []
        while (delivery := queue.next(now)) is not None and len(under_way) < 3:
            under_way.append(delivery)
        if delivery is not None:
            under_way.append(delivery)
        if dice.random() < 0.01:  # a crash: what was told may or may not have been noted
            for each in under_way[: dice.randrange(4)]:
                told[each.account].append(each.event.path)
            queue = place.queue()
            continue
        for each in under_way:
            if dice.random() < 0.2:
                queue.failed(each, now)
            else:
                told[each.account].append(each.event.path)
                queue.succeeded(each)
        queue.save_if_due(now)
    for _ in range(200):
        now += LONGEST_PAUSE
        for path in paths(queue, now):
            owner = next(a for a, names in happened.items() if path in names)
            told[owner].append(path)
    for account, names in happened.items():
        assert list(dict.fromkeys(told[account])) == names
    assert queue.idle
