"""WebSockets in the function style: what functions get, what becomes of what they return."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from actors import ActorRef, CloseReport, ConnectionClosing
from supervisor.functions import FunctionActor, FunctionRoute
from tests.raw import raw_client
from tests.witness import serving, until

pytestmark = pytest.mark.every_runtime


def functions(codec: Any = "raw") -> tuple[type[FunctionActor], FunctionRoute]:
    """A WebSocket without functions yet: its class, and where they are registered."""
    actor = type("Functions", (FunctionActor,), {"codec": codec})
    return actor, FunctionRoute("/ws", actor)


async def test_plain_functions_get_the_websocket_and_what_they_return_is_sent() -> None:
    actor, websocket = functions()
    closed = []

    @websocket.on("connect")
    def connect(ws: FunctionActor) -> str:
        return f"hello {ws.query_params['name']}"

    @websocket.on("message")
    def message(ws: FunctionActor, message: str) -> bytes | None:
        return None if message == "quiet" else message.encode()

    @websocket.on("close")
    def close(ws: FunctionActor) -> str:
        closed.append(ws.id)
        return "nobody gets this"

    async with serving(actor) as (server, witness), raw_client(server, "/?name=Ada") as client:
        await client.send("quiet")
        await client.send("loud")

        assert (await client.frame()).text == "hello Ada"
        assert (await client.frame()).payload == b"loud"
        await client.send_close(1000)
        assert [frame.close for frame in await client.rest()] == [(1000, "")]
        assert closed == [(await witness.one_closed()).id]
        assert witness.crashes == []


async def test_async_functions_are_awaited_and_the_close_function_may_take_the_report() -> None:
    actor, websocket = functions()
    reports: list[CloseReport] = []

    @websocket.on("connect")
    async def connect(ws: FunctionActor) -> str:
        await anyio.lowlevel.checkpoint()
        return "connected"

    @websocket.on("message")
    async def message(ws: FunctionActor, message: str) -> str:
        await ws.send("first")
        return "second"

    @websocket.on("close")
    async def close(ws: FunctionActor, report: CloseReport) -> None:
        await anyio.lowlevel.checkpoint()
        reports.append(report)

    async with serving(actor) as (server, witness), raw_client(server) as client:
        await client.send("go")

        assert [(await client.frame()).text for _ in range(3)] == ["connected", "first", "second"]
        await client.send_close(4000, "done")
        await witness.one_closed()
        assert [(report.code, report.reason) for report in reports] == [(4000, "done")]


async def test_attributes_that_were_set_stay_and_the_session_id_is_there_from_the_begin() -> None:
    actor, websocket = functions()

    @websocket.on("connect")
    def connect(ws: FunctionActor) -> None:
        ws.count = 0

    @websocket.on("message")
    def message(ws: FunctionActor, message: str) -> str:
        ws.count += 1
        before, ws.session_id = ws.session_id, message
        return f"{ws.count} {'id' if before == ws.id else before}"

    async with serving(actor) as (server, _), raw_client(server) as client:
        await client.send("one")
        await client.send("two")

        assert [(await client.frame()).text for _ in range(2)] == ["1 id", "2 one"]


async def test_a_function_may_close_and_what_it_returns_then_is_dropped() -> None:
    actor, websocket = functions()

    @websocket.on("message")
    def message(ws: FunctionActor, message: str) -> str:
        ws.close(code=1008, reason="Session expired")
        return "too late"

    async with serving(actor) as (server, witness), raw_client(server) as client:
        await client.send("anything")

        assert await client.answer_close() == (1008, "Session expired")
        assert await client.rest() == []
        assert (await witness.one_closed()).report.clean
        assert witness.crashes == []


async def test_without_functions_messages_are_read_and_nothing_happens() -> None:
    actor, _ = functions()

    async with serving(actor) as (server, witness), raw_client(server) as client:
        await client.send("anything")
        await client.send_close(1000)

        assert [frame.close for frame in await client.rest()] == [(1000, "")]
        assert (await witness.one_closed()).report.messages_in == 1


async def test_what_the_raw_codec_cannot_send_crashes_with_a_message_that_says_so() -> None:
    actor, websocket = functions()

    @websocket.on("message")
    def message(ws: FunctionActor, message: str) -> dict[str, str]:
        return {"echo": message}

    async with serving(actor) as (server, witness), raw_client(server) as client:
        await client.send("anything")

        assert await client.answer_close() == (1011, "")
        await witness.one_closed()
        (error,) = witness.crashes
        assert isinstance(error, TypeError)
        assert "codec 'raw' sends str or bytes, not dict" in str(error)


async def test_a_codec_makes_messages_of_other_values() -> None:
    actor, websocket = functions("json")

    @websocket.on("message")
    def message(ws: FunctionActor, message: list[int]) -> dict[str, int]:
        return {"sum": sum(message)}

    async with serving(actor) as (server, _), raw_client(server) as client:
        await client.send("[1, 2, 3]")

        assert (await client.frame()).text == '{"sum":6}'


async def test_plain_functions_send_at_once_with_sync_send() -> None:
    actor, websocket = functions()

    @websocket.on("message")
    def message(ws: FunctionActor, message: str) -> str:
        ws.sync_send("first")
        ws.sync_send("second")
        return "third"

    async with serving(actor) as (server, _), raw_client(server) as client:
        await client.send("go")

        assert [(await client.frame()).text for _ in range(3)] == ["first", "second", "third"]


async def test_another_thread_sends_with_sync_send_or_by_the_ref() -> None:
    actor, websocket = functions()
    connected: list[FunctionActor] = []
    websocket.on("connect")(connected.append)

    async with serving(actor) as (server, witness), raw_client(server) as client:
        await until(lambda: connected)
        (ws,) = connected

        await anyio.to_thread.run_sync(ws.sync_send, "from a thread")
        await anyio.to_thread.run_sync(ws.ref.tell, b"by the ref")

        assert (await client.frame()).text == "from a thread"
        assert (await client.frame()).payload == b"by the ref"
        await client.send_close(1000)
        await witness.one_closed()
        await anyio.to_thread.run_sync(ws.sync_send, "nobody is there any more")
        with pytest.raises(ConnectionClosing):
            ws.sync_send("nobody is there any more")


async def test_the_end_of_a_monitored_actor_is_not_sent_to_the_peer() -> None:
    actor, websocket = functions()
    refs: list[ActorRef] = []

    @websocket.on("connect")
    def connect(ws: FunctionActor) -> None:
        for other in refs:
            ws.ref.monitor(other)
        refs.append(ws.ref)

    async with serving(actor) as (server, witness), raw_client(server) as first, raw_client(server) as second:
        await until(lambda: len(refs) == 2)
        await first.send_close(1000)
        await witness.one_closed()
        refs[1].tell("next")

        assert (await second.frame()).text == "next"
        assert witness.crashes == []


# -- registering -------------------------------------------------------------------------------


def test_a_function_is_given_back_unchanged() -> None:
    _, websocket = functions()

    def message(ws: FunctionActor, message: str) -> None: ...

    assert websocket.on("message")(message) is message
    assert repr(websocket) == "<FunctionRoute /ws: message>"


def test_an_event_that_does_not_exist_is_refused_and_the_others_are_named() -> None:
    _, websocket = functions()

    with pytest.raises(ValueError, match=r"'disconnect' does not exist .* 'connect', 'message', 'close'"):
        websocket.on("disconnect")


def test_a_second_function_for_an_event_is_refused() -> None:
    _, websocket = functions()
    websocket.on("close")(lambda ws: None)

    with pytest.raises(ValueError, match="'close' of /ws has a function already"):
        websocket.on("close")(lambda ws: None)


@pytest.mark.parametrize(
    ("event", "function", "called_with"),
    [
        ("connect", lambda: None, r"\(ws\)"),
        ("connect", lambda ws, global_dependencies: None, r"\(ws\)"),
        ("message", lambda ws: None, r"\(ws, message\)"),
        ("message", lambda ws, message, *, router_dependencies: None, r"\(ws, message\)"),
        ("close", lambda ws, report, more: None, r"\(ws, report\) or \(ws\)"),
    ],
)
def test_a_function_that_takes_other_arguments_is_refused(
    event: str, function: Callable[..., Any], called_with: str
) -> None:
    actor, websocket = functions()

    with pytest.raises(TypeError, match=f"the function for '{event}' is called with {called_with}, but"):
        websocket.on(event)(function)

    assert f"on_{event}" not in vars(actor)


@pytest.mark.parametrize(
    ("event", "function"),
    [
        ("connect", lambda ws, more=None: None),
        ("message", lambda *arguments: None),
        ("close", lambda ws, **more: None),
        ("close", lambda ws, report=None: None),
    ],
)
def test_a_function_may_take_more_than_it_is_given(event: str, function: Callable[..., Any]) -> None:
    _, websocket = functions()

    assert websocket.on(event)(function) is function


def test_what_is_no_function_is_refused() -> None:
    _, websocket = functions()

    with pytest.raises(TypeError, match="'message' needs a function, not 'handler'"):
        websocket.on("message")("handler")


def test_functions_registered_on_one_websocket_are_not_on_another() -> None:
    first_actor, first = functions()
    second_actor, _ = functions()

    first.on("connect")(lambda ws: None)

    assert "on_connect" in vars(first_actor)
    assert "on_connect" not in vars(second_actor)
