"""Parkers, waiters and backends: one task is woken, from here, another thread or another event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import pytest
import trio

from actors.backends import AsyncioBackend, TrioBackend, Waiter, current_backend
from actors.frames import innermost_frame

pytestmark = pytest.mark.every_runtime

DEADLINE = 20.0
T = TypeVar("T")


async def in_thread(function: Callable[..., T], *args: Any, **options: Any) -> T:
    """Run ``function`` on another thread and wait for it."""
    with anyio.fail_after(DEADLINE):
        return await anyio.to_thread.run_sync(partial(function, *args, **options))


async def test_a_parked_task_goes_on_when_it_is_woken_and_not_before() -> None:
    parker = current_backend().parker()
    steps: list[str] = []

    async def park() -> None:
        steps.append("parks")
        await parker.park()
        steps.append("goes on")

    async with anyio.create_task_group() as task_group:
        task_group.start_soon(park)
        await anyio.wait_all_tasks_blocked()
        steps.append("is woken")
        parker.wake()
        parker.wake()

    assert steps == ["parks", "is woken", "goes on"]


async def test_a_wake_without_a_parked_task_is_not_remembered() -> None:
    parker = current_backend().parker()

    parker.wake()

    with anyio.move_on_after(0.01) as scope:
        await parker.park()
    assert scope.cancelled_caught


@pytest.mark.parametrize("hurried", [False, True])
async def test_a_parker_can_be_used_again_after_a_cancellation(hurried: bool) -> None:
    parker = current_backend().parker()
    if hurried:
        parker.hurry()
    woken = 0

    async def park() -> None:
        nonlocal woken
        await parker.park()
        woken += 1

    for _ in range(3):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await parker.park()
        assert scope.cancelled_caught
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(park)
            await anyio.wait_all_tasks_blocked()
            parker.wake()

    assert woken == 3


@pytest.mark.parametrize("hurried", [False, True])
async def test_a_woken_and_then_cancelled_task_ends_once(hurried: bool) -> None:
    parker = current_backend().parker()
    if hurried:
        parker.hurry()

    async def park() -> None:
        await parker.park()

    async with anyio.create_task_group() as task_group:
        task_group.start_soon(park)
        await anyio.wait_all_tasks_blocked()
        parker.wake()
        task_group.cancel_scope.cancel()


async def test_the_first_time_a_task_is_hurried_it_keeps_its_turn() -> None:
    backend = current_backend()
    parker = backend.parker()
    steps: list[str] = []

    async def park() -> None:
        await parker.park()
        steps.append("goes on")

    def callback() -> None:
        parker.wake()
        parker.hurry()
        steps.append("is woken")

    async with anyio.create_task_group() as task_group:
        task_group.start_soon(park)
        await anyio.wait_all_tasks_blocked()
        backend.call_from_thread(callback)

    assert steps == ["is woken", "goes on"]


async def test_a_woken_task_that_is_hurried_in_a_callback_has_run_before_the_event_loop_goes_on() -> None:
    backend = current_backend()
    parker = backend.parker()
    parker.hurry()
    steps: list[str] = []
    tasks: list[object] = []

    async def park() -> None:
        for _ in range(2):
            await parker.park()
            tasks.append(backend.current_task())
            steps.append("goes on")

    def callback() -> None:
        for _ in range(3):
            steps.append("is woken")
            parker.hurry()
            parker.wake()
            parker.hurry()
        assert backend.current_task() not in tasks

    async with anyio.create_task_group() as task_group:
        task_group.start_soon(park)
        await anyio.wait_all_tasks_blocked()
        backend.call_from_thread(callback)
        await anyio.wait_all_tasks_blocked()
        parker.wake()

    if in_trio():
        assert steps == ["is woken"] * 3 + ["goes on"] * 2
    else:
        assert steps == ["is woken", "goes on"] * 2 + ["is woken"]
    assert tasks[0] is tasks[1] is not None


async def test_one_task_does_not_run_another_within_its_own_turn() -> None:
    parker = current_backend().parker()
    parker.hurry()
    steps: list[str] = []

    async def park() -> None:
        await parker.park()
        steps.append("goes on")

    async with anyio.create_task_group() as task_group:
        task_group.start_soon(park)
        await anyio.wait_all_tasks_blocked()
        parker.wake()
        parker.hurry()
        steps.append("is woken")

    assert steps == ["is woken", "goes on"]


async def test_a_hurried_task_that_was_cancelled_meanwhile_ends_once() -> None:
    backend = current_backend()
    parker = backend.parker()
    parker.hurry()
    ends: list[str] = []

    async def park() -> None:
        try:
            await parker.park()
        finally:
            ends.append("over")

    def callback() -> None:
        task_group.cancel_scope.cancel()
        parker.hurry()
        parker.wake()
        parker.hurry()

    async with anyio.create_task_group() as task_group:
        task_group.start_soon(park)
        await anyio.wait_all_tasks_blocked()
        backend.call_from_thread(callback)
        await anyio.sleep_forever()

    assert ends == ["over"]


async def test_what_a_hurried_task_raises_is_not_raised_to_who_hurried_it() -> None:
    backend = current_backend()
    parker = backend.parker()
    parker.hurry()
    calls: list[str] = []

    async def park() -> None:
        await parker.park()
        raise ZeroDivisionError

    def callback() -> None:
        parker.wake()
        parker.hurry()
        calls.append("returned")

    with pytest.raises(ExceptionGroup) as raised:  # noqa: PT012  # all of it is the task's
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(park)
            await anyio.wait_all_tasks_blocked()
            backend.call_from_thread(callback)

    assert raised.group_contains(ZeroDivisionError)
    assert calls == ["returned"]


async def test_a_backend_knows_the_running_task_and_that_a_callback_is_another_one() -> None:
    backend = current_backend()
    seen: list[object] = []
    waiter = Waiter()

    def callback() -> None:
        seen.append(backend.current_task())
        waiter.wake()

    backend.call_from_thread(callback)
    with anyio.fail_after(DEADLINE):
        await waiter.wait()

    assert seen[0] is not backend.current_task()
    assert backend.current_task() is current_backend().current_task() is not None


async def test_the_clock_goes_on_within_a_turn_of_the_event_loop() -> None:
    clock = current_backend().clock

    began = clock()
    time.sleep(0.002)  # noqa: ASYNC251  # the event loop must not turn

    assert clock() - began >= 0.001


async def test_cancellation_is_what_the_backend_says() -> None:
    backend = current_backend()
    raised: list[BaseException] = []

    async def wait() -> None:
        try:
            await anyio.sleep_forever()
        except BaseException as error:
            raised.append(error)
            raise

    async with anyio.create_task_group() as task_group:
        task_group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        task_group.cancel_scope.cancel()

    assert isinstance(raised[0], backend.cancelled)


async def test_a_waiter_is_woken_from_another_thread() -> None:
    for _ in range(50):
        waiter = Waiter()
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(in_thread, waiter.wake)
            with anyio.fail_after(DEADLINE):
                await waiter.wait()

        assert waiter.woken


async def test_a_waiter_woken_before_it_waits_does_not_wait() -> None:
    waiter = Waiter()

    waiter.wake()
    waiter.wake()

    with anyio.fail_after(DEADLINE):
        await waiter.wait()


@pytest.mark.parametrize("other", ["asyncio", "trio"])
async def test_two_event_loops_wake_each_other(other: str) -> None:
    theirs: list[Waiter] = []
    ours = Waiter()

    async def their_main() -> None:
        waiter = Waiter()
        theirs.append(waiter)
        ours.wake()
        with anyio.fail_after(DEADLINE):
            await waiter.wait()

    async with anyio.create_task_group() as task_group:
        task_group.start_soon(partial(in_thread, anyio.run, their_main, backend=other))
        with anyio.fail_after(DEADLINE):
            await ours.wait()
        theirs[0].wake()

    assert theirs[0].woken


@pytest.mark.parametrize("other", ["asyncio", "trio"])
async def test_waking_a_waiter_whose_event_loop_has_ended_does_nothing(other: str) -> None:
    async def their_main() -> tuple[Waiter, Any]:
        return Waiter(), current_backend()

    waiter, backend = await in_thread(anyio.run, their_main, backend=other)

    waiter.wake()

    assert waiter.woken
    with pytest.raises(RuntimeError):
        backend.call_from_thread(lambda: None)


async def test_the_innermost_frame_of_a_task_is_where_it_waits() -> None:
    parker = current_backend().parker()
    tasks: list[object] = []

    async def inner() -> None:
        tasks.append(current_backend().current_task())
        await parker.park()

    async def outer() -> None:
        await inner()

    async with anyio.create_task_group() as task_group:
        task_group.start_soon(outer)
        await anyio.wait_all_tasks_blocked()
        frame = innermost_frame(tasks[0])
        parker.wake()

    assert frame is not None
    assert frame.f_code.co_name in ("inner", "wait_task_rescheduled")
    assert innermost_frame(None) is None


def test_without_an_event_loop_there_is_no_backend() -> None:
    with pytest.raises(anyio.NoEventLoopError):
        current_backend()


async def test_each_event_loop_has_its_backend() -> None:
    expected = TrioBackend if in_trio() else AsyncioBackend

    assert type(current_backend()) is expected


def in_trio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return trio.lowlevel.in_trio_task()
    return False
