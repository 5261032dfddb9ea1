"""Mistakes in the class of an actor: an error when the class is made, or a line the first time it matters."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Generator
from typing import Any

import anyio
import pytest

from actors import Actor, ConnectionActor
from actors.testing import connected, settled, started

pytestmark = pytest.mark.every_runtime


def method(*args: Any) -> None:
    """Anything that can be called."""


async def async_method(*args: Any) -> None:
    """The same, later."""


def generator(*args: Any) -> Generator[str, None, None]:
    yield "lost"


async def async_generator(*args: Any) -> Any:
    yield "lost"


def make(base: type[Actor], name: str, value: object) -> type[Any]:
    return type("Chat", (base,), {name: value})


@pytest.mark.parametrize("function", [method, async_method])
@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("on_mesage", "on_message"),
        ("on_massage", "on_message"),
        ("on_messages", "on_message"),
        ("on_messgae", "on_message"),
        ("on_msesgae", "on_message"),
        ("onMessage", "on_message"),
        ("on_Message", "on_message"),
        ("onmessage", "on_message"),
        ("OnMessage", "on_message"),
        ("on_conect", "on_connect"),
        ("on_connected", "on_connect"),
        ("on_closed", "on_close"),
        ("on_clsoe", "on_close"),
        ("onClose", "on_close"),
        ("on_upgrad", "on_upgrade"),
        ("on_ifno", "on_info"),
        ("on_infos", "on_info"),
        ("on_restarted", "on_restart"),
    ],
)
def test_a_hook_that_is_misspelled_is_an_error_when_the_class_is_made(
    name: str, meant: str, function: object
) -> None:
    with pytest.raises(TypeError, match=rf"Chat\.{name} is no hook and never runs by itself: {meant} is one"):
        make(ConnectionActor, name, function)


@pytest.mark.parametrize(
    "name",
    [
        "on_chat",
        "on_join",
        "on_text",
        "on_step",
        "on_error",
        "on_image",
        "on_disconnect",
        "on_open",
        "on_data",
        "on_receive",
        "on_progress",
        "on_reset",
        "on_into",
        "once",
        "only",
        "online",
        "onset",
        "_on_mesage",
        "message",
        "send_message",
        "connect",
    ],
)
@pytest.mark.parametrize("base", [Actor, ConnectionActor])
def test_a_name_of_the_programs_own_is_none_of_our_business(base: type[Actor], name: str) -> None:
    make(base, name, method)
    make(base, name, staticmethod(method))
    make(base, name, 5)


def test_a_service_may_have_methods_like_the_hooks_of_a_connection() -> None:
    make(Actor, "on_message", method)
    make(Actor, "on_close", generator)


@pytest.mark.parametrize("function", [generator, async_generator])
@pytest.mark.parametrize("name", ["on_message", "on_info", "on_connect", "on_close", "on_restart"])
def test_a_hook_with_a_yield_is_an_error_when_the_class_is_made(name: str, function: object) -> None:
    with pytest.raises(TypeError, match=rf"Chat\.{name} has a yield in it"):
        make(ConnectionActor, name, function)


@pytest.mark.parametrize("function", [method, async_method])
def test_an_upgrade_hook_that_is_no_class_method_is_an_error_when_the_class_is_made(function: object) -> None:
    with pytest.raises(TypeError, match=r"Chat\.on_upgrade runs before .* put @classmethod above it"):
        make(ConnectionActor, "on_upgrade", function)

    make(ConnectionActor, "on_upgrade", classmethod(function))  # type: ignore[arg-type]  # any function
    make(ConnectionActor, "on_upgrade", staticmethod(function))  # type: ignore[arg-type]  # as above


def test_an_upgrade_hook_with_a_yield_is_an_error_too() -> None:
    with pytest.raises(TypeError, match=r"Chat\.on_upgrade has a yield in it"):
        make(ConnectionActor, "on_upgrade", classmethod(async_generator))


@pytest.mark.parametrize(("name", "instead"), [("on_start", "on_connect"), ("on_stop", "on_close")])
def test_the_hook_of_a_service_on_a_connection_says_which_one_runs(name: str, instead: str) -> None:
    with pytest.raises(TypeError, match=rf"Chat\.{name} never runs on a connection: {instead} does"):
        make(ConnectionActor, name, method)


def test_a_hook_that_nobody_can_call_is_an_error() -> None:
    with pytest.raises(TypeError, match=r"Chat\.on_message is a hook: a plain or async function, not None"):
        make(ConnectionActor, "on_message", None)


# -- what a hook returns -----------------------------------------------------------------------


class Given:
    """Something to await that is no coroutine, as code compiled by others makes it."""

    def __init__(self, journal: list[Any]) -> None:
        self.journal = journal

    def __await__(self) -> Generator[Any, Any, None]:
        yield from anyio.lowlevel.checkpoint().__await__()
        self.journal.append("awaited")


class Talker(ConnectionActor):
    """Does in a plain hook what the test wants."""

    do: Callable[[Talker], Any]

    def on_message(self, message: str) -> Any:
        return type(self).do(self)


def talker(do: Callable[[Any], Any]) -> type[Talker]:
    return type("Talker", (Talker,), {"do": staticmethod(do)})


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


async def test_what_can_be_awaited_is_awaited(caplog: pytest.LogCaptureFixture) -> None:
    journal: list[Any] = []

    async with connected(talker(lambda actor: Given(journal))) as client:
        await client.send("go")
        await client.send("go")
        await settled()

        assert journal == ["awaited"] * 2
    assert lines(caplog) == []


async def test_a_task_is_awaited_and_what_it_raises_is_the_hooks() -> None:
    async def fail() -> None:
        raise ValueError("in the task")

    def begin(actor: Any) -> Any:
        on_trio = not isinstance(anyio.lowlevel.current_token().native_token, asyncio.AbstractEventLoop)
        return fail() if on_trio else asyncio.ensure_future(fail())

    async with connected(talker(begin)) as client:
        await client.send("go")

        assert (await client.closed()).code == 1011
        assert [str(error) for error in client.crashes] == ["in the task"]


@pytest.mark.parametrize("function", [generator, async_generator])
async def test_a_generator_out_of_a_wrapped_hook_is_a_crash_that_says_so(
    function: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Wrapped(ConnectionActor):
        @functools.wraps(method)
        def on_message(self, message: str) -> Any:
            return function()

    async with connected(Wrapped) as client:
        await client.send("go")

        assert (await client.closed()).code == 1011
        assert [str(error) for error in client.crashes] == [
            f"a hook returned the generator {function.__qualname__}, which nobody runs; a hook is a plain or "
            "async function (await self.send(message) sends one)"
        ]


@pytest.mark.parametrize("value", [5, "hello", False, [], [None]])
async def test_a_value_that_nobody_takes_is_said_once_for_each_class_and_hook(
    value: object, caplog: pytest.LogCaptureFixture
) -> None:
    class Answering(ConnectionActor):
        async def on_connect(self) -> Any:  # type: ignore[override]  # what is tested
            return value

        def on_message(self, message: str) -> Any:
            return value

        def on_close(self, report: Any) -> Any:
            return value

    for _ in range(2):
        async with connected(Answering) as client:
            await client.send("go")
            await client.send("go")
            await settled()
            assert client.ref.alive
            await client.close()

    found = [line.partition(", and nobody takes it")[0] for line in lines(caplog)]
    kind = type(value).__name__
    where = Answering.__qualname__
    assert found == [f"{where}.{hook} returned a {kind}" for hook in ("on_connect", "on_message", "on_close")]


async def test_a_plain_hook_may_return_the_close_that_it_began(caplog: pytest.LogCaptureFixture) -> None:
    async with connected(talker(lambda actor: actor.close(4000, drain=True))) as client:
        await client.send("go")

        assert (await client.closed()).code == 4000
        assert client.crashes == []
    assert lines(caplog) == []


async def test_what_a_service_returns_answers_and_is_no_mistake(caplog: pytest.LogCaptureFixture) -> None:
    class Service(Actor):
        def on_info(self, message: Any) -> Any:
            return message

    async with started(Service) as ref:
        ref.tell("told")
        assert await ref.ask([1, 2]) == [1, 2]
    assert lines(caplog) == []


async def test_the_values_of_the_hooks_of_a_service_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    class Service(Actor):
        def on_start(self) -> Any:
            return self.every(100, "beat")

        async def on_stop(self) -> Any:  # type: ignore[override]  # what is tested
            return "over"

    for _ in range(2):
        async with started(Service) as ref:
            await ref.ask("are you there?")

    where = Service.__qualname__
    found = [line.partition(", and")[0] for line in lines(caplog)]
    assert found == [f"{where}.on_start returned a object", f"{where}.on_stop returned a str"]


async def test_a_hook_may_be_a_partial_method(caplog: pytest.LogCaptureFixture) -> None:
    class Partial(ConnectionActor):
        journal: list[Any]

        def note(self, what: str, *args: Any) -> None:
            self.journal.append(what)

        on_message = functools.partialmethod(note, "message")  # type: ignore[assignment]  # what is tested
        on_close = functools.partialmethod(note, "close")  # type: ignore[assignment]  # as above

    Partial.journal = []
    async with connected(Partial) as client:
        await client.send("go")
        await settled()
        await client.close()

    assert Partial.journal == ["message", "close"]
    assert lines(caplog) == []
