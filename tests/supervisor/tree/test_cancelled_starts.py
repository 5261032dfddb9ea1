"""A ``start_child`` or ``stop_child`` that is cancelled, at every await point."""

from __future__ import annotations

import threading

import anyio
import anyio.lowlevel
import pytest

from actors.testing import settled
from supervisor import ChildSpec, Supervisor
from tests.raw import DEADLINE
from tests.trees import Journal, Part, part
from tests.witness import until

pytestmark = pytest.mark.every_runtime


async def turns(count: int) -> None:
    for _ in range(count):
        await anyio.lowlevel.checkpoint()


class Slow(Part):
    async def on_start(self) -> None:
        await super().on_start()
        await turns(4)


class Hangs(Part):
    async def on_start(self) -> None:
        await super().on_start()
        await anyio.sleep_forever()


async def test_a_start_that_is_cancelled_after_any_number_of_turns_leaves_no_child() -> None:
    for count in range(25):
        journal: Journal = []
        started = False
        with anyio.fail_after(DEADLINE):
            async with Supervisor([part("first", journal)]) as tree:
                async with anyio.create_task_group() as group:

                    async def start(spec: ChildSpec) -> None:
                        nonlocal started
                        await tree.start_child(spec)
                        started = True

                    group.start_soon(start, part("b", journal, Slow))
                    await turns(count)
                    group.cancel_scope.cancel()
                there = {child.name for child in tree.describe().children}
                assert ("b" in there) is ("b" in tree.registry) is started, count
                assert (journal.count("b starts") == journal.count("b stops")) is not started, count
                await tree.start_child(part("c", journal))  # the supervisor goes on


async def test_an_on_start_that_hangs_is_cancelled_with_its_start_child() -> None:
    journal: Journal = []

    with anyio.fail_after(DEADLINE):
        async with Supervisor([]) as tree:
            async with anyio.create_task_group() as group:
                group.start_soon(tree.start_child, part("b", journal, Hangs, shutdown=None))
                await until(lambda: journal)
                group.cancel_scope.cancel()
            assert tree.describe().children == ()
            await tree.start_child(part("b", journal))  # the name is free


async def test_a_start_that_waits_for_another_one_is_forgotten_when_it_is_cancelled() -> None:
    journal: Journal = []

    with anyio.fail_after(DEADLINE):
        async with Supervisor([]) as tree, anyio.create_task_group() as group:
            group.start_soon(tree.start_child, part("b", journal, Hangs, shutdown=0.0))
            await until(lambda: journal)
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as second:
                    second.start_soon(tree.start_child, part("c", journal))
                    await settled()
                    scope.cancel()
            group.cancel_scope.cancel()

    assert journal == ["b starts", "b stops"]


async def test_a_start_from_another_event_loop_leaves_no_child_when_it_is_cancelled() -> None:
    journal: Journal = []

    with anyio.fail_after(DEADLINE):
        async with Supervisor([]) as tree:

            async def start() -> None:
                with anyio.move_on_after(0.05):
                    await tree.start_child(part("b", journal, Hangs))

            thread = threading.Thread(target=anyio.run, args=(start,))
            thread.start()
            await until(lambda: not thread.is_alive())
            thread.join()
            assert tree.describe().children == ()


async def test_a_stop_that_is_cancelled_goes_on_and_leaves_nothing_half_done() -> None:
    for count in range(15):
        journal: Journal = []
        with anyio.fail_after(DEADLINE):
            async with Supervisor([]) as tree:
                ref = await tree.start_child(part("b", journal))
                async with anyio.create_task_group() as group:
                    group.start_soon(tree.stop_child, ref)
                    await turns(count)
                    group.cancel_scope.cancel()
                await settled()
                there = bool(tree.describe().children)
                assert there is ref.alive is ("b" in tree.registry)
                assert journal == ["b starts"] + ["b stops"] * (not there)
                assert isinstance(await tree.start_child(ChildSpec(Part, args=("c", journal))), type(ref))
