"""WebSockets in the function style: what functions get, what becomes of what they return."""

from __future__ import annotations

import inspect
import json
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import Decimal
from enum import Enum
from inspect import Parameter, Signature
from typing import Any
from unittest.mock import patch
from urllib.parse import parse_qsl

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from actors import ActorRef, CloseReport, ConnectionClosing, ExitReason, QueryParams, Request
from supervisor import Policy, Timeouts, serve
from supervisor.robyn.functions import FunctionActor, FunctionRoute
from tests.raw import BINARY, TEXT, Frame, RawClient, raw_client
from tests.witness import DEADLINE, serving, until

with patch.object(sys, "argv", sys.argv[:1]):  # Robyn reads the arguments of the process
    import robyn.robyn as robyn
    from robyn._param_utils import QueryParamValidationError, resolve_individual_params

pytestmark = pytest.mark.every_runtime


def functions(codec: Any = None) -> tuple[type[FunctionActor], FunctionRoute]:
    """A WebSocket without functions yet: its class, and where they are registered."""
    server = serve({})
    websocket = FunctionRoute("/ws", server.registry, server.publish, codec=codec)
    return websocket.actor, websocket


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


@pytest.mark.parametrize(
    ("value", "text"), [({"echo": ["anything"]}, '{"echo":["anything"]}'), ([1, None], "[1,null]")]
)
async def test_a_dict_or_a_list_is_sent_as_json(value: object, text: str) -> None:
    actor, websocket = functions()
    websocket.on("message")(lambda ws, message: value)

    async with serving(actor) as (server, _), raw_client(server) as client:
        await client.send("anything")

        assert (await client.frame()).text == text


async def test_what_cannot_be_sent_crashes_with_a_message_that_says_so() -> None:
    actor, websocket = functions()
    websocket.on("message")(lambda ws, message: 5)

    async with serving(actor) as (server, witness), raw_client(server) as client:
        await client.send("anything")

        assert await client.answer_close() == (1011, "")
        await witness.one_closed()
        (error,) = witness.crashes
        assert isinstance(error, TypeError)
        assert "sends str or bytes, not int" in str(error)


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
        with pytest.raises(ConnectionClosing):
            await anyio.to_thread.run_sync(ws.sync_send, "nobody is there any more")
        with pytest.raises(ConnectionClosing):
            ws.sync_send("nobody is there any more")


async def test_a_plain_function_that_blocks_holds_up_its_own_connection_alone() -> None:
    actor, websocket = functions()
    go_on = threading.Event()

    @websocket.on("message")
    def message(ws: FunctionActor, message: str) -> str:
        if message == "block":
            assert go_on.wait(DEADLINE)
        return message

    async with serving(actor) as (server, _), raw_client(server) as first, raw_client(server) as second:
        await first.send("block")
        await first.send("behind it")
        for number in range(3):
            await second.send(f"{number}")
            assert (await second.frame()).text == f"{number}"
        go_on.set()

        assert [(await first.frame()).text for _ in range(2)] == ["block", "behind it"]


async def test_without_threads_a_plain_function_runs_on_the_thread_of_the_event_loop() -> None:
    threads = []
    for own in (True, False):
        server = serve({})
        websocket = FunctionRoute("/ws", server.registry, server.publish, threads=own)
        websocket.on("connect")(lambda ws: threads.append(threading.get_ident()) or "here")

        async with serving(websocket.actor) as (serves, _), raw_client(serves) as client:
            assert (await client.frame()).text == "here"

    assert threads[0] != threading.get_ident() == threads[1]


async def test_what_a_plain_function_sends_says_and_returns_comes_in_its_order() -> None:
    actor, websocket = functions()

    @websocket.on("message")
    def message(ws: FunctionActor, message: str) -> str:
        ws.sync_send("sent")
        ws.sync_send_to(ws.id, b"sent to itself")
        ws.close(4001, "done")
        with pytest.raises(ConnectionClosing):
            ws.sync_send("behind the close")
        return "behind the close"

    async with serving(actor) as (server, witness), raw_client(server) as client:
        await client.send("go")

        assert (await client.frame()).text == "sent"
        assert (await client.frame()).payload == b"sent to itself"
        assert (await client.answer_close()) == (4001, "done")
        assert (await witness.one_closed()).report.clean
        assert witness.crashes == []


async def test_a_plain_function_starts_timers_and_tasks_from_its_thread() -> None:
    actor, websocket = functions()

    @websocket.on("connect")
    def connect(ws: FunctionActor) -> None:
        ws.after(0, "timer")
        ws.every(3600, "never", key="never")
        assert ws.cancel_timer("never")
        ws.spawn(ws.send, "task")

    async with serving(actor) as (server, witness), raw_client(server) as client:
        assert {(await client.frame()).text for _ in range(2)} == {"timer", "task"}
        assert witness.crashes == []


async def test_a_plain_function_that_raises_crashes_its_connection() -> None:
    actor, websocket = functions()

    @websocket.on("message")
    def message(ws: FunctionActor, message: str) -> None:
        raise LookupError(message)

    async with serving(actor) as (server, witness), raw_client(server) as client:
        await client.send("nothing of that name")

        assert await client.answer_close() == (1011, "")
        await witness.one_closed()
        assert [type(crash) for crash in witness.crashes] == [LookupError]


async def test_a_plain_function_that_blocks_for_too_long_is_left_in_its_thread() -> None:
    actor, websocket = functions()
    go_on = threading.Event()
    websocket.on("message")(lambda ws, message: go_on.wait(DEADLINE))

    async with (
        serving(actor, policy=Policy(timeouts=Timeouts(handler=0.05))) as (server, witness),
        raw_client(server) as client,
    ):
        await client.send("block")

        assert await client.answer_close() == (1011, "")
        closed = await witness.one_closed()
        go_on.set()
        assert closed.report.exit_reason is ExitReason.HANDLER_TIMEOUT


async def test_the_end_of_a_monitored_actor_is_not_sent_to_the_peer() -> None:
    actor, websocket = functions()
    refs: list[ActorRef] = []

    @websocket.on("connect")
    def connect(ws: FunctionActor) -> None:
        for other in refs:
            ws.ref.monitor(other)
        refs.append(ws.ref)

    async with serving(actor) as (server, witness), raw_client(server) as first:
        await until(lambda: len(refs) == 1)
        async with raw_client(server) as second:
            await until(lambda: len(refs) == 2)
            await first.send_close(1000)
            await witness.one_closed()
            refs[1].tell("next")

            assert (await second.frame()).text == "next"
            assert witness.crashes == []


# -- what functions name -----------------------------------------------------------------------


class Colour(Enum):
    RED = "red"


def needs_all(
    ws: FunctionActor,
    room: str,
    count: int,
    ratio: float = 0.5,
    loud: bool = False,
    tags: list[int] = [],  # noqa: B006  # as people write it
    colour: Colour | None = None,
    *,
    untyped="x",  # type: ignore[no-untyped-def]
) -> list[object]:
    return [room, count, ratio, loud, tags, colour.name if colour else None, untyped]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/blue?count=3", ["blue", 3, 0.5, False, [], None, "x"]),
        ("/a%20b?count=3&ratio=2&loud=yes", ["a b", 3, 2.0, True, [], None, "x"]),
        ("/b?count=1&count=2&tags=1&tags=2", ["b", 2, 0.5, False, [1, 2], None, "x"]),
        ("/b?room=other&count=1&colour=red&untyped=", ["b", 1, 0.5, False, [], "RED", ""]),
    ],
)
async def test_parameters_of_the_path_and_the_query_come_by_name_and_type(
    target: str, expected: list[object]
) -> None:
    actor, websocket = functions()
    websocket.on("connect")(needs_all)

    async with serving({"/:room": actor}) as (server, _), raw_client(server, target) as client:
        assert json.loads((await client.frame()).text) == expected


def raising(error: Exception) -> Callable[[str], object]:
    def convert(text: str) -> object:
        raise error

    return convert


@pytest.mark.parametrize(
    "convert",
    [
        Decimal,  # raises InvalidOperation
        *map(raising, (OverflowError(), RecursionError(), AttributeError(), LookupError(), Exception("x"))),
    ],
)
async def test_whatever_a_conversion_raises_is_the_clients_fault_and_names_the_parameter(
    convert: Callable[[str], object],
) -> None:
    actor, websocket = functions()

    def connect(ws: FunctionActor, price: object) -> None: ...

    connect.__annotations__["price"] = convert
    websocket.on("connect")(connect)

    async with serving({"/": actor}) as (server, witness), raw_client(server, "/?price=much") as client:
        assert await client.answer_close() == (1008, "parameter with a wrong value: price")
        assert witness.crashes == []


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("", "missing parameter: count"),
        ("count=three", "parameter with a wrong value: count"),
        ("count=1&loud=perhaps", "parameter with a wrong value: loud"),
        ("count=1&tags=1&tags=two", "parameter with a wrong value: tags"),
        ("count=1&colour=blue", "parameter with a wrong value: colour"),
    ],
)
async def test_a_connection_without_what_a_function_names_is_closed_with_1008(
    query: str, reason: str
) -> None:
    actor, websocket = functions()
    called = []
    websocket.on("connect")(lambda ws: called.append("connect"))
    websocket.on("close")(lambda ws: called.append("close"))

    @websocket.on("message")
    def message(
        ws: FunctionActor,
        message: str,
        count: int,
        loud: bool = False,
        colour: Colour = Colour.RED,
        *,
        tags: list[int] = (),
    ) -> None: ...

    async with serving({"/": actor}) as (server, witness), raw_client(server, f"/?{query}") as client:
        assert await client.answer_close() == (1008, reason)
        await witness.one_closed()

    assert called == []


async def test_dependencies_and_the_query_come_by_name_to_every_function() -> None:
    server = serve({})
    dependencies = {"global_dependencies": {"database": "db"}, "router_dependencies": {"cache": "c"}}
    websocket = FunctionRoute("/ws", server.registry, server.publish, dependencies=lambda: dependencies)
    closed = []

    @websocket.on("connect")
    def connect(ws: FunctionActor, query_params: Any, global_dependencies: Any) -> str:
        return f"{query_params['name']} {global_dependencies['database']}"

    @websocket.on("message")
    def message(ws: FunctionActor, message: str, router_dependencies: Any, params: QueryParams) -> str:
        return f"{message} {router_dependencies['cache']} {params['name']}"

    @websocket.on("close")
    def close(ws: FunctionActor, global_dependencies: Any) -> None:
        closed.append(global_dependencies["database"])

    async with serving(websocket.actor) as (running, witness), raw_client(running, "/?name=Ada") as client:
        await client.send("hello")
        assert [(await client.frame()).text for _ in range(2)] == ["Ada db", "hello c Ada"]
        await client.send_close(1000)
        await witness.one_closed()

    assert closed == ["db"]


async def test_dependencies_are_those_of_the_moment_when_the_connection_opens() -> None:
    server = serve({})
    dependencies = {"global_dependencies": {}}
    websocket = FunctionRoute("/ws", server.registry, server.publish, dependencies=lambda: dependencies)
    websocket.on("connect")(lambda ws, global_dependencies: global_dependencies["added"])

    async with serving(websocket.actor) as (running, _):
        dependencies["global_dependencies"]["added"] = "later"
        async with raw_client(running) as client:
            assert (await client.frame()).text == "later"


def test_a_type_that_nothing_can_be_made_of_is_refused() -> None:
    _, websocket = functions()

    def connect(ws: FunctionActor, when: int | str) -> None: ...

    with pytest.raises(TypeError, match=r"parameter 'when': of .* nothing can be made from text"):
        websocket.on("connect")(connect)


QUERY = "a=1&b=2.5&c=true&d=x&e=1&e=2&f=&g=OFF"


@pytest.mark.parametrize(
    ("annotation", "default", "name"),
    [
        (annotation, default, name)
        for name in "abcdefgh"
        for annotation in (str, int, float, bool, list[int], list[str], int | None, Parameter.empty)
        for default in (Parameter.empty, None)
    ],
)
def test_values_of_the_query_are_what_robyn_makes_of_them(annotation: Any, default: Any, name: str) -> None:
    parameter = Parameter(name, Parameter.KEYWORD_ONLY, annotation=annotation, default=default)

    def ours() -> Any:
        function = lambda ws, **values: None  # noqa: E731
        ws = Parameter("ws", Parameter.POSITIONAL_OR_KEYWORD)
        function.__signature__ = Signature([ws, parameter])  # type: ignore[attr-defined]
        _, websocket = functions()
        websocket.on("connect")(function)
        request = Request("/", query_params=QueryParams(parse_qsl(QUERY, keep_blank_values=True)))
        try:
            return websocket.keywords_for(request)["connect"][name]
        except Exception:
            return "refused"

    def robyns() -> Any:
        query = robyn.QueryParams()
        for key, value in parse_qsl(QUERY, keep_blank_values=True):
            query.set(key, value)
        try:
            return resolve_individual_params({name: parameter}, query, None, set())[name]
        except QueryParamValidationError:
            return "refused"

    assert ours() == robyns()


# -- Robyn's names -------------------------------------------------------------------------------


@asynccontextmanager
async def room_of(*names: str) -> AsyncIterator[dict[str, RawClient]]:
    """Clients of one WebSocket whose messages are commands: which method, to whom, what."""
    async with serving({}) as (server, _), AsyncExitStack() as stack:
        websocket = FunctionRoute("/ws", server.registry, server.publish)
        ids: dict[str, str] = {}

        @websocket.on("connect")
        def connect(ws: FunctionActor, name: str) -> None:
            ids[name] = ws.id

        @websocket.on("message")
        async def message(ws: FunctionActor, text: str) -> None:
            method, _, to = text.partition(" ")
            arguments = (ids.get(to, to),) if to else ()
            data = {"send_json": {"a": 1}}.get(method, b"data" if "bytes" in method else "data")
            result = getattr(ws, method)(*arguments, data)
            if inspect.isawaitable(result):
                await result

        server.site.router.add("/ws", websocket.actor)
        clients = {}
        for name in names:
            clients[name] = await stack.enter_async_context(raw_client(server, f"/ws?name={name}"))
        await until(lambda: len(ids) == len(names))
        yield clients


@pytest.mark.parametrize(
    "method", ["sync_send_to", "async_send_to", "sync_send_bytes_to", "async_send_bytes_to"]
)
async def test_robyns_send_to_sends_to_one_connection_and_to_nobody_when_it_is_gone(method: str) -> None:
    async with room_of("ada", "bob") as clients:
        await clients["ada"].send(f"{method} nobody")
        await clients["ada"].send(f"{method} bob")
        await clients["ada"].send(f"{method} ada")

        for client in clients.values():
            assert (await client.frame()).payload == b"data"


@pytest.mark.parametrize(
    "method",
    ["sync_broadcast", "async_broadcast", "sync_broadcast_bytes", "async_broadcast_bytes", "broadcast"],
)
async def test_robyns_broadcast_sends_to_every_connection_of_the_websocket(method: str) -> None:
    async with room_of("ada", "bob", "eve") as clients:
        await clients["ada"].send(method)

        for client in clients.values():
            assert (await client.frame()).payload == b"data"


@pytest.mark.parametrize(
    ("method", "frame"),
    [
        ("send_text", Frame(TEXT, b"data")),
        ("send_bytes", Frame(BINARY, b"data")),
        ("send_json", Frame(TEXT, b'{"a":1}')),
    ],
)
async def test_robyns_send_methods_send(method: str, frame: Frame) -> None:
    async with room_of("ada") as clients:
        await clients["ada"].send(method)

        assert await clients["ada"].frame() == frame


@pytest.mark.parametrize("name", ["receive_text", "receive_bytes", "receive_json", "message_channel"])
def test_what_robyn_has_and_we_do_not_says_what_to_use_instead(name: str) -> None:
    actor, _ = functions()

    with pytest.raises(AttributeError, match=rf'{name}: messages are not fetched: .* on\("message"\)'):
        getattr(actor(), name)


def test_an_attribute_that_was_never_set_is_an_error_that_names_it() -> None:
    actor, _ = functions()

    with pytest.raises(AttributeError, match="user: nobody has set it"):
        _ = actor().user


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
        ("connect", lambda ws, other, /: None, r"\(ws\)"),
        ("message", lambda ws: None, r"\(ws, message\)"),
        ("message", lambda: None, r"\(ws, message\)"),
        ("close", lambda: None, r"\(ws, report\)"),
        ("close", lambda ws, report, other, /: None, r"\(ws, report\)"),
    ],
)
def test_a_function_that_takes_other_arguments_is_refused(
    event: str, function: Callable[..., Any], called_with: str
) -> None:
    _, websocket = functions()

    with pytest.raises(
        TypeError, match=f"the function for '{event}' is called with {called_with} and what it names, but"
    ):
        websocket.on(event)(function)

    assert event not in websocket.functions


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
    _, first = functions()
    _, second = functions()

    first.on("connect")(lambda ws: None)

    assert list(first.functions) == ["connect"]
    assert list(second.functions) == []


def test_a_function_with_a_yield_is_refused_when_it_is_registered() -> None:
    def plain(ws: Any, message: str) -> Any:
        yield "lost"

    async def later(ws: Any, message: str) -> Any:
        yield "lost"

    _, route = functions()
    for function in (plain, later):
        with pytest.raises(TypeError, match="event: the function for 'message' has a yield in it"):
            route.on("message")(function)


async def test_a_function_that_returns_what_cannot_be_sent_is_a_crash_that_names_it() -> None:
    actor, route = functions()

    @route.on("message")
    def answer(ws: Any, message: str) -> Any:
        return 5

    async with serving(actor) as (server, witness), raw_client(server) as client:
        await client.send("go")

        assert await client.answer_close() == (1011, "")
        (error,) = witness.crashes
        assert str(error).startswith("the function for 'message' of /ws returned what cannot be sent: ")
        assert "int" in str(error)


async def test_what_the_function_for_close_returns_is_said_to_be_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    actor, route = functions()

    @route.on("close")
    def over(ws: Any) -> Any:
        return "bye"

    @route.on("connect")
    def opened(ws: Any) -> Any:
        return ws.close(4000)

    async with serving(actor) as (server, witness), raw_client(server) as client:
        assert await client.answer_close() == (4000, "")
        await witness.one_closed()

    assert "on_close returned a str, and nobody takes it" in caplog.text
