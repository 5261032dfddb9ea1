"""Leaving ``serve`` and ``Supervisor`` where code of the program does not end, and by another task."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from actors import Actor, ConnectionActor
from actors.testing import settled
from supervisor import ChildSpec, Policy, Supervisor, Timeouts, serve, stall
from supervisor.tree import lifespan
from tests.raw import DEADLINE, RawClient
from tests.witness import until

pytestmark = pytest.mark.every_runtime

HEAD = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
SOON = Policy(timeouts=Timeouts(close=0.1, teardown=0.1))


class Stubborn:
    """Code that swallows its cancellation until the test lets it go."""

    def __init__(self) -> None:
        self.begun = 0
        self.release = anyio.Event()

    async def swallow(self) -> None:
        self.begun += 1
        while not self.release.is_set():
            with anyio.CancelScope(shield=True), suppress(asyncio.CancelledError):
                await self.release.wait()


@pytest.fixture
async def stubborn() -> AsyncIterator[Stubborn]:
    code = Stubborn()
    yield code
    code.release.set()
    await settled()


@pytest.mark.parametrize("where", ["on_connect", "task", "on_close", "on_upgrade"])
async def test_leaving_serve_ends_although_code_of_a_connection_swallows_its_cancellation(
    where: str, stubborn: Stubborn, caplog: pytest.LogCaptureFixture
) -> None:
    class Socket(ConnectionActor):
        async def on_connect(self) -> None:
            if where == "task":
                self.spawn(stubborn.swallow)
            elif where == "on_connect":
                await stubborn.swallow()

        async def on_close(self, report: object) -> None:
            if where == "on_close":
                await stubborn.swallow()

    class Upgraded(Socket):
        @classmethod
        async def on_upgrade(cls, request: object) -> None:
            await stubborn.swallow()

    actor = Upgraded if where == "on_upgrade" else Socket
    with anyio.fail_after(DEADLINE):
        async with serve({"/": actor}, policy=SOON) as server:
            client = await RawClient.dial(server)
            if where == "on_upgrade":
                await client.send_bytes(HEAD)
            else:
                await client.request()
            if where != "on_close":
                await until(lambda: stubborn.begun)
    client.close()

    assert stubborn.begun == 1
    (line,) = [one for one in caplog.messages if "keeps the event loop from its own end" in one]
    assert f"{__file__}:" in line
    assert "in swallow" in line
    assert {"on_upgrade": "Upgraded.on_upgrade", "task": "swallow of"}.get(where, "") in line


@pytest.mark.parametrize("where", ["on_start", "on_info", "on_stop", "task"])
async def test_leaving_a_supervisor_ends_although_a_service_swallows_its_cancellation(
    where: str, stubborn: Stubborn, caplog: pytest.LogCaptureFixture
) -> None:
    class Service(Actor):
        async def on_start(self) -> None:
            if where == "task":
                self.spawn(stubborn.swallow)
            elif where == "on_start":
                await stubborn.swallow()

        async def on_info(self, message: object) -> None:
            await stubborn.swallow()

        async def on_stop(self) -> None:
            if where == "on_stop":
                await stubborn.swallow()

    child = ChildSpec(Service, name="service", policy=SOON, shutdown=0.1)
    with anyio.fail_after(DEADLINE), anyio.CancelScope() as scope:
        async with anyio.create_task_group() as task_group:
            if where == "on_start":
                task_group.start_soon(cancel_when, scope, lambda: stubborn.begun)
            async with Supervisor([child]) as tree:
                if where == "on_info":
                    tree.registry["service"].tell("hang")
                if where != "on_stop":
                    await until(lambda: stubborn.begun)

    assert stubborn.begun == 1
    (line,) = [one for one in caplog.messages if "keeps the event loop from its own end" in one]
    assert "in swallow" in line


async def cancel_when(scope: anyio.CancelScope, condition: Callable[[], object]) -> None:
    await until(condition)
    scope.cancel()


async def test_a_block_that_is_not_left_for_long_says_again_and_again_what_it_waits_for(
    stubborn: Stubborn, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Service(Actor):
        async def on_stop(self) -> None:
            await stubborn.swallow()

    def lines() -> list[str]:
        return [one for one in caplog.messages if "it waits for: " in one and "in swallow" in one]

    async def let_go() -> None:
        await until(lambda: len(lines()) >= 2)
        stubborn.release.set()

    monkeypatch.setattr(lifespan, "TELL_EVERY", 0.02)
    forever = Policy(timeouts=Timeouts(teardown=None))
    async with anyio.create_task_group() as task_group:
        task_group.start_soon(let_go)
        async with Supervisor([ChildSpec(Service, policy=forever, shutdown=None)]):
            pass

    assert len(lines()) >= 2


async def test_a_plain_function_that_blocks_while_the_block_is_left_is_named_with_its_place(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told() -> list[str]:
        return [one for one in caplog.messages if "the event loop stands still" in one]

    class Blocking(Actor):
        def on_stop(self) -> None:
            until = time.monotonic() + DEADLINE
            while not told() and time.monotonic() < until:
                time.sleep(0.01)

    monkeypatch.setattr(stall, "STALLED_AFTER", 0.05)
    async with Supervisor([Blocking]):
        pass

    assert told()
    assert f"{__file__}:" in told()[0]
    assert "in on_stop" in told()[0]


@pytest.mark.parametrize("what", ["serve", "Supervisor"])
async def test_a_block_may_be_entered_and_left_in_two_tasks_of_asyncio(
    what: str, anyio_backend_name: str
) -> None:
    if anyio_backend_name == "trio":
        return  # nothing on trio does that: pytest-trio and anyio enter and leave in one task

    class Echo(ConnectionActor):
        async def on_message(self, message: Any) -> None:
            await self.send(message)

    running: Any = serve({"/": Echo}) if what == "serve" else Supervisor()
    entered = await asyncio.create_task(running.__aenter__())
    if what == "serve":
        client = await RawClient.dial(entered)
        await client.request()
        leaving = asyncio.create_task(running.__aexit__(None, None, None))
        assert await client.answer_close() == (1001, "server shutting down")
        client.close()
        await leaving
    else:
        await asyncio.create_task(running.__aexit__(None, None, None))
