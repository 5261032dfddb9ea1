"""A server under test: every event of it is kept, and what it leaves behind fails the test."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import trio

from actors import ConnectionActor
from actors.testing import Client, ManualClock, connected
from supervisor import Policy, Route, Server, serve
from supervisor.connections.watch import Watch
from supervisor.events import ActorCrashed, ConnectionClosed, ConnectionOpened, Event, Hook, log_event
from tests.raw import DEADLINE

E = TypeVar("E", bound=Event)


async def until(condition: Callable[[], object]) -> None:
    """Wait until ``condition()`` holds; fail when it never does."""
    with anyio.move_on_after(DEADLINE):
        while not condition():  # noqa: ASYNC110  # anything may be waited for, nothing of it sets an event
            await anyio.sleep(0.001)
    assert condition(), "waited for in vain"


def open_sockets() -> set[str]:
    """The open sockets of this process."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the descriptor of the listing itself
            found.add(os.readlink(f"/proc/self/fd/{name}"))
    return {name for name in found if name.startswith("socket:")}


def running_tasks() -> int:
    """How many tasks the event loop has."""
    if isinstance(anyio.lowlevel.current_token().native_token, asyncio.AbstractEventLoop):
        return len(asyncio.all_tasks())
    return trio.lowlevel.current_statistics().tasks_living


class Witness:
    """A hook that keeps every event."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event, /) -> None:
        self.events.append(event)

    def of(self, kind: type[E]) -> list[E]:
        """The events of one kind so far, in order."""
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def closed(self) -> list[ConnectionClosed]:
        return self.of(ConnectionClosed)

    @property
    def crashes(self) -> list[BaseException]:
        return [event.error for event in self.of(ActorCrashed)]

    async def one_closed(self) -> ConnectionClosed:
        """Wait for the end of a connection, the only one that ends."""
        await until(lambda: self.closed)
        (closed,) = self.closed
        return closed

    async def opened(self, count: int) -> list[ConnectionOpened]:
        """Wait until ``count`` connections were opened."""
        await until(lambda: len(self.of(ConnectionOpened)) >= count)
        return self.of(ConnectionOpened)


@asynccontextmanager
async def serving(
    routes: type[ConnectionActor] | Route | Mapping[str, type[ConnectionActor] | Route],
    *,
    hooks: Sequence[Hook] = (),
    **options: Any,
) -> AsyncIterator[tuple[Server, Witness]]:
    """Serve ``routes``, or one actor at ``/``; afterwards check that nothing is left."""
    witness = Witness()
    sockets, tasks = open_sockets(), running_tasks()
    if not isinstance(routes, Mapping):
        routes = {"/": routes}
    async with serve(routes, hooks=[log_event, witness, *hooks], **options) as server:
        yield server, witness
    assert len(server.connections) == 0
    assert len(server.registry) == 0
    assert not server.site.upgrades
    assert len(witness.closed) == len(witness.of(ConnectionOpened))
    await until(lambda: running_tasks() == tasks)
    await until(lambda: open_sockets() <= sockets)


@asynccontextmanager
async def watched(
    actor: type[ConnectionActor], policy: Policy, clock: ManualClock, **limits: Any
) -> AsyncIterator[Client]:
    """Open a connection in memory that ``policy`` is applied to, in the time of ``clock``."""
    async with connected(actor, clock=clock, **limits) as client:
        watch = Watch(client.cell, policy)
        yield client
        watch.cancel()
