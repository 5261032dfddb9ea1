"""Token buckets against exact arithmetic, and what a peer that sends too fast gets."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.rates import InboundRate, TokenBucket

STEPS = st.lists(st.integers(0, 64), max_size=60)
"""Sixty-fourths of a second between two messages: exact as floats."""


class Exact:
    """A token bucket without rounding."""

    def __init__(self, rate: int, burst: int) -> None:
        self.rate, self.burst, self.level = rate, burst, Fraction(burst)

    def take(self, after: Fraction) -> bool:
        self.level = min(Fraction(self.burst), self.level + after * self.rate)
        if self.level < 1:
            return False
        self.level -= 1
        return True


@given(st.integers(1, 50), st.integers(1, 50), STEPS)
def test_a_bucket_gives_what_exact_arithmetic_says(rate: int, burst: int, steps: list[int]) -> None:
    bucket, exact, now = TokenBucket(rate, burst, 0.0), Exact(rate, burst), 0.0

    for step in steps:
        now += step / 64
        assert bucket.take(now) == exact.take(Fraction(step, 64))
        assert bucket.level(now) == exact.level


@given(st.integers(1, 50), st.integers(1, 50), STEPS)
def test_in_no_span_of_time_are_there_more_tokens_than_burst_and_rate_allow(
    rate: int, burst: int, steps: list[int]
) -> None:
    bucket, now, taken = TokenBucket(rate, burst, 0.0), 0.0, []

    for step in steps:
        now += step / 64
        if bucket.take(now):
            taken.append(now)

    for first, begin in enumerate(taken):
        for last, end in enumerate(taken[first:], first):
            assert last - first + 1 <= burst + rate * (end - begin)


def test_a_bucket_starts_full_and_never_holds_more_than_its_burst() -> None:
    bucket = TokenBucket(rate=2, burst=3, now=100.0)

    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]
    assert bucket.take(100.5)
    assert bucket.level(1000.0) == 3


@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 50))
def test_after_the_wait_the_tokens_are_there_and_not_before(rate: int, burst: int, taken: int) -> None:
    bucket = TokenBucket(rate, burst, 0.0)
    for _ in range(taken):
        bucket.take(0.0)

    wait = bucket.wait(1, 0.0)

    assert (wait == 0.0) == (taken < burst)
    assert bucket.level(wait * 0.99) < 1 or wait == 0.0
    assert bucket.level(wait) == pytest.approx(max(1, burst - taken))


def test_it_is_known_when_the_bucket_will_be_full() -> None:
    bucket = TokenBucket(rate=2, burst=10, now=100.0)

    assert bucket.full_at() == 100.0
    for _ in range(5):
        bucket.take(100.0)
    assert bucket.full_at() == 102.5
    assert bucket.level(102.25) < 10
    assert bucket.level(bucket.full_at()) == 10


# -- the messages of one peer ------------------------------------------------------------------


def test_a_burst_is_within_the_rate_and_the_next_message_is_over_it() -> None:
    rate = InboundRate(10, 20, 0.0)

    assert all(rate.message(0.0) for _ in range(20))
    assert not rate.message(0.0)
    assert not rate.stubborn(0.0)


def test_after_the_pause_a_quarter_of_the_burst_is_there() -> None:
    rate = InboundRate(10, 20, 0.0)
    while rate.message(0.0):
        pass

    pause = rate.pause(0.0)

    assert pause == 0.5
    assert [rate.message(pause) for _ in range(6)] == [True] * 5 + [False]


def test_a_burst_of_one_still_pauses_for_a_whole_message() -> None:
    rate = InboundRate(10, 1, 0.0)
    rate.message(0.0)

    assert not rate.message(0.0)
    assert rate.pause(0.0) == pytest.approx(0.1)


def sends_in_pauses(rate: InboundRate, until: float) -> float | None:
    """A peer that always has something to send: give when patience with it ends, if it does by ``until``."""
    now = 0.0
    while now < until:
        while rate.message(now):
            pass
        if rate.stubborn(now):
            return now
        now += max(rate.pause(now), 1e-6)  # rounding may leave next to nothing of a pause
    return None


@given(st.integers(1, 200), st.integers(3, 400))
def test_who_never_slows_down_by_itself_is_stubborn_after_the_patience_however_much_it_is_paused(
    per_second: int, burst: int
) -> None:
    rate = InboundRate(per_second, burst, 0.0)
    longest_pause = max(1.0, burst / 4) / per_second

    ended = sends_in_pauses(rate, InboundRate.PATIENCE + 2 * longest_pause + 1)

    assert ended is not None
    assert InboundRate.PATIENCE <= ended <= InboundRate.PATIENCE + longest_pause + 1e-6


def test_who_slows_down_by_itself_is_forgiven() -> None:
    rate = InboundRate(10, 20, 0.0)
    while rate.message(0.0):
        pass

    assert rate.message(1.2)  # twelve tokens have come back: more than half
    while rate.message(1.2):
        pass

    assert not rate.stubborn(InboundRate.PATIENCE + 1.1)
    assert rate.stubborn(InboundRate.PATIENCE + 1.2)
