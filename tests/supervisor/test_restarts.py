"""How often and how soon something is started again; time and chance are arguments."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor import Backoff, RestartLimit
from supervisor.restarts import BackoffClock, RestartWindow, delay_before

# -- the window --------------------------------------------------------------------------------


def allowed(limit: RestartLimit, *times: float) -> list[bool]:
    """Whether restarts at ``times`` are allowed, asked in this order."""
    window = RestartWindow(limit)
    return [window.allow(now) for now in times]


@pytest.mark.parametrize(
    ("count", "times", "verdicts"),
    [
        (0, [0.0], [False]),
        (1, [0.0, 4.999], [True, False]),
        (1, [0.0, 5.0], [True, True]),
        (1, [0.0, 5.001, 10.0], [True, True, False]),
        (3, [0.0, 0.0, 0.0, 0.0], [True, True, True, False]),
        (3, [0.0, 1.0, 2.0, 4.999], [True, True, True, False]),
        (3, [0.0, 1.0, 2.0, 5.0], [True, True, True, True]),
        (3, [0.0, 1.0, 2.0, 5.0, 5.999], [True, True, True, True, False]),
        (3, [0.0, 1.0, 2.0, 5.0, 6.0], [True, True, True, True, True]),
    ],
)
def test_the_restarts_of_any_five_seconds_are_counted_exactly_at_the_edge(
    count: int, times: list[float], verdicts: list[bool]
) -> None:
    assert allowed(RestartLimit(count=count, within=5.0), *times) == verdicts


def test_a_crash_every_4_9_seconds_is_within_a_window_of_5() -> None:
    crashes = [number * 4.9 for number in range(100)]

    assert allowed(RestartLimit(count=1, within=5.0), *crashes)[:2] == [True, False]
    assert all(allowed(RestartLimit(count=2, within=5.0), *crashes)), "two at most in any 5 seconds"
    assert all(allowed(RestartLimit(count=1, within=4.9 - 1e-6), *crashes))


def test_a_refused_restart_is_not_counted() -> None:
    assert allowed(RestartLimit(count=1, within=5.0), 0.0, 4.0, 5.0) == [True, False, True]


def test_left_says_how_many_restarts_are_allowed_now() -> None:
    window = RestartWindow(RestartLimit(count=2, within=5.0))

    assert window.left(0.0) == 2
    window.allow(0.0)
    window.allow(1.0)

    assert [window.left(now) for now in (1.0, 4.999, 5.0, 6.0)] == [0, 0, 1, 2]


@given(
    count=st.integers(0, 5),
    within=st.floats(0.1, 100.0),
    gaps=st.lists(st.floats(0.0, 50.0), max_size=40),
)
def test_no_window_ever_holds_more_restarts_than_allowed_and_none_is_refused_without_need(
    count: int, within: float, gaps: list[float]
) -> None:
    window = RestartWindow(RestartLimit(count=count, within=within))
    now, restarts = 0.0, []  # type: float, list[float]

    for gap in gaps:
        now += gap
        recent = [then for then in restarts if now - then < within]
        assert window.left(now) == count - len(recent)
        assert window.allow(now) is (len(recent) < count)
        if len(recent) < count:
            restarts.append(now)


# -- the backoff -------------------------------------------------------------------------------

MIDDLE = 0.5
"""The chance that makes no jitter."""


def test_the_first_restart_goes_at_once_and_the_next_ones_wait_twice_as_long_each() -> None:
    clock = BackoffClock(Backoff(initial=0.1, maximum=10.0, factor=2.0))

    delays = [clock.next_delay(0.0, MIDDLE) for _ in range(10)]

    assert delays == pytest.approx([0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10])


@pytest.mark.parametrize(("chance", "delay"), [(0.0, 0.9), (0.5, 1.0), (1.0, 1.1)])
def test_jitter_goes_either_way(chance: float, delay: float) -> None:
    assert delay_before(Backoff(initial=1.0, jitter=0.1), 1, chance) == pytest.approx(delay)


def test_the_maximum_holds_after_the_jitter() -> None:
    backoff = Backoff(initial=1.0, maximum=1.05, jitter=0.1)

    assert delay_before(backoff, 1, 1.0) == 1.05
    assert delay_before(backoff, 1, 0.0) == pytest.approx(0.9)


def test_a_stable_life_makes_the_next_crash_the_first_again() -> None:
    clock = BackoffClock(Backoff(initial=0.1, reset_after=30.0))
    lives = [0.0, 0.0, 29.9, 30.0, 0.0, 31.0]

    delays = [clock.next_delay(lived, MIDDLE) for lived in lives]

    assert delays == pytest.approx([0, 0.1, 0.2, 0, 0.1, 0])


backoffs = st.builds(
    Backoff,
    initial=st.floats(0.001, 100.0),
    maximum=st.floats(0.001, 1000.0),
    factor=st.floats(1.0, 1000.0),
    jitter=st.floats(0.0, 0.99),
    reset_after=st.floats(0.001, 1000.0),
)


@given(backoffs, st.integers(1, 10_000), st.floats(0.0, 1.0))
def test_every_delay_is_the_formula_within_its_jitter(backoff: Backoff, attempt: int, chance: float) -> None:
    try:
        raw = min(backoff.maximum, backoff.initial * backoff.factor ** (attempt - 1))
    except OverflowError:
        raw = backoff.maximum

    delay = delay_before(backoff, attempt, chance)

    assert 0.0 < delay <= backoff.maximum
    assert delay >= raw * (1 - backoff.jitter) * (1 - 1e-9)
    assert delay <= raw * (1 + backoff.jitter) * (1 + 1e-9)


@given(backoffs, st.integers(1, 10_000))
def test_without_jitter_no_delay_is_shorter_than_the_one_before(backoff: Backoff, attempt: int) -> None:
    shorter, longer = (delay_before(backoff, number, MIDDLE) for number in (attempt, attempt + 1))

    assert shorter <= longer * (1 + 1e-9)


@given(backoffs, st.lists(st.tuples(st.floats(0.0, 2000.0), st.floats(0.0, 1.0))))
def test_the_clock_counts_the_attempts_since_the_last_stable_life(
    backoff: Backoff, crashes: list[tuple[float, float]]
) -> None:
    clock, attempt = BackoffClock(backoff), 0

    for lived, chance in crashes:
        attempt = 0 if lived >= backoff.reset_after else attempt
        assert clock.next_delay(lived, chance) == delay_before(backoff, attempt, chance)
        attempt += 1


# -- written down ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "make"),
    [
        ("count", lambda: RestartLimit(count=-1)),
        ("count", lambda: RestartLimit(count=2.5)),  # type: ignore[arg-type]  # what is to fail
        ("within", lambda: RestartLimit(within=0)),
        ("within", lambda: RestartLimit(within=None)),  # type: ignore[arg-type]  # as above
        ("initial", lambda: Backoff(initial=0)),
        ("maximum", lambda: Backoff(maximum=-1.0)),
        ("maximum", lambda: Backoff(maximum=float("nan"))),
        ("factor", lambda: Backoff(factor=0.5)),
        ("jitter", lambda: Backoff(jitter=1.0)),
        ("reset_after", lambda: Backoff(reset_after=None)),  # type: ignore[arg-type]  # as above
    ],
)
def test_what_cannot_be_is_an_error_that_names_the_option(option: str, make: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{option}: "):
        make()
