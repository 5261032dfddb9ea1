"""The heap of lazy deadlines: against a naive model, and in real time."""

from __future__ import annotations

import gc
import logging
import math
import time
import weakref
from collections.abc import Callable
from functools import partial

import anyio
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from actors.timers import Timer, Timers

DEADLINE = 20.0


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timers(clock: Clock) -> Timers:
    return Timers(clock)


DEADLINES = st.one_of(st.integers(0, 30).map(float), st.just(math.inf))


class TimersModel(RuleBasedStateMachine):
    """Every operation on the heap and on a plain dictionary of deadlines."""

    made = Bundle("made")

    @initialize()
    def make(self) -> None:
        self.clock = Clock()
        self.timers = Timers(self.clock)
        self.deadlines: dict[int, float] = {}  # what is still to be called, by number
        self.again: dict[int, float] = {}  # what its callback moves itself to
        self.fired: list[int] = []
        self.count = 0

    def called(self, number: int, timer: Callable[[], Timer]) -> None:
        self.fired.append(number)
        assert timer().due == self.deadlines.pop(number) <= self.clock.now
        assert not timer().pending
        if number in self.again:
            deadline = self.clock.now + self.again.pop(number)
            self.timers.move(timer(), deadline)
            self.deadlines[number] = deadline

    @rule(target=made, deadline=DEADLINES)
    def at(self, deadline: float) -> tuple[int, Timer]:
        self.count += 1
        number, cell = self.count, []
        timer = self.timers.at(deadline, partial(self.called, number, lambda: cell[0]))
        cell.append(timer)
        self.deadlines[number] = deadline
        return number, timer

    @rule(one=made, deadline=DEADLINES)
    def move(self, one: tuple[int, Timer], deadline: float) -> None:
        number, timer = one
        if timer._callback is not None:  # a cancelled timer stays cancelled
            self.deadlines[number] = deadline
        self.timers.move(timer, deadline)

    @rule(one=made, later=st.integers(1, 5))
    def move_when_called(self, one: tuple[int, Timer], later: int) -> None:
        self.again[one[0]] = float(later)

    @rule(one=made)
    def cancel(self, one: tuple[int, Timer]) -> None:
        number, timer = one
        timer.cancel()
        self.deadlines.pop(number, None)
        assert not timer.pending

    @rule(seconds=st.integers(0, 10))
    def fire(self, seconds: int) -> None:
        self.clock.now += seconds
        self.fired.clear()
        due = {number for number, deadline in self.deadlines.items() if deadline <= self.clock.now}

        next_look = self.timers.fire()

        assert sorted(self.fired) == sorted(due)
        assert next_look > self.clock.now
        assert next_look == self.timers.next_look

    @invariant()
    def no_deadline_is_before_the_next_look(self) -> None:
        assert self.timers.next_look <= min(self.deadlines.values(), default=math.inf)


TestTimersAgainstAModel = TimersModel.TestCase
TestTimersAgainstAModel.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def test_moving_a_deadline_later_does_not_touch_the_heap(clock: Clock, timers: Timers) -> None:
    calls: list[float] = []
    timer = timers.after(1, lambda: calls.append(clock.now))

    for second in range(1000):
        timers.move(timer, 2.0 + second)

    assert len(timers._heap) == 1
    clock.now = 1.0
    assert timers.fire() == 1001.0, "a look too early puts it back under its new time"
    assert calls == []
    clock.now = 1001.0
    timers.fire()
    assert calls == [1001.0]


def test_cancelled_timers_do_not_pile_up(timers: Timers) -> None:
    kept = [timers.after(1000 + number, lambda: None) for number in range(10)]

    for number in range(10_000):
        timers.after(number, lambda: None).cancel()

    assert len(timers) == len(kept)
    assert len(timers._heap) <= 128


def test_a_timer_moved_to_and_fro_does_not_pile_up(timers: Timers) -> None:
    timer = timers.after(20_000, lambda: None)

    for number in range(10_000):
        timers.move(timer, 10_000.0 - number)

    assert len(timers) == 1
    assert len(timers._heap) <= 128


def test_cancelling_lets_go_of_the_callback_at_once(timers: Timers) -> None:
    class Owner:
        def called(self) -> None: ...

    owner = Owner()
    gone = weakref.ref(owner)
    timer = timers.after(1000, owner.called)

    del owner
    timer.cancel()
    timer.cancel()
    gc.collect()

    assert gone() is None
    assert len(timers) == 0


def test_what_is_due_at_one_time_is_called_in_the_order_of_making(clock: Clock, timers: Timers) -> None:
    calls: list[int] = []
    for number in range(20):
        timers.at(1.0, partial(calls.append, number))

    clock.now = 1.0
    timers.fire()

    assert calls == list(range(20))


def test_a_callback_that_raises_is_logged_and_stops_no_other(
    clock: Clock, timers: Timers, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []

    def fail() -> None:
        raise ValueError("of the callback")

    timers.at(1.0, fail)
    timers.at(1.0, lambda: calls.append("the next"))
    clock.now = 1.0

    timers.fire()

    assert calls == ["the next"]
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("actors", logging.ERROR)
    assert "of the callback" in caplog.text


async def test_run_calls_in_real_time_what_is_entered_while_it_waits() -> None:
    timers = Timers(time.monotonic)
    calls: list[str] = []
    done = anyio.Event()
    never = timers.at(math.inf, lambda: calls.append("never"))

    def last() -> None:
        calls.append("last")
        done.set()

    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(timers.run)
            await anyio.wait_all_tasks_blocked()
            began = time.monotonic()
            timers.after(0.02, last)
            moved = timers.after(1000, lambda: calls.append("earlier than first entered"))
            timers.move(moved, began + 0.01)
            await done.wait()
            task_group.cancel_scope.cancel()

    assert calls == ["earlier than first entered", "last"]
    assert time.monotonic() - began >= 0.02, "never before its time"
    assert not never.pending
