"""Races of supervisors and services: each a hundred rounds, and in each round at another moment."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from actors import Actor, ActorRef, ActorStopped, Down
from actors.testing import ManualClock, settled
from supervisor import Backoff, Policy, RestartLimit, Strategy, Supervisor, Tree
from tests.raw import DEADLINE
from tests.trees import Journal, Part, part, stop_yourself, supervised, supervised_by_clock
from tests.witness import running_tasks, until

ROUNDS = 100
PLENTY = RestartLimit(count=10_000, within=1.0)
AT_ONCE = Policy(restarts=PLENTY, backoff=Backoff(initial=1e-6, maximum=1e-6))


async def turns(count: int) -> None:
    """Let every other task have so many turns."""
    for _ in range(count):
        await anyio.lowlevel.checkpoint()


class Slow(Part):
    """Takes a few turns for every hook."""

    async def on_start(self) -> None:
        await super().on_start()
        await turns(random.randrange(4))

    async def on_stop(self) -> None:
        await turns(random.randrange(4))
        await super().on_stop()


def check_lives(journal: Journal, *, alive: str = "") -> None:
    """Every life ended before the next one of its name began, and those are left that should be."""
    for name in {line.split()[0] for line in journal}:
        steps = [line.split()[1] for line in journal if line.split()[0] == name]
        expected = ["starts", "stops"] * len(steps)
        assert steps == expected[: len(steps)], name
        assert (steps[-1] == "starts") is (name in alive), name


@asynccontextmanager
async def in_time() -> AsyncIterator[Any]:
    """A task group for the sides of one round; nobody of them may wait for ever."""
    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as task_group:
            yield task_group


async def test_stop_during_start() -> None:
    moments = set()
    tasks = running_tasks()

    for number in range(ROUNDS):
        journal: Journal = []
        branch = Supervisor([part("b", journal, Slow), part("c", journal, Slow)])
        with anyio.fail_after(DEADLINE), anyio.CancelScope() as scope:
            async with anyio.create_task_group() as task_group:
                task_group.start_soon(cancel_after, scope, number // 2)
                async with Supervisor([part("a", journal, Slow), branch]):
                    journal.append("block starts")
                    try:
                        await anyio.sleep_forever()
                    finally:
                        journal.append("block stops")
        moments.add(len(journal))
        check_lives(journal)
        await until(lambda: running_tasks() == tasks)

    assert len(moments) > 2, "it was not always the same moment"


async def cancel_after(scope: anyio.CancelScope, count: int) -> None:
    await turns(count)
    scope.cancel()


async def test_a_child_by_hand_while_the_tree_stops() -> None:
    async def start(tree: Tree, count: int) -> None:
        await turns(count)
        try:
            await tree.start_child(part("b", journal, Slow))
            outcomes.append("started")
        except ActorStopped:
            outcomes.append("stopped")

    outcomes: list[str] = []

    for number in range(ROUNDS):
        journal: Journal = []
        async with in_time() as task_group, supervised([part("a", journal, Slow)]) as (tree, _):
            task_group.start_soon(start, tree, number % 20)
            await turns(10)
        assert len(outcomes) == number + 1
        check_lives(journal)

    assert set(outcomes) == {"started", "stopped"}


async def pass_the_time(clock: ManualClock, tree: Tree, count: int) -> None:
    """``clock.advance(1.0)``, which would let everybody else go first."""
    await turns(count)
    clock._now += 1.0
    tree._environment.runtime.timers.fire()


@pytest.mark.parametrize("strategy", Strategy)
async def test_stop_during_backoff(strategy: Strategy) -> None:
    policy = Policy(restarts=PLENTY, backoff=Backoff(initial=1.0, jitter=0.0, maximum=1.0))
    came_back = set()

    for number in range(ROUNDS):
        clock, journal = ManualClock(), []  # type: ManualClock, Journal
        children = [part(name, journal, Slow, policy=policy) for name in "ab"]
        async with supervised_by_clock(clock, children, strategy=strategy, limit=PLENTY) as (tree, _):
            for _ in range(2):
                ref = tree.registry["a"]
                ref.tell(ValueError("boom"))
                await settled()
            async with in_time() as task_group:
                task_group.start_soon(pass_the_time, clock, tree, number % 10)
                await turns(5)
                await tree.stop_child(ref)
            await clock.advance(10.0)
            assert set(tree.registry) == {"b"}
            came_back.add(journal.count("a starts"))
            check_lives(journal, alive="b")
        check_lives(journal)

    assert came_back == {2, 3}, "it was stopped before and after its restart"


@pytest.mark.parametrize("by", ["stop_child", "stop", "the end of the tree"])
async def test_crash_during_stop(by: str) -> None:
    class FailsToStop(Slow):
        async def on_start(self) -> None:
            await super().on_start()
            self.spawn(self.fail)

        async def fail(self) -> None:
            await failing.wait()
            raise LookupError("of a task")

        async def on_stop(self) -> None:
            await super().on_stop()
            raise LookupError("of on_stop")

    async def crash(ref: ActorRef, count: int) -> None:
        await turns(count)
        ref.tell(ValueError("boom"))
        await turns(count % 3)
        failing.set()

    for number in range(ROUNDS):
        journal: Journal = []
        failing = anyio.Event()
        children = [part("a", journal, FailsToStop, policy=AT_ONCE), part("b", journal)]
        async with in_time() as task_group, supervised(children, limit=PLENTY) as (tree, _):
            ref = tree.registry["a"]
            task_group.start_soon(crash, ref, number % 25)
            await turns(12)
            if by == "stop_child":
                await tree.stop_child(ref)
                assert "a" not in tree.registry
            elif by == "stop":
                ref.stop()
                await ref.wait_closed()
            assert await tree.registry["b"].ask("alive") == "alive"
        check_lives(journal)


@pytest.mark.parametrize("strategy", Strategy)
async def test_several_crashes_at_once(strategy: Strategy) -> None:
    for _ in range(ROUNDS):
        journal: Journal = []
        children = [part(name, journal, Slow, policy=AT_ONCE) for name in "abcd"]
        async with supervised(children, strategy=strategy, limit=PLENTY) as (tree, _):
            for name in random.choices("abcd", k=4):
                if ref := tree.registry.get(name):
                    ref.tell(random.choice([ValueError("boom"), SystemExit()]))
                await turns(random.randrange(8))
            await settled()
            await until(lambda: set(tree.registry) == set("abcd"))
            await settled()
            check_lives(journal, alive="abcd")
        check_lives(journal)


async def test_a_crash_during_the_start_of_the_next_child() -> None:
    class CrashesTheOneBefore(Part):
        async def on_start(self) -> None:
            await super().on_start()
            before = self.find("a")
            if self.journal.count("b starts") == 1 and before is not None:
                await turns(number % 4)
                before.tell(ValueError("boom"))
                await turns(number % 7)

    for number in range(ROUNDS):
        journal: Journal = []
        children = [part("a", journal, Slow, policy=AT_ONCE), part("b", journal, CrashesTheOneBefore)]
        async with supervised(children, strategy=Strategy.ONE_FOR_ALL, limit=PLENTY):
            await until(lambda: journal.count("b starts") == 2)  # noqa: B023  # it is waited for here
            await turns(number % 5)
        check_lives(journal)


async def test_ask_during_crash() -> None:
    async def ask(ref: ActorRef, count: int) -> None:
        await turns(count)
        try:
            outcomes.append(await ref.ask("answered", timeout=None))
        except ActorStopped:
            outcomes.append("stopped")

    outcomes: list[str] = []
    seen = set()

    async with supervised([part("a", [], Slow, policy=AT_ONCE)], limit=PLENTY) as (tree, _):
        for number in range(ROUNDS):
            await until(lambda: "a" in tree.registry)
            ref = tree.registry["a"]
            outcomes.clear()
            async with in_time() as task_group:
                for count in range(10):
                    task_group.start_soon(ask, ref, count)
                await turns(number % 12)
                ref.tell(ValueError("boom") if number % 2 else stop_yourself)
                if not number % 2:
                    await tree.stop_child(ref)
                    await tree.start_child(part("a", [], Slow, policy=AT_ONCE))
                await ref.wait_closed()
            assert len(outcomes) == 10
            seen |= set(outcomes)
            assert not ref._cell.mailbox.data

    assert seen == {"answered", "stopped"}


async def test_monitor_during_death() -> None:
    class Watcher(Actor):
        async def on_start(self) -> None:
            self.downs: list[ActorRef] = []

        async def on_info(self, message: Any) -> Any:
            if isinstance(message, Down):
                self.downs.append(message.ref)
            return list(self.downs)

    async def monitor(watcher: ActorRef, ref: ActorRef, count: int) -> None:
        await turns(count)
        watcher.monitor(ref)

    children = [part("a", [], Slow, policy=AT_ONCE), *([Watcher] * 10)]
    async with supervised(children, limit=PLENTY) as (tree, _):
        watchers = [ref for name, ref in tree.registry.items() if name != "a"]
        deaths: list[ActorRef] = []
        for number in range(ROUNDS):
            await until(lambda: "a" in tree.registry)
            ref = tree.registry["a"]
            async with in_time() as task_group:
                for count, watcher in enumerate(watchers):
                    task_group.start_soon(monitor, watcher, ref, count)
                await turns(number % 14)
                ref.tell(ValueError("boom"))
                await ref.wait_closed()
            deaths.append(ref)
            for watcher in watchers:
                assert await watcher.ask("downs") == deaths
            assert ref._cell.monitors is None
