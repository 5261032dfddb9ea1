"""Whatever a hook raises ends its own connection alone: 1011, an empty reason, and the neighbours echo."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, ClassVar

import anyio
import anyio.lowlevel
import pytest
import trio

from actors import (
    Actor,
    ActorRef,
    ActorStopped,
    CloseReport,
    ConnectionActor,
    ConnectionClosing,
    ExitReason,
)
from supervisor import ChildSpec, Restart
from tests.conftest import EVERY_RUNTIME
from tests.raw import CONTINUATION, TEXT, RawClient, encode, raw_client
from tests.witness import serving, until

every_runtime = pytest.mark.every_runtime

DETAIL = "a detail that stays here"


class Boom(BaseException):
    pass


def foreign_cancelled() -> BaseException:
    """The cancellation of the other runtime, which means nothing to this one."""
    return asyncio.CancelledError(DETAIL) if on_trio() else trio_cancelled()


def own_cancelled() -> BaseException:
    """The cancellation of this runtime, though nobody has cancelled anything."""
    return trio_cancelled() if on_trio() else asyncio.CancelledError(DETAIL)


def on_trio() -> bool:
    return not isinstance(anyio.lowlevel.current_token().native_token, asyncio.AbstractEventLoop)


def trio_cancelled() -> BaseException:
    return trio.Cancelled._create(source="explicit")


def group_of_errors() -> BaseException:
    return ExceptionGroup(DETAIL, [ValueError(DETAIL), ExceptionGroup("inner", [KeyError(DETAIL)])])


def group_with_a_cancellation() -> BaseException:
    return BaseExceptionGroup(DETAIL, [own_cancelled(), ValueError(DETAIL)])


def group_of_cancellations() -> BaseException:
    return BaseExceptionGroup(DETAIL, [own_cancelled(), foreign_cancelled()])


ERRORS: list[Callable[[], BaseException]] = [
    lambda: ValueError(DETAIL),
    lambda: Boom(DETAIL),
    lambda: KeyboardInterrupt(DETAIL),
    lambda: SystemExit(DETAIL),
    lambda: GeneratorExit(DETAIL),
    lambda: StopAsyncIteration(DETAIL),
    lambda: MemoryError(DETAIL),
    lambda: RecursionError(DETAIL),
    lambda: TimeoutError(DETAIL),
    own_cancelled,
    foreign_cancelled,
    group_of_errors,
    group_with_a_cancellation,
    group_of_cancellations,
]
NUMBERS = range(len(ERRORS))


class Echo(ConnectionActor):
    async def on_message(self, message: str) -> None:
        await self.send(message)


class Raising(ConnectionActor):
    """Raises at the place that its path names."""

    make_error: ClassVar[Callable[[], BaseException]]

    async def on_connect(self) -> None:
        await self.raise_at("on_connect")

    async def on_message(self, message: str) -> None:
        await self.raise_at("on_message")
        self.ref.tell("told")
        self.spawn(self.raise_at, "task")
        self.after(0, "timer", key="timer")
        await self.enter(Resource(self))

    async def on_info(self, message: str) -> None:
        await self.raise_at("on_info" if message == "told" else message)

    async def raise_at(self, place: str) -> None:
        if self.path_params["place"] == place:
            await anyio.lowlevel.checkpoint()
            raise type(self).make_error()


class Resource:
    def __init__(self, actor: Raising) -> None:
        self.actor = actor

    async def __aenter__(self) -> None:
        await self.actor.raise_at("resource")

    async def __aexit__(self, *_: object) -> None:
        pass


class Plain(ConnectionActor):
    """The same with plain functions for hooks."""

    make_error: ClassVar[Callable[[], BaseException]]

    def on_connect(self) -> None:
        self.raise_at("plain on_connect")

    def on_message(self, message: str) -> None:
        self.raise_at("plain on_message")
        self.ref.tell("told")

    def on_info(self, message: str) -> None:
        self.raise_at("plain on_info")

    def raise_at(self, place: str) -> None:
        if self.path_params["place"] == place:
            raise type(self).make_error()


class Unmade(ConnectionActor):
    make_error: ClassVar[Callable[[], BaseException]]

    def __init__(self) -> None:
        raise type(self).make_error()


class Coded(ConnectionActor):
    """Its codec raises something that says nothing about the peer's message."""

    make_error: ClassVar[Callable[[], BaseException]]

    class Broken:
        name = "broken"

        def decode(self, data: str | bytes) -> object:
            raise Coded.make_error()

        def encode(self, message: object) -> str | bytes:
            raise AssertionError("nothing is sent")

    codec = Broken()


PLACES: dict[str, type[Any]] = {
    "__init__": Unmade,
    "on_connect": Raising,
    "on_message": Raising,
    "on_info": Raising,
    "timer": Raising,
    "task": Raising,
    "resource": Raising,
    "plain on_connect": Plain,
    "plain on_message": Plain,
    "plain on_info": Plain,
    "codec": Coded,
}


async def echoes(client: RawClient) -> bool:
    await client.send("still here")
    return (await client.frame()).text == "still here"


@every_runtime
@pytest.mark.parametrize("place", PLACES)
async def test_whatever_is_raised_ends_its_own_connection_alone(place: str) -> None:
    actor = PLACES[place]

    async with (
        serving({"/at/:place": actor, "/echo": Echo}) as (server, witness),
        raw_client(server, "/echo") as neighbour,
    ):
        for number, make_error in enumerate(ERRORS, 1):
            actor.make_error = staticmethod(make_error)
            async with raw_client(server, "/at/" + place.replace(" ", "%20")) as client:
                await client.send("go")
                close = await client.answer_close()
                rest = await client.rest()
            await until(lambda: len(witness.closed) == number)  # noqa: B023  # within the loop's turn
            closed, error = witness.closed[-1], make_error()

            assert (close, rest, client.over) == ((1011, ""), [], "eof"), error
            assert closed.report.exit_reason is ExitReason.CRASH, error
            assert closed.report.clean, error
            assert closed.leaks == ()
            assert len(witness.crashes) == number
            assert repr(witness.crashes[-1]) == repr(error)
            assert await echoes(neighbour), error
        assert len(server.connections) == 1


@every_runtime
@pytest.mark.parametrize("where", ["on_close", "plain on_close"])
async def test_whatever_the_last_hook_raises_changes_nothing(where: str) -> None:
    class Last(Echo):
        async def on_close(self, report: CloseReport) -> None:
            await anyio.lowlevel.checkpoint()
            raise make_error()

    class PlainLast(Echo):
        def on_close(self, report: CloseReport) -> None:
            raise make_error()

    async with (
        serving({"/": PlainLast if "plain" in where else Last, "/echo": Echo}) as (server, witness),
        raw_client(server, "/echo") as neighbour,
    ):
        for number, make_error in enumerate(ERRORS, 1):
            async with raw_client(server) as client:
                await client.send_close(4001, "bye")
                frames = await client.rest()
            await until(lambda: len(witness.closed) == number)  # noqa: B023  # within the loop's turn
            closed = witness.closed[-1]

            assert [frame.close for frame in frames] == [(4001, "bye")]
            assert (closed.report.exit_reason, closed.leaks) == (ExitReason.NORMAL, ())
            assert repr(witness.crashes[-1]) == repr(make_error())
            assert await echoes(neighbour)


class Cancelled(ConnectionActor):
    """Its own task is cancelled, natively, by somebody to whom it does not belong."""

    async def on_message(self, message: str) -> None:
        task = asyncio.current_task()
        assert task is not None
        if message == "by itself":
            task.cancel()
        elif message == "twice":
            task.cancel()
            task.cancel()
        elif message == "soon":
            asyncio.get_running_loop().call_soon(task.cancel)
        elif message == "in another task":
            self.spawn(self.cancel, task)
        await anyio.sleep_forever()

    async def cancel(self, task: asyncio.Task[None]) -> None:
        task.cancel()


@pytest.mark.parametrize("anyio_backend", EVERY_RUNTIME[:-1])  # trio cancels scopes, not tasks
@pytest.mark.parametrize("how", ["by itself", "twice", "soon", "in another task"])
async def test_a_native_cancellation_of_an_actors_task_is_a_crash_like_any_other(how: str) -> None:
    async with (
        serving({"/": Cancelled, "/echo": Echo}) as (server, witness),
        raw_client(server, "/echo") as neighbour,
        raw_client(server) as client,
    ):
        await client.send(how)
        close = await client.answer_close()
        await client.rest()
        closed = await witness.one_closed()
        assert await echoes(neighbour)

    assert close == (1011, "")
    assert (closed.report.exit_reason, closed.leaks) == (ExitReason.CRASH, ())
    assert [type(error) for error in witness.crashes] == [asyncio.CancelledError]


class Service(Actor):
    """Raises when it is asked."""

    async def on_info(self, message: Callable[[], BaseException]) -> None:
        raise message()


class Asking(Echo):
    service: ClassVar[ActorRef]
    failures: ClassVar[list[BaseException]]

    async def on_message(self, message: str) -> None:
        try:
            await self.service.ask(ERRORS[int(message)])
        except Exception as error:
            self.failures.append(error)
        await self.send(message)


@every_runtime
async def test_a_service_that_crashes_fails_the_ask_and_not_who_asked() -> None:
    Asking.failures = []
    children = [ChildSpec(Service, name=f"service {number}", restart=Restart.TEMPORARY) for number in NUMBERS]

    async with serving(Asking, children=children) as (server, witness), raw_client(server) as client:
        for number in NUMBERS:
            Asking.service = server.registry[f"service {number}"]
            await client.send(str(number))
            assert (await client.frame()).text == str(number)
        assert len(server.connections) == 1

    assert len(Asking.failures) == len(witness.crashes) == len(ERRORS)
    assert all(isinstance(failure, ActorStopped) for failure in Asking.failures), Asking.failures


# -- messages that are handled while they are read ---------------------------------------------

LARGE = 64 * 1024


@every_runtime
@pytest.mark.parametrize("wait", [False, True])
async def test_a_large_message_is_handled_by_the_task_of_its_actor_with_all_that_a_task_can(
    wait: bool,
) -> None:
    tasks: set[int] = set()

    class Careful(ConnectionActor):
        def on_connect(self) -> None:
            tasks.add(anyio.get_current_task().id)

        async def on_message(self, message: str) -> None:
            with anyio.move_on_after(0.001 if wait else 60) as scope:
                await (anyio.sleep_forever() if wait else anyio.lowlevel.checkpoint())
            async with anyio.create_task_group() as task_group:
                task_group.start_soon(self.send, f"{scope.cancelled_caught} {len(message)}")
            tasks.add(anyio.get_current_task().id)

    async with serving(Careful) as (server, witness), raw_client(server) as client:
        for _ in range(5):
            await client.send("x" * LARGE)
            assert (await client.frame()).text == f"{wait} {LARGE}"

    assert len(tasks) == 1
    assert witness.crashes == []


@every_runtime
@pytest.mark.parametrize("number", NUMBERS)
async def test_what_the_handler_of_a_large_message_raises_ends_its_own_connection_alone(number: int) -> None:
    class Fragile(ConnectionActor):
        async def on_message(self, message: str) -> None:
            if message[0] == "!":
                raise ERRORS[number]()
            await self.send(message)

    async with (
        serving(Fragile) as (server, witness),
        raw_client(server) as neighbour,
        raw_client(server) as client,
    ):
        await client.send("!" * LARGE)
        assert await client.answer_close() == (1011, "")
        await witness.one_closed()
        await neighbour.send("x" * LARGE)
        assert (await neighbour.frame()).text == "x" * LARGE


@every_runtime
async def test_the_handler_of_a_large_message_may_close_and_sees_no_message_behind_it() -> None:
    seen: list[str] = []

    class Once(ConnectionActor):
        async def on_message(self, message: str) -> None:
            seen.append(message[0])
            self.close(4001, "enough")

    async with serving(Once) as (server, witness), raw_client(server) as client:
        await client.send_bytes(encode(TEXT, b"a" * LARGE) + encode(TEXT, b"b" * LARGE) * 3)
        assert await client.answer_close() == (4001, "enough")
        report = (await witness.one_closed()).report

    assert seen == ["a"]
    assert report.clean
    assert report.undelivered <= 3


@every_runtime
async def test_a_neighbour_is_heard_while_ten_thousand_fragments_are_taken_apart() -> None:
    heard: list[str] = []

    class Listener(ConnectionActor):
        async def on_message(self, message: str) -> None:
            heard.append(message)

    empty = encode(CONTINUATION, b"", fin=False)
    fragmented = encode(TEXT, b"", fin=False) + empty * 1022 + encode(CONTINUATION, b"many")
    async with (
        serving(Listener) as (server, _),
        raw_client(server) as neighbour,
        raw_client(server) as client,
    ):
        await client.send_bytes(fragmented * 10)
        await neighbour.send("one")
        await until(lambda: len(heard) == 11)

    assert heard.index("one") <= 2


# -- a disconnect found out in a group ---------------------------------------------------------


class Grouped(ConnectionActor):
    """Sends from tasks of a group until the connection is gone."""

    async def send_on(self) -> None:
        while True:
            await self.send("x")
            await anyio.lowlevel.checkpoint()

    async def in_groups(self) -> None:
        async with anyio.create_task_group() as outer, anyio.create_task_group() as inner:
            outer.start_soon(self.send_on)
            inner.start_soon(self.send_on)


class InHook(Grouped):
    async def on_message(self, message: str) -> None:
        await self.in_groups()


class InTask(Grouped):
    async def on_message(self, message: str) -> None:
        self.spawn(self.in_groups)


class AsResource(Grouped):
    async def on_message(self, message: str) -> None:
        group = await self.enter(anyio.create_task_group())
        group.start_soon(self.send_on)


@pytest.mark.every_runtime
@pytest.mark.parametrize("actor", [InHook, InTask, AsResource])
async def test_a_disconnect_that_is_found_out_in_a_task_group_is_no_crash(
    actor: type[ConnectionActor], caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(actor) as (server, witness):
        for end in ("close", "drop"):
            async with raw_client(server) as client:
                await client.send("go")
                await client.frame()
                if end == "close":
                    await client.send_close(1000)
                    await client.rest()
                else:
                    client.reset()
        await until(lambda: len(witness.closed) == 2)

        assert witness.crashes == []
        assert server.site.runtime.dead_letters.counts["crashed"] == 0
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.every_runtime
async def test_a_group_with_another_error_beside_the_disconnect_is_a_crash() -> None:
    class Mixed(Grouped):
        async def on_message(self, message: str) -> None:
            try:
                await self.send_on()
            except ConnectionClosing as error:
                raise ExceptionGroup("both", [error, ValueError("a bug")]) from None

    async with serving(Mixed) as (server, witness), raw_client(server) as client:
        await client.send("go")
        await client.frame()
        await client.send_close(1000)
        await until(lambda: witness.crashes)

        assert isinstance(witness.crashes[0], ExceptionGroup)
