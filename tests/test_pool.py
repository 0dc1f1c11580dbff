"""Threads that come and go, and the way back to the loop."""

from __future__ import annotations

import queue
import select
import threading
import time
from collections.abc import Callable

import pytest

from forkd.serving import pool
from forkd.serving.pool import Mailbox, Pool

LONG = 30.0


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many threads there are more than before the test; they leave soon when idle."""
    monkeypatch.setattr(pool, "_IDLE_SECONDS", 0.05)
    before = set(threading.enumerate())
    return lambda: len(set(threading.enumerate()) - before)


def none_left(threads: Callable[[], int]) -> None:
    ends = time.monotonic() + LONG
    while threads():
        assert time.monotonic() < ends, "idle threads stay"
        time.sleep(0.01)


def test_no_more_threads_than_allowed_and_every_task_runs(
    threads: Callable[[], int],
) -> None:
    crew = Pool(3)
    gate = threading.Event()
    done: queue.Queue[int] = queue.Queue()
    for number in range(20):
        crew.submit(lambda n=number: (gate.wait(LONG), done.put(n)))
    assert threads() == 3
    gate.set()
    assert sorted(done.get(timeout=LONG) for _ in range(20)) == list(range(20))
    none_left(threads)


def test_a_thread_is_used_again(
    threads: Callable[[], int],
) -> None:
    crew = Pool(8)
    done: queue.Queue[int] = queue.Queue()
    for number in range(30):
        crew.submit(lambda n=number: done.put(n))
        assert done.get(timeout=LONG) == number
        assert threads() <= 2  # one may still be between its task and its rest
    none_left(threads)


def test_after_a_crowd_and_a_rest_every_task_still_runs(
    threads: Callable[[], int],
) -> None:
    crew = Pool(2)
    done: queue.Queue[int] = queue.Queue()
    for _ in range(3):
        for number in range(40):
            crew.submit(lambda n=number: done.put(n))
        for _ in range(40):
            done.get(timeout=LONG)
        none_left(threads)
        for number in range(40):
            crew.submit(lambda n=number: done.put(n))
            done.get(timeout=LONG)
        none_left(threads)


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
