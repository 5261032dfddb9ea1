"""An error that is kept tells where it was raised, and keeps nothing of what was there."""

from __future__ import annotations

import gc
import subprocess
import sys
import traceback
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from actors.tracebacks import forget_frames, place_of


class Payload:
    """What a frame holds."""


def fails(payload: Payload) -> None:
    raise ValueError("failed")


async def fails_later(payload: Payload) -> None:
    held = payload
    fails(
        held,
    )


def deeper(payload: Payload, depth: int = 0) -> None:
    deeper(payload, depth + 1)


def chained(payload: Payload) -> None:
    try:
        fails(payload)
    except ValueError as error:
        raise KeyError("chained") from error


def in_a_context(payload: Payload) -> None:
    try:
        fails(payload)
    except ValueError:
        deeper(payload)


def in_groups(payload: Payload) -> None:
    errors: list[Exception] = []
    for function in (fails, chained):
        try:
            function(payload)
        except (ValueError, KeyError) as error:
            errors.append(error)
    try:
        raise ExceptionGroup("inner", errors)
    except ExceptionGroup as group:
        inner = group
    errors.clear()
    raise ExceptionGroup("outer", [inner])


def of_a_coroutine(payload: Payload) -> None:
    fails_later(payload).send(None)


@dataclass(frozen=True)
class Frozen(Exception):
    """An attribute of it cannot be set."""

    text: str


def frozen(payload: Payload) -> None:
    raise Frozen("frozen")


RAISERS = [fails, of_a_coroutine, chained, in_a_context, in_groups, deeper, frozen]


def raised(raiser: Callable[[Payload], None]) -> tuple[BaseException, weakref.ref[Payload]]:
    payload = Payload()
    try:
        raiser(payload)
    except Exception as error:
        return error, weakref.ref(payload)
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize("raiser", RAISERS)
def test_a_traceback_without_frames_prints_as_before(raiser: Callable[[Payload], None]) -> None:
    error, _ = raised(raiser)
    before = traceback.format_exception(error)

    forget_frames(error)
    forget_frames(error)

    assert traceback.format_exception(error) == before


@pytest.mark.parametrize("raiser", RAISERS)
def test_what_was_in_the_frames_goes_at_once(raiser: Callable[[Payload], None]) -> None:
    gc.collect()
    gc.disable()
    try:
        error, payload = raised(raiser)
        assert payload() is not None

        forget_frames(error)

        assert payload() is None
    finally:
        gc.enable()


def test_errors_that_came_of_each_other_in_a_circle_are_no_endless_work() -> None:
    first, second = ValueError("first"), KeyError("second")
    first.__context__, second.__cause__ = second, first

    forget_frames(first)


def test_an_error_that_was_never_raised_has_no_place() -> None:
    error = ValueError("never")

    forget_frames(error)

    assert error.__traceback__ is None
    assert place_of(error) == ""


def test_the_place_is_where_it_was_raised_and_of_a_group_where_its_first_leaf_was() -> None:
    line = fails.__code__.co_firstlineno + 1

    assert place_of(raised(fails)[0]) == place_of(raised(in_groups)[0]) == f"{__file__}:{line}"


def test_lines_are_known_where_python_keeps_no_columns() -> None:
    script = (
        "import traceback\n"
        "from actors.tracebacks import forget_frames\n"
        "try:\n"
        "    1 / 0\n"
        "except ZeroDivisionError as error:\n"
        "    before = traceback.format_exception(error)\n"
        "    forget_frames(error)\n"
        "    assert traceback.format_exception(error) == before\n"
    )

    subprocess.run([sys.executable, "-X", "no_debug_ranges", "-c", script], check=True)
