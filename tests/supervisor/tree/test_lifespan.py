"""A tree inside the caller's program: what is cancelled, what is not, and whose errors come out."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio

from actors import ConnectionActor
from actors.testing import settled
from supervisor import (
    ChildStartFailed,
    Policy,
    RestartLimit,
    RestartLimitReached,
    Server,
    Supervisor,
    Timeouts,
    serve,
)
from tests.programs import program
from tests.raw import DEADLINE, RawClient
from tests.trees import Journal, Part, part
from tests.witness import open_sockets, running_tasks, until

pytestmark = pytest.mark.every_runtime

PATIENCE = 0.05
"""The shutdown seconds of children that hang."""


class Echo(ConnectionActor):
    async def on_message(self, message: str) -> None:
        await self.send(message)


class NeverStarts(Part):
    async def on_start(self) -> None:
        await super().on_start()
        await anyio.sleep_forever()


def supervisor(children: list[Any]) -> Any:
    return Supervisor(children)


def server(children: list[Any]) -> Any:
    return serve({"/": Echo}, children=children)


HOSTS = [supervisor, server]


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> Callable[[list[Any]], Any]:
    """What runs children around a block."""
    return request.param


class Unchanged:
    """Tasks and sockets of the program, to be there again."""

    def __init__(self) -> None:
        self.tasks, self.sockets = running_tasks(), open_sockets()

    async def check(self) -> None:
        await until(lambda: running_tasks() == self.tasks)
        await until(lambda: open_sockets() <= self.sockets)


# -- cancellation ------------------------------------------------------------------------------


async def test_cancelling_the_surrounding_scope_stops_the_children_in_reverse(host: Any) -> None:
    journal: Journal = []

    with anyio.fail_after(DEADLINE), anyio.CancelScope() as scope:
        async with host([part(name, journal) for name in "ab"]):
            scope.cancel()
            await anyio.sleep_forever()

    assert scope.cancelled_caught
    assert journal == ["a starts", "b starts", "b stops", "a stops"]


@pytest.mark.parametrize("where", ["on_info", "on_stop", "a task"])
async def test_a_cancelled_program_ends_within_the_shutdown_times(host: Any, where: str) -> None:
    class Hangs(Part):
        async def on_start(self) -> None:
            if where == "a task":
                self.spawn(anyio.sleep_forever)
            elif where == "on_info":
                self.ref.tell("hang")

        async def on_info(self, message: object) -> None:
            self.journal.append("hangs")
            await anyio.sleep_forever()

        async def on_stop(self) -> None:
            if where == "on_stop":
                await anyio.sleep_forever()

    journal: Journal = []
    unchanged = Unchanged()
    policy = Policy(timeouts=Timeouts(teardown=PATIENCE))

    with anyio.fail_after(DEADLINE), anyio.CancelScope() as scope:
        async with host([part("a", journal, Hangs, shutdown=PATIENCE, policy=policy)]):
            await settled()
            scope.cancel()
            await anyio.sleep_forever()

    assert scope.cancelled_caught
    assert journal == ["hangs"] * (where == "on_info")
    await unchanged.check()


async def test_a_start_that_hangs_is_cancelled_with_the_program(host: Any) -> None:
    journal: Journal = []
    unchanged = Unchanged()
    children = [part("a", journal), Supervisor([part("b", journal, NeverStarts, shutdown=PATIENCE)])]

    with anyio.fail_after(DEADLINE), anyio.CancelScope() as scope:
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(cancel_when, scope, lambda: len(journal) == 2)
            async with host(children):
                pytest.fail("the block is not entered")

    assert scope.cancelled_caught
    assert journal == ["a starts", "b starts", "b stops", "a stops"]
    await unchanged.check()


async def cancel_when(scope: anyio.CancelScope, condition: Callable[[], object]) -> None:
    await until(condition)
    scope.cancel()


async def test_a_scope_cancelled_before_the_start_starts_nothing_that_stays(host: Any) -> None:
    journal: Journal = []
    unchanged = Unchanged()

    with anyio.CancelScope() as scope:
        scope.cancel()
        async with host([part("a", journal)]):
            pytest.fail("the block is not entered")

    assert scope.cancelled_caught
    assert journal.count("a starts") == journal.count("a stops")
    await unchanged.check()


async def test_a_cancellation_during_the_stop_lets_it_finish_and_passes(host: Any) -> None:
    class SlowToStop(Part):
        async def on_stop(self) -> None:
            scope.cancel()
            await settled()
            await super().on_stop()

    journal: Journal = []

    with anyio.CancelScope() as scope:
        async with host([part("a", journal), part("b", journal, SlowToStop)]):
            journal.clear()
        await anyio.lowlevel.checkpoint()
        pytest.fail("the cancellation passes")

    assert scope.cancelled_caught
    assert journal == ["b stops", "a stops"]


async def test_a_timeout_around_the_block_is_a_timeout(host: Any) -> None:
    with pytest.raises(TimeoutError):  # noqa: PT012  # the block is left by the error
        with anyio.fail_after(0.01):
            async with host([part("a", [])]):
                await anyio.sleep_forever()


WHEN: dict[str, Callable[[Journal], object]] = {
    "at once": lambda journal: True,
    "while a child starts": lambda journal: "b starts" in journal,
    "while the block runs": lambda journal: "the block" in journal,
    "while a child stops": lambda journal: "b is asked to stop" in journal,
}


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("when", WHEN)
async def test_a_native_cancellation_however_often_stops_everything(
    host: Any, when: str, times: int, anyio_backend_name: str
) -> None:
    class Slow(Part):
        async def on_start(self) -> None:
            await super().on_start()
            if when == "while a child starts":
                await anyio.sleep_forever()

        async def on_stop(self) -> None:
            self.journal.append(f"{self.name} is asked to stop")
            if when == "while a child stops":
                await cancelled.wait()
            await super().on_stop()

    async def run() -> None:
        patience = PATIENCE if when == "while a child starts" else 5.0
        async with host([part("a", journal), part("b", journal, Slow, shutdown=patience)]):
            journal.append("the block")
            if when == "while the block runs":
                await anyio.sleep_forever()

    journal: Journal = []
    cancelled, unchanged = anyio.Event(), Unchanged()

    with anyio.fail_after(DEADLINE):
        if anyio_backend_name == "trio":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run)
                await until(lambda: WHEN[when](journal))
                nursery.cancel_scope.cancel()
                cancelled.set()
        else:
            task = asyncio.create_task(run())
            await until(lambda: WHEN[when](journal))
            for _ in range(times):
                task.cancel()
                await asyncio.sleep(0)
            cancelled.set()
            with pytest.raises(asyncio.CancelledError):
                await task

    assert journal.count("a starts") == journal.count("a stops")
    assert journal.count("b starts") == journal.count("b stops")
    await unchanged.check()


# -- errors ------------------------------------------------------------------------------------


class Unusual(BaseException):
    """Neither an exception nor one of Python's own."""


@pytest.mark.parametrize(
    "raised",
    [
        LookupError("of the body"),
        KeyboardInterrupt(),
        SystemExit(3),
        asyncio.CancelledError(),
        Unusual(),
        ExceptionGroup("of the body", [ValueError()]),
        TimeoutError(),
    ],
    ids=lambda raised: type(raised).__name__,
)
async def test_an_error_of_the_body_comes_out_as_it_is(host: Any, raised: BaseException) -> None:
    journal: Journal = []

    with pytest.raises(type(raised)) as caught:
        async with host([part("a", journal)]):
            raise raised

    assert caught.value is raised
    assert journal == ["a starts", "a stops"]


async def test_a_value_returned_from_the_block_comes_out(host: Any) -> None:
    async def program() -> str:
        async with host([part("a", [])]):
            return "returned"

    assert await program() == "returned"


async def test_a_crash_of_a_child_reaches_nothing_of_the_callers(host: Any) -> None:
    async with anyio.create_task_group() as task_group, host([part("a", []), part("b", [])]) as running:
        others = running.registry["b"]
        task_group.start_soon(others.ask, "beside it")
        running.registry["a"].tell(Unusual())
        await until(lambda: running.registry.get("a") is not None)
        assert await others.ask("alive") == "alive"

    assert not task_group.cancel_scope.cancel_called


async def test_the_end_of_the_root_is_one_plain_error_and_not_a_group(host: Any) -> None:
    class Doomed(Part):
        async def on_start(self) -> None:
            self.ref.tell(ValueError("boom"))

    branch = Supervisor([part("a", [], Doomed)], limit=RestartLimit(count=0))
    unchanged = Unchanged()

    with pytest.raises(RestartLimitReached, match="no restarts left"):
        async with host([branch]):
            await anyio.sleep_forever()

    await unchanged.check()


async def test_the_end_of_the_root_closes_the_connections_and_the_port() -> None:
    policy = Policy(timeouts=Timeouts(close=0.1))

    with pytest.raises(RestartLimitReached):  # noqa: PT012  # the server is left by the error
        async with serve({"/": Echo}, children=[part("a", [])], policy=policy) as running:
            client = await RawClient.dial(running)
            await client.request()
            while True:
                ref = running.registry["a"]
                ref.tell(ValueError("boom"))
                await until(lambda ref=ref: running.registry.get("a") not in (None, ref))
    (frame,) = await client.rest()
    client.close()

    assert frame.close == (1001, "server shutting down")


async def test_a_child_that_cannot_be_started_is_one_plain_error(host: Any) -> None:
    class Fails(Part):
        async def on_start(self) -> None:
            raise LookupError("not there")

    unchanged = Unchanged()

    with pytest.raises(ChildStartFailed, match="crashed while it started"):
        async with host([part("a", [], Fails)]):
            pytest.fail("the block is not entered")

    await unchanged.check()


# -- in the caller's nursery -------------------------------------------------------------------


async def test_nothing_is_started_in_the_callers_nursery(anyio_backend_name: str, host: Any) -> None:
    if anyio_backend_name != "trio":
        async with asyncio.TaskGroup() as native, host([part("a", [])]):
            assert not native._tasks
        return
    async with trio.open_nursery() as nursery:
        async with host([part("a", [])]):
            assert not nursery.child_tasks
        await trio.lowlevel.checkpoint()


async def test_a_failing_sibling_of_the_callers_stops_the_tree_and_is_the_only_error(host: Any) -> None:
    async def fail() -> None:
        await until(lambda: journal)
        raise LookupError("of a sibling")

    journal: Journal = []

    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012  # the group is left by the error
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(fail)
            async with host([part("a", journal)]):
                await anyio.sleep_forever()

    assert [repr(error) for error in caught.value.exceptions] == ["LookupError('of a sibling')"]
    assert journal == ["a starts", "a stops"]


async def stop_it(server: Server, scope: anyio.CancelScope) -> None:
    server.stop()


async def cancel_it(server: Server, scope: anyio.CancelScope) -> None:
    scope.cancel()


@pytest.mark.parametrize("end", [stop_it, cancel_it])
async def test_a_server_is_started_in_the_callers_task_group(
    end: Callable[[Server, anyio.CancelScope], Awaitable[None]],
) -> None:
    journal: Journal = []
    unchanged = Unchanged()

    async with anyio.create_task_group() as task_group:
        running: Server = await task_group.start(server([part("a", journal)]).run)
        client = await RawClient.dial(running)
        await client.request()
        await end(running, task_group.cancel_scope)
        with anyio.CancelScope(shield=True):
            close = await client.answer_close()
        client.close()

    assert close == (1001, "server shutting down")
    assert journal == ["a starts", "a stops"]
    await unchanged.check()


async def test_a_server_that_cannot_start_raises_from_the_start_in_the_task_group() -> None:
    class Fails(Part):
        async def on_start(self) -> None:
            raise LookupError("not there")

    async with anyio.create_task_group() as task_group:
        with pytest.raises(ChildStartFailed):
            await task_group.start(server([part("a", [], Fails)]).run)


# -- Ctrl-C ------------------------------------------------------------------------------------

PROGRAM = """
import sys
import anyio
from actors import Actor
from supervisor import Supervisor

class Part(Actor):
    def on_start(self):
        print("starts")

    def on_stop(self):
        print("stops")

async def main():
    async with Supervisor([Part, Supervisor([Part])]):
        print("the block")
        await anyio.sleep_forever()

anyio.run(main, backend=sys.argv[1])
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_ctrl_c_stops_the_tree_and_is_a_plain_keyboard_interrupt(tmp_path: Path, backend: str) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)

    with program(script, backend) as running:
        running.wait_for("the block")
        running.signal(signal.SIGINT)
        status = running.status()

    assert status in (1, -signal.SIGINT, 128 + signal.SIGINT)
    assert running.output.count("starts\n") == running.output.count("stops\n") == 2
    assert running.output.rstrip().endswith("KeyboardInterrupt")
    assert "ExceptionGroup" not in running.output
