"""Log lines that repeat: the first ten of each kind, then one in five minutes."""

from __future__ import annotations

import threading

from actors.repeats import KINDS, LOG_INTERVAL, LOGGED_AT_ONCE, Repeats, others


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_ten_lines_of_a_kind_come_and_then_one_in_five_minutes_that_says_how_many_did_not() -> None:
    clock = Clock()
    repeats = Repeats(clock)

    assert [repeats.due("a") for _ in range(LOGGED_AT_ONCE + 5)] == [0] * LOGGED_AT_ONCE + [None] * 5
    clock.now += LOG_INTERVAL
    assert [repeats.due("a"), repeats.due("a")] == [5, None]
    clock.now += LOG_INTERVAL
    assert repeats.due("a") == 1
    clock.now += LOG_INTERVAL
    assert repeats.due("a") == 0


def test_one_kind_hides_no_other() -> None:
    repeats = Repeats(Clock())
    for _ in range(1000):
        repeats.due("a flood")

    assert repeats.due("something else") == 0


def test_kinds_beyond_the_table_share_a_place_until_one_is_silent() -> None:
    clock = Clock()
    repeats = Repeats(clock)
    lines = sum(repeats.due(number) is not None for number in range(KINDS + 1000))

    assert lines == KINDS + LOGGED_AT_ONCE
    assert len(repeats._kinds) == KINDS + 1
    clock.now += LOG_INTERVAL
    assert [repeats.due("new") for _ in range(2)] == [0, 0]
    assert len(repeats._kinds) == 1


def test_lines_from_several_threads_are_counted_each() -> None:
    repeats = Repeats(Clock())
    due: list[int | None] = []
    threads = [
        threading.Thread(target=lambda: due.extend(repeats.due("a") for _ in range(500))) for _ in range(4)
    ]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(one == 0 for one in due) == LOGGED_AT_ONCE
    assert len(due) == 2000


def test_a_line_says_how_many_like_it_were_left_out() -> None:
    assert (others(0), others(3)) == ("", "; 3 like it before were not logged")
