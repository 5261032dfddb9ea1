"""The runtime: nothing gets out of its tasks, and it can be reached from any thread."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable
from functools import partial

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from actors.backends import Waiter
from actors.dead_letters import DeadLetter, DeadLetters
from actors.runtime import Runtime
from actors.testing import ManualClock, running

pytestmark = pytest.mark.every_runtime

DEADLINE = 20.0


class Rude(BaseException):
    """Not an ``Exception``."""


async def raise_rude() -> None:
    raise Rude


async def raise_foreign_cancellation() -> None:
    raise asyncio.CancelledError


async def raise_group() -> None:
    raise BaseExceptionGroup("several", [ValueError(), Rude()])


async def raise_exit() -> None:
    raise SystemExit(3)


async def raise_generator_exit() -> None:
    raise GeneratorExit


async def cancel_itself() -> None:
    """What a library does that knows asyncio only: cancel the task it runs in."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await anyio.sleep_forever()


@pytest.mark.parametrize(
    "function",
    [
        raise_rude,
        raise_foreign_cancellation,
        raise_group,
        raise_exit,
        raise_generator_exit,
        cancel_itself,  # on trio an error
    ],
)
async def test_what_a_task_raises_ends_there_and_the_neighbours_go_on(
    function: Callable[[], Awaitable[object]], caplog: pytest.LogCaptureFixture
) -> None:
    go_on, over = Waiter(), Waiter()

    async def neighbour() -> None:
        await go_on.wait()
        over.wake()

    with anyio.fail_after(DEADLINE):
        async with running() as runtime:
            runtime.spawn(neighbour, name="neighbour")
            runtime.spawn(function, name="rude")
            await anyio.wait_all_tasks_blocked()
            go_on.wake()
            await over.wait()

    (record,) = caplog.records
    assert (record.name, record.levelname) == ("actors", "ERROR")
    gc.collect()  # nothing was left in a reference cycle that complains at its end


async def test_cancelling_the_runtime_passes_through_every_task(caplog: pytest.LogCaptureFixture) -> None:
    cancelled = 0

    async def wait() -> None:
        nonlocal cancelled
        try:
            await anyio.sleep_forever()
        finally:
            cancelled += 1

    async with running() as runtime:
        assert not runtime.ending
        for number in range(5):
            runtime.spawn(wait, name=f"task {number}")
        await anyio.wait_all_tasks_blocked()

    assert runtime.ending
    assert cancelled == 5
    assert caplog.records == []


async def test_a_task_that_swallows_its_cancellation_is_cancelled_again() -> None:
    swallowed: list[BaseException] = []

    async def stubborn() -> None:
        while len(swallowed) < 2:
            try:
                await anyio.sleep_forever()
            except BaseException as error:
                swallowed.append(error)

    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as task_group:
            Runtime(task_group).spawn(stubborn, name="stubborn")
            await anyio.wait_all_tasks_blocked()
            task_group.cancel_scope.cancel()

    assert len(swallowed) == 2


async def test_the_task_group_waits_for_tasks_that_come_when_others_have_gone() -> None:
    ran: list[int] = []

    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as task_group:
            runtime = Runtime(task_group)

            async def step(number: int) -> None:
                await anyio.lowlevel.checkpoint()
                ran.append(number)
                if number in (1, 3):
                    runtime.spawn(step, number + 1, name="step")

            runtime.spawn(step, 1, name="step")
            while ran != [1, 2]:
                await anyio.lowlevel.checkpoint()
            runtime.spawn(step, 3, name="step")

    assert ran == [1, 2, 3, 4]


async def test_a_call_from_another_thread_runs_on_the_thread_of_the_event_loop() -> None:
    done = Waiter()
    threads: list[int] = []

    def called(word: str) -> None:
        assert word == "argument"
        threads.append(threading.get_ident())
        done.wake()

    async with running() as runtime:
        answers: list[bool] = []
        thread = threading.Thread(
            target=lambda: answers.extend([runtime.in_thread, runtime.call(called, "argument")])
        )
        thread.start()
        with anyio.fail_after(DEADLINE):
            await done.wait()
        thread.join()

        assert answers == [False, True]
        assert runtime.in_thread
    assert threads == [threading.get_ident()]


async def test_a_call_on_the_own_thread_runs_at_once() -> None:
    calls: list[str] = []

    async with running() as runtime:
        assert runtime.call(calls.append, "now")
        assert calls == ["now"]


@pytest.mark.parametrize("other", ["asyncio", "trio"])
async def test_a_call_to_an_event_loop_that_has_ended_says_so(other: str) -> None:
    async def make() -> Runtime:
        async with running() as runtime:
            return runtime

    ended = await anyio.to_thread.run_sync(partial(anyio.run, make, backend=other))

    assert ended.call(pytest.fail) is False


async def test_a_wait_ends_when_its_condition_holds_or_its_time_is_over() -> None:
    clock = ManualClock()
    holds = False
    results: list[bool] = []

    async with running(clock) as runtime:
        parker = runtime.backend.parker()
        assert await runtime.wait(parker, lambda: True, 0.0)
        assert not await runtime.wait(parker, lambda: False, 0.0)

        async def wait(timeout: float | None) -> None:
            results.append(await runtime.wait(parker, lambda: holds, timeout))

        runtime.spawn(wait, 5.0, name="timed")
        await clock.advance(4.9)
        parker.wake()  # woken early, it waits on
        await clock.advance(0.0)
        assert results == []
        await clock.advance(0.1)
        assert results == [False]

        runtime.spawn(wait, None, name="for ever")
        await clock.advance(10_000)
        assert results == [False]
        holds = True
        parker.wake()
        await clock.advance(0.0)
        assert results == [False, True]
        assert len(runtime.timers) == 0


def test_dead_letters_keep_the_last_ones_and_count_them_all() -> None:
    letters = DeadLetters(keep=3)

    for number in range(10):
        letters.add(number, "actor", "overflow" if number % 2 else "stopped")

    assert list(letters.last) == [
        DeadLetter(7, "actor", "overflow"),
        DeadLetter(8, "actor", "stopped"),
        DeadLetter(9, "actor", "overflow"),
    ]
    assert letters.counts == {"stopped": 5, "overflow": 5}
