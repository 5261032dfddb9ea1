"""Plans: from a list of children and the one that failed to what is stopped and what is started."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor import Restart, Strategy
from supervisor.tree.strategies import Plan, plan, restarts

PERMANENT, TRANSIENT, TEMPORARY = Restart.PERMANENT, Restart.TRANSIENT, Restart.TEMPORARY


@pytest.mark.parametrize(
    ("restart", "abnormal", "again"),
    [
        (PERMANENT, False, True),
        (PERMANENT, True, True),
        (TRANSIENT, False, False),
        (TRANSIENT, True, True),
        (TEMPORARY, False, False),
        (TEMPORARY, True, False),
    ],
)
def test_the_restart_type_says_after_which_ends_a_child_is_started_again(
    restart: Restart, abnormal: bool, again: bool
) -> None:
    assert restarts(restart, abnormal=abnormal) is again


@pytest.mark.parametrize(
    ("strategy", "failed", "stop", "start"),
    [
        (Strategy.ONE_FOR_ONE, 0, (), (0,)),
        (Strategy.ONE_FOR_ONE, 3, (), (3,)),
        (Strategy.ONE_FOR_ALL, 0, (3, 2, 1), (0, 1, 2, 3)),
        (Strategy.ONE_FOR_ALL, 2, (3, 1, 0), (0, 1, 2, 3)),
        (Strategy.REST_FOR_ONE, 0, (3, 2, 1), (0, 1, 2, 3)),
        (Strategy.REST_FOR_ONE, 2, (3,), (2, 3)),
        (Strategy.REST_FOR_ONE, 3, (), (3,)),
    ],
)
def test_siblings_stop_in_reverse_and_start_in_order(
    strategy: Strategy, failed: int, stop: tuple[int, ...], start: tuple[int, ...]
) -> None:
    assert plan(strategy, [TRANSIENT] * 4, failed) == Plan(stop, start)


def test_a_temporary_sibling_that_had_to_stop_is_not_started_again() -> None:
    children = [TEMPORARY, PERMANENT, TEMPORARY, TRANSIENT]

    assert plan(Strategy.ONE_FOR_ALL, children, 1) == Plan(stop=(3, 2, 0), start=(1, 3))
    assert plan(Strategy.REST_FOR_ONE, children, 1) == Plan(stop=(3, 2), start=(1, 3))


def naive_plan(strategy: Strategy, children: list[Restart], failed: int) -> Plan:
    """What OTP's words say, one child after the other."""
    stop: list[int] = []
    start: list[int] = []
    for number, restart in enumerate(children):
        touched = {
            Strategy.ONE_FOR_ONE: number == failed,
            Strategy.ONE_FOR_ALL: True,
            Strategy.REST_FOR_ONE: number >= failed,
        }[strategy]
        if touched and number != failed:
            stop.insert(0, number)
        if touched and (number == failed or restart is not TEMPORARY):
            start.append(number)
    return Plan(tuple(stop), tuple(start))


def test_every_plan_for_up_to_four_children_is_that_of_a_naive_model() -> None:
    for count in range(1, 5):
        for strategy, failed, *children in product(Strategy, range(count), *[list(Restart)] * count):
            assert plan(strategy, children, failed) == naive_plan(strategy, children, failed)


@given(st.sampled_from(Strategy), st.lists(st.sampled_from(Restart), min_size=1), st.data())
def test_a_plan_touches_the_failed_child_and_starts_nothing_that_runs(
    strategy: Strategy, children: list[Restart], data: st.DataObject
) -> None:
    failed = data.draw(st.integers(0, len(children) - 1))

    made = plan(strategy, children, failed)

    assert made == naive_plan(strategy, children, failed)
    assert failed in made.start
    assert set(made.start) <= {failed, *made.stop}
    assert list(made.start) == sorted(made.start)
    assert list(made.stop) == sorted(made.stop, reverse=True)


def test_a_plan_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        plan(Strategy.ONE_FOR_ONE, [PERMANENT], 0).stop = (1,)  # type: ignore[misc]  # what is to fail
