"""What the limits decide, without anything that keeps it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkd.limits import policy
from forkd.limits.policy import BURST, SECOND, TICK


def test_delays_double_and_are_capped() -> None:
    assert policy.delay(0, 8.0) == 0
    assert [policy.delay(n, 8.0) for n in range(1, 8)] == [0.25, 0.5, 1, 2, 4, 8, 8]
    assert policy.delay(10**6, 8.0) == 8
    assert policy.delay(10**6, policy.LONGEST_NAME_DELAY) == 2


def test_failures_count_within_the_window_only() -> None:
    now = 1000 * SECOND
    ticks = [policy.tick_of(now - seconds * SECOND) for seconds in (0, 1, 9, 10, 11)]
    assert policy.recent([0, *ticks, 0], now, 10.0) == 4
    assert policy.recent(ticks, now + SECOND, 10.0) == 3
    assert policy.recent(ticks, now + 100 * SECOND, 10.0) == 0
    assert policy.tick_of(0) > 0  # a failure right after the boot is one


def test_bans() -> None:
    assert not policy.is_ban(10**6, 0)
    assert [policy.is_ban(n, 3) for n in (0, 2, 3, 4)] == [False, False, True, True]


@given(
    rate=st.integers(1024, 1 << 30),
    sizes=st.lists(st.integers(1, 1 << 20), min_size=1, max_size=50),
    idle=st.integers(0, 100 * SECOND),
)
def test_no_more_moves_than_the_rate_allows(rate: int, sizes: list[int], idle: int) -> None:
    """By any time T: at most rate * (T + BURST), and the claim that begins then."""
    start = 50 * SECOND
    paid, moved = max(0, start - idle), 0
    for size in sizes:
        begins, paid = policy.claim(paid, start, size, rate)
        assert moved <= rate * (begins - start + BURST) / SECOND + len(sizes)
        moved += size
    if idle <= SECOND // 100:
        assert paid - start >= moved * SECOND // rate - len(sizes) - idle - BURST


def test_who_comes_late_makes_up_for_a_burst_and_no_more() -> None:
    rate, now = 1000, 100 * SECOND
    begins, paid = policy.claim(0, now, 200, rate)
    assert begins == now - BURST
    begins, _ = policy.claim(paid, now, 1, rate)
    assert begins == now
    # always at work, a little late: nothing is lost
    begins, paid = policy.claim(now, now + BURST // 2, 100, rate)
    assert begins == now
    assert paid == now + SECOND // 10


def test_pieces_are_few_and_small() -> None:
    assert policy.piece(1024) == 4096
    assert policy.piece(1 << 20) == 65536
    assert policy.piece(1 << 40) == 4 << 20


def test_what_may_be_forgotten_and_when() -> None:
    now = 1000 * SECOND
    assert policy.ends_of_interest([0, 0], 0, 0, now) == 0
    assert policy.ends_of_interest([now - BURST, 0], 0, 0, now) == 0
    assert policy.ends_of_interest([0, now - BURST + 1], 0, 0, now) == -1
    failed = policy.ends_of_interest([0, 0], policy.tick_of(now), 0, now)
    assert 0 <= failed - now <= TICK
    assert policy.ends_of_interest([0, 0], policy.tick_of(now), now + SECOND, now) == now + SECOND


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
    ],
)
def test_who_counts_as_one(host: str, origin: str) -> None:
    assert policy.origin_of(host) == origin
    assert policy.read_origin(host) == origin
    assert policy.read_origin(origin) == origin


def test_origins_as_people_write_them() -> None:
    assert policy.read_origin("[2001:db8::1]") == "2001:db8::/64"
    assert policy.read_origin("unix:uid=1000") == "unix:uid=1000"
    for text in ("", "here", "192.0.2.0/24", "192.0.2.7/64", "2001:db8::/48", "unix:uid=x"):
        with pytest.raises(ValueError, match=r"."):
            policy.read_origin(text)
