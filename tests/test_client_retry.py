"""When to try again."""

from __future__ import annotations

from forkd.client.retry import Backoff, RetryPolicy


def test_pauses_grow_to_the_longest_and_end() -> None:
    backoff = Backoff(RetryPolicy(attempts=6, first=1.0, longest=10.0))
    pauses = [backoff.pause() for _ in range(7)]
    assert pauses[-1] is None
    for pause, whole in zip(pauses, [1, 2, 4, 8, 10, 10], strict=False):
        assert pause is not None
        assert whole / 2 <= pause <= whole


def test_progress_begins_anew() -> None:
    backoff = Backoff(RetryPolicy(attempts=2, first=1.0, longest=10.0))
    assert backoff.pause() is not None
    assert backoff.pause() is not None
    backoff.progress()
    assert (backoff.pause() or 0) <= 1.0
    assert backoff.pause() is not None
    assert backoff.pause() is None


def test_fewer_attempts_for_what_seldom_helps() -> None:
    backoff = Backoff(RetryPolicy(attempts=5, first=1.0, longest=10.0))
    assert backoff.pause(1) is not None
    assert backoff.pause(1) is None


def test_no_attempt_is_possible_too() -> None:
    assert Backoff(RetryPolicy(attempts=0)).pause() is None
    assert Backoff(RetryPolicy(attempts=0)).pause(3) is None


def test_pauses_of_many_clients_differ() -> None:
    policy = RetryPolicy(first=1000.0, longest=1000.0)
    assert len({Backoff(policy).pause() for _ in range(20)}) > 1
