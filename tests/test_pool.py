"""Threads that come and go, and the way back to the loop."""

from __future__ import annotations

import queue
import select
import threading
import time

import pytest

from forkd import pool
from forkd.pool import Mailbox, Pool

LONG = 30.0


def threads() -> int:
    return sum(thread.name == "forkd-pool" for thread in threading.enumerate())


@pytest.fixture(autouse=True)
def quick_leaving(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_IDLE_SECONDS", 0.05)


def none_left() -> None:
    ends = time.monotonic() + LONG
    while threads():
        assert time.monotonic() < ends, "idle threads stay"
        time.sleep(0.01)


def test_no_more_threads_than_allowed_and_every_task_runs() -> None:
    crew = Pool(3)
    gate = threading.Event()
    done: queue.Queue[int] = queue.Queue()
    for number in range(20):
        crew.submit(lambda n=number: (gate.wait(LONG), done.put(n)))
    assert threads() == 3
    gate.set()
    assert sorted(done.get(timeout=LONG) for _ in range(20)) == list(range(20))
    none_left()


def test_a_thread_is_used_again() -> None:
    crew = Pool(8)
    done: queue.Queue[int] = queue.Queue()
    for number in range(30):
        crew.submit(lambda n=number: done.put(n))
        assert done.get(timeout=LONG) == number
        assert threads() <= 2  # one may still be between its task and its rest
    none_left()


def test_after_a_crowd_and_a_rest_every_task_still_runs() -> None:
    crew = Pool(2)
    done: queue.Queue[int] = queue.Queue()
    for _ in range(3):
        for number in range(40):
            crew.submit(lambda n=number: done.put(n))
        for _ in range(40):
            done.get(timeout=LONG)
        none_left()
        for number in range(40):
            crew.submit(lambda n=number: done.put(n))
            done.get(timeout=LONG)
        none_left()


def test_calls_are_made_in_order_on_the_thread_that_delivers() -> None:
    mailbox = Mailbox()
    calls: list[tuple[int, int]] = []
    posters = [
        threading.Thread(
            target=lambda p=poster: [
                mailbox.post(lambda n=n: calls.append((p, n))) for n in range(200)
            ]
        )
        for poster in range(4)
    ]
    for poster in posters:
        poster.start()
    poll = select.poll()
    poll.register(mailbox.fd, select.POLLIN)
    while len(calls) < 800:
        assert poll.poll(LONG * 1000), "a call was posted and nobody woken"
        mailbox.deliver()
    for poster in posters:
        poster.join()
    for number in range(4):
        assert [n for p, n in calls if p == number] == list(range(200))
    assert not poll.poll(0) or mailbox.deliver() is None


def test_a_call_may_post_another_which_wakes_again() -> None:
    mailbox = Mailbox()
    calls: list[str] = []
    mailbox.post(lambda: mailbox.post(lambda: calls.append("second")))
    mailbox.deliver()
    assert calls == []
    assert select.select([mailbox.fd], [], [], LONG)[0]
    mailbox.deliver()
    assert calls == ["second"]
