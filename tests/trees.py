"""A tree of services under test: what its children do is written down, and time may be the test's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio

from actors import Actor
from actors.testing import ManualClock, running, settled
from supervisor import ChildSpec, Supervisor, Tree
from supervisor.environment import Environment
from supervisor.events import log_event
from supervisor.registry import Registry
from supervisor.tree.tree import Root
from tests.raw import DEADLINE
from tests.witness import Witness, running_tasks, until

Children = Sequence[ChildSpec | Supervisor | type[Actor]]
Journal = list[str]


class Part(Actor):
    """A service that writes down when it starts and stops, and does what it is told."""

    def __init__(self, name: str, journal: Journal) -> None:
        self.name = name
        self.journal = journal

    async def on_start(self) -> None:
        self.journal.append(f"{self.name} starts")

    async def on_info(self, message: Any) -> Any:
        """Raise an exception, call a function with this actor, give back anything else."""
        if isinstance(message, BaseException):
            raise message
        return await message(self) if callable(message) else message

    async def on_stop(self) -> None:
        self.journal.append(f"{self.name} stops")


def part(name: str, journal: Journal, actor: type[Part] = Part, **spec: Any) -> ChildSpec:
    """The spec of a part."""
    return ChildSpec(actor, name=name, args=(name, journal), **spec)


async def stop_yourself(actor: Actor) -> None:
    """Told to a part: end normally."""
    actor.stop()


async def hang(actor: Actor) -> None:
    """Told to a part: never end by yourself."""
    await anyio.sleep_forever()


@asynccontextmanager
async def supervised(children: Children = (), **options: Any) -> AsyncIterator[tuple[Tree, Witness]]:
    """Run a ``Supervisor``; afterwards check that nothing is left."""
    witness, tasks = Witness(), running_tasks()
    with anyio.fail_after(DEADLINE):
        async with Supervisor(children, hooks=[log_event, witness], **options) as tree:
            yield tree, witness
    assert len(tree.registry) == 0
    await until(lambda: running_tasks() == tasks)


@asynccontextmanager
async def supervised_by_clock(
    clock: ManualClock, children: Children = (), **options: Any
) -> AsyncIterator[tuple[Tree, Witness]]:
    """Run a ``Supervisor`` in the time of ``clock``; a budget that is spent raises, as from its block."""
    witness, errors = Witness(), []

    def ended(error: BaseException | None) -> None:
        errors.append(error)
        block.cancel()

    async with running(clock) as runtime:
        environment = Environment(runtime, Registry(), [log_event, witness], None)
        with anyio.CancelScope() as block:
            root = Root(environment, Supervisor(children, **options), ended)
            await root.start()
            yield root.tree, witness
        stopping = anyio.Event()

        async def stop() -> None:
            await root.stop()
            stopping.set()

        runtime.spawn(stop, name="stop")
        with anyio.fail_after(DEADLINE):
            while not stopping.is_set():
                await settled()
                await clock.advance(0.0 if stopping.is_set() else 1.0)
    if errors[0] is not None:
        raise errors[0]
