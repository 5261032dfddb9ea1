"""Dead letters: kept, counted, told, and logged without filling the log."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import Actor
from actors.dead_letters import BEGIN, KEPT, KEPT_SIZE, DeadLetter, DeadLetters, Excerpt
from actors.repeats import LOG_INTERVAL, LOGGED_AT_ONCE
from actors.testing import ManualClock, running, started

REASONS = ["crashed", "undelivered", "stopped", "overflow", "expired"]


@given(st.lists(st.tuples(st.integers(), st.sampled_from(REASONS)), max_size=40), st.integers(1, 20))
def test_the_last_ones_are_kept_in_order_and_all_are_counted(
    letters: list[tuple[int, str]], keep: int
) -> None:
    dead = DeadLetters(keep=keep)

    for message, reason in letters:
        dead.add(message, "room", reason)

    assert list(dead.last) == [DeadLetter(message, "room", reason) for message, reason in letters[-keep:]]
    assert dead.counts == Counter(reason for _, reason in letters)


def test_no_more_are_kept_than_the_ring_has_places() -> None:
    dead = DeadLetters()

    for number in range(KEPT + 5):
        dead.add(number, "room", "stopped")

    assert [letter.message for letter in dead.last] == list(range(5, KEPT + 5))
    assert dead.counts.total() == KEPT + 5


def test_a_large_message_is_kept_as_its_type_its_size_and_how_it_began() -> None:
    dead = DeadLetters()
    told: list[object] = []
    dead.subscribe(lambda letter: told.append(letter.message))
    text, data, tree, unknown = "é" * (KEPT_SIZE + 1), b"x" * (1 << 20), [[]] * KEPT_SIZE, object()

    for message in (text, data, tree, unknown, "y" * KEPT_SIZE):
        dead.add(message, "room", "crashed")

    assert [letter.message for letter in dead.last] == [
        Excerpt("str", KEPT_SIZE + 1, "é" * BEGIN),
        Excerpt("bytes", 1 << 20, b"x" * BEGIN),
        Excerpt("list"),
        Excerpt("object"),
        "y" * KEPT_SIZE,
    ]
    assert told == [text, data, tree, unknown, "y" * KEPT_SIZE]


# -- subscribers -------------------------------------------------------------------------------


def test_a_subscriber_is_told_until_it_takes_that_back() -> None:
    dead = DeadLetters()
    first: list[object] = []
    second: list[object] = []
    dead.add("before", "room", "stopped")

    unsubscribe = dead.subscribe(first.append)
    dead.subscribe(second.append)
    dead.add("one", "room", "stopped")
    unsubscribe()
    unsubscribe()
    dead.add("two", "room", "overflow")

    assert first == [DeadLetter("one", "room", "stopped")]
    assert second == [*first, DeadLetter("two", "room", "overflow")]


def test_the_same_function_may_subscribe_twice_and_each_is_taken_back_by_itself() -> None:
    dead = DeadLetters()
    told: list[object] = []

    unsubscribe = dead.subscribe(told.append)
    dead.subscribe(told.append)
    dead.add("one", "room", "stopped")
    unsubscribe()
    dead.add("two", "room", "stopped")

    assert [letter.message for letter in told if isinstance(letter, DeadLetter)] == ["one", "one", "two"]


def test_a_subscriber_may_take_itself_back_and_add_another_letter_meanwhile() -> None:
    dead = DeadLetters()
    told: list[object] = []

    def once(letter: DeadLetter) -> None:
        unsubscribe()
        told.append(letter.message)
        dead.add("second", "room", "stopped")

    unsubscribe = dead.subscribe(once)
    dead.add("first", "room", "stopped")

    assert told == ["first"]
    assert [letter.message for letter in dead.last] == ["first", "second"]


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, asyncio.CancelledError])
def test_a_subscriber_that_fails_is_logged_and_the_others_are_told(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    dead = DeadLetters()
    told: list[object] = []

    def failing(letter: DeadLetter) -> None:
        raise error("a subscriber's own fault")

    dead.subscribe(failing)
    dead.subscribe(told.append)
    dead.add("one", "room", "stopped")

    assert len(told) == 1
    assert "of dead letters failed" in caplog.text


def test_letters_may_come_from_several_threads_and_none_is_lost() -> None:
    dead = DeadLetters()
    told: list[object] = []
    dead.subscribe(told.append)
    start = threading.Barrier(4)

    def add() -> None:
        start.wait()
        for number in range(500):
            dead.add(number, "room", "stopped")

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert dead.counts == Counter(stopped=2000)
    assert len(told) == 2000


# -- the log -----------------------------------------------------------------------------------


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO, "actors")
    return lambda: [record.getMessage() for record in caplog.records]


def test_a_line_names_the_type_of_the_message_and_never_what_is_in_it(lines: Callable[[], list[str]]) -> None:
    DeadLetters().add("the password", "room", "overflow")

    assert lines() == ["dead letter for room: a str, overflow"]


async def test_a_flood_is_ten_lines_and_then_one_in_five_minutes(lines: Callable[[], list[str]]) -> None:
    clock = ManualClock()
    dead = DeadLetters(clock)

    for _ in range(LOGGED_AT_ONCE):
        dead.add(1, "room", "stopped")
    assert lines() == ["dead letter for room: a int, stopped"] * LOGGED_AT_ONCE

    for _ in range(500):
        dead.add(1, "room", "overflow")
        await clock.advance(LOG_INTERVAL / 500 - 0.001)
    assert len(lines()) == LOGGED_AT_ONCE

    await clock.advance(1.0)
    dead.add("late", "hall", "stopped")
    dead.add("later", "hall", "stopped")

    assert lines()[LOGGED_AT_ONCE:] == [
        "dead letter for hall: a str, stopped; 500 others before it were not logged, "
        "in all: 11 stopped, 500 overflow"
    ]


# -- where they come from ----------------------------------------------------------------------


async def test_what_is_told_to_an_actor_that_has_ended_is_a_dead_letter_of_its_event_loop() -> None:
    async with started(Actor) as ref:
        dead = ref._cell.runtime.dead_letters
    ref.tell("too late")

    assert list(dead.last) == [DeadLetter("too late", "Actor", "stopped")]


async def test_every_event_loop_has_dead_letters_of_its_own() -> None:
    async with running() as first, running() as second:
        first.dead_letters.add("one", "room", "stopped")

        assert second.dead_letters.counts.total() == 0
