"""A task group, a nursery, and context variables as resources of an actor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio

from actors import Actor, ConnectionActor
from actors.cell.cell import Reaction
from actors.testing import ManualClock, connected, settled, started

pytestmark = pytest.mark.every_runtime

request_id: ContextVar[str] = ContextVar("request_id", default="none")


class Owner(ConnectionActor):
    """Has a group with a task that ends when it is cancelled, and not before."""

    group: Any

    async def on_info(self, message: Any) -> Any:
        return await message(self)


def groups(backend: str) -> dict[str, Callable[[], Any]]:
    native = {"trio": trio.open_nursery, "asyncio": asyncio.TaskGroup}[backend]
    return {"anyio": anyio.create_task_group, "native": native}


def start(group: Any, function: Callable[..., Any], *arguments: Any) -> None:
    if isinstance(group, asyncio.TaskGroup):
        group.create_task(function(*arguments))
    else:
        group.start_soon(function, *arguments)


@pytest.mark.parametrize("which", ["anyio", "native"])
async def test_a_task_group_as_a_resource_is_cancelled_at_once_and_is_no_leak(
    which: str, anyio_backend_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    clock, journal = ManualClock(), []

    async def works() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            journal.append("cancelled")

    async def enter(actor: Owner) -> None:
        start(await actor.enter(groups(anyio_backend_name)[which]()), works)

    async with connected(Owner, clock=clock, teardown=5.0) as client:
        await client.ref.ask(enter)
        await settled()
        client.ref.close()
        await settled()  # the clock stands still

        assert not client.ref.alive
        assert (journal, client.cell.leaks, client.crashes) == (["cancelled"], (), [])
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


async def test_a_task_of_the_group_that_swallows_its_cancellation_is_a_leak(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock, release = ManualClock(), anyio.Event()

    async def stubborn() -> None:
        with anyio.CancelScope(shield=True):
            await release.wait()

    async def enter(actor: Owner) -> None:
        (await actor.enter(anyio.create_task_group())).start_soon(stubborn)

    async with connected(Owner, clock=clock, teardown=2.0) as client:
        await client.ref.ask(enter)
        await settled()
        client.ref.close()
        await settled()
        assert client.ref.alive
        await clock.advance(2.1)

        assert not client.ref.alive
        assert len(client.cell.leaks) == 1
        assert "does not end when it is cancelled, and is left behind" in caplog.text
        release.set()
        await settled()


async def test_a_group_that_somebody_else_owns_is_left_alone() -> None:
    ended = []

    async def works() -> None:
        await release.wait()
        ended.append(True)

    release = anyio.Event()
    async with anyio.create_task_group() as shared:

        async def enter(actor: Owner) -> None:
            (await actor.enter(nullcontext(shared))).start_soon(works)

        async with connected(Owner) as client:
            await client.ref.ask(enter)
        release.set()

    assert ended == [True]


async def test_a_context_manager_around_a_group_may_end_its_tasks_in_its_own_way() -> None:
    written = []

    @asynccontextmanager
    async def writer() -> AsyncIterator[Any]:
        send, receive = anyio.create_memory_object_stream[str](10)

        async def write() -> None:
            async for text in receive:
                await anyio.lowlevel.checkpoint()
                written.append(text)

        async with receive, anyio.create_task_group() as group:
            group.start_soon(write)
            async with send:
                yield send

    async def enter(actor: Owner) -> None:
        stream = await actor.enter(writer())
        for text in "abc":
            await stream.send(text)

    async with connected(Owner) as client:
        await client.ref.ask(enter)

    assert written == ["a", "b", "c"]
    assert client.cell.leaks == ()


# -- context variables -------------------------------------------------------------------------


@contextmanager
def bound(value: str) -> Iterator[None]:
    token = request_id.set(value)
    try:
        yield
    finally:
        request_id.reset(token)


@asynccontextmanager
async def bound_async(value: str) -> AsyncIterator[None]:
    with bound(value):
        await anyio.lowlevel.checkpoint()
        yield


@pytest.mark.parametrize("binding", [bound, bound_async])
async def test_what_a_resource_binds_is_seen_by_the_later_hooks_of_its_actor_and_by_no_other(
    binding: Callable[[str], Any],
) -> None:
    seen: dict[str, list[tuple[str, str]]] = {"a": [], "b": []}

    class Bound(ConnectionActor):
        async def on_connect(self) -> None:
            self.name = self.query_params["name"]
            if self.name == "a":
                await self.enter(binding("request a"))
            self.look("on_connect")

        def look(self, where: str) -> None:
            seen[self.name].append((where, request_id.get()))

        async def task(self) -> None:
            self.look("task")

        def on_message(self, message: str) -> None:
            self.look("on_message")
            self.spawn(self.task)
            self.after(0.0, "timer")

        def on_info(self, message: object) -> None:
            self.look("on_info")

        def on_close(self, report: object) -> None:
            self.look("on_close")

    async with connected(Bound, query={"name": "a"}) as a, connected(Bound, query={"name": "b"}) as b:
        for client in (a, b):
            await client.send("hello")
            await client.until(lambda: True)
            await settled()
        await anyio.sleep(0.01)
        for client in (a, b):
            await client.close()

    hooks = ["on_close", "on_connect", "on_info", "on_message", "task"]
    assert sorted(seen["a"]) == [(hook, "request a") for hook in hooks]
    assert sorted(seen["b"]) == [(hook, "none") for hook in hooks]
    assert request_id.get() == "none"


async def test_what_a_hook_sets_itself_is_seen_by_its_later_hooks() -> None:
    class Sets(Actor):
        def on_start(self) -> None:
            request_id.set("mine")

        def on_info(self, message: object) -> str:
            return request_id.get()

    async with started(Sets) as ref:
        assert await ref.ask("?") == "mine"
    assert request_id.get() == "none"


async def test_the_next_incarnation_sees_nothing_of_what_the_last_one_bound() -> None:
    class Restarting(Actor):
        async def on_start(self) -> None:
            await self.enter(bound("outer"))
            await self.enter(bound("inner"))

        async def on_restart(self, error: BaseException) -> None: ...

        def on_info(self, message: object) -> str:
            if message == "crash":
                raise LookupError("as asked")
            return request_id.get()

    async with started(Restarting, crash=Reaction.RESTART) as ref:
        before = await ref.ask("?")
        ref.tell("crash")
        await settled()
        after = await ref.ask("?")

    assert (before, after) == ("inner", "none")


async def test_structlog_binds_for_one_actor() -> None:
    contextvars = pytest.importorskip("structlog.contextvars")

    class Logs(Actor):
        async def on_start(self) -> None:
            await self.enter(contextvars.bound_contextvars(connection="a"))

        def on_info(self, message: object) -> Any:
            return contextvars.get_contextvars()

    async with started(Logs) as ref:
        seen = await ref.ask("?")

    assert seen == {"connection": "a"}
    assert contextvars.get_contextvars() == {}
