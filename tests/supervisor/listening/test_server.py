"""``serve()`` over loopback: addresses, requests, the surrounding program, policies, what is logged."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio
from anyio.abc import TaskStatus

from actors import Actor, CloseReport, ConnectionActor, ExitReason, Initiator, Refusal, Request
from supervisor import Admission, ChildSpec, Policy, Route, Server, Timeouts, serve
from supervisor.events import (
    ConnectionClosed,
    ConnectionOpened,
    Event,
    ServerStarted,
    ServerStopped,
    UpgradeRefused,
    log_event,
)
from tests.raw import CLOSE, DEADLINE, TEXT, RawClient, encode, encode_close, raw_client
from tests.supervisor.sites import UPGRADE
from tests.witness import open_sockets, running_tasks, serving, until

pytestmark = pytest.mark.every_runtime


class Echo(ConnectionActor):
    async def on_message(self, message: str | bytes) -> None:
        await self.send(message)


class Late(ConnectionActor):
    """Never ends its handler by itself."""

    async def on_message(self, message: str | bytes) -> None:
        await anyio.sleep_forever()


async def echoes(client: RawClient) -> bool:
    """Whether a message comes back."""
    await client.send("echo")
    return (await client.frame()).text == "echo"


async def status_of(address: Any, target: str = "/", **headers: str) -> tuple[int, dict[str, str], str]:
    """Ask for an upgrade that is refused; give status, header fields and body."""
    client = await RawClient.dial(address)
    try:
        status = await client.request(
            target, {name.replace("_", "-"): value for name, value in headers.items()}
        )
        body = await client.rest_of_bytes()
    finally:
        client.close()
    return status, client.headers, body.decode()


# -- addresses ---------------------------------------------------------------------------------


async def test_port_zero_takes_a_free_port_and_tells_it() -> None:
    async with serving(Echo) as (server, _), raw_client(("127.0.0.1", server.port)) as client:
        assert server.port > 0
        assert server.addresses == (f"127.0.0.1:{server.port}",)
        assert await echoes(client)


async def test_a_host_with_several_addresses_has_one_port_on_all_of_them() -> None:
    async with serving(Echo, host="localhost", port=0) as (server, witness):
        hosts = [address.rpartition(":")[0].strip("[]") for address in server.addresses]
        for host in hosts:
            async with raw_client((host, server.port)) as client:
                assert await echoes(client)

    assert "127.0.0.1" in hosts
    assert {address.rpartition(":")[2] for address in server.addresses} == {str(server.port)}
    assert witness.of(ServerStarted) == [ServerStarted(server.addresses)]


async def test_a_port_in_use_is_an_error_that_names_it_and_changes_nothing() -> None:
    async with serving(Echo) as (first, _):
        with pytest.raises(OSError, match=rf"^\[Errno \d+\] port: 127\.0\.0\.1:{first.port} is in use$"):
            async with serve({"/": Echo}, port=first.port):
                raise AssertionError("not reached")
        async with raw_client(first) as client:
            assert await echoes(client)


async def test_an_unknown_host_is_an_error_that_names_it() -> None:
    with pytest.raises(OSError, match=r"host: 'no\.such\.host\.invalid' is not a host name"):
        async with serve({"/": Echo}, host="no.such.host.invalid"):
            raise AssertionError("not reached")


@pytest.mark.parametrize("port", [-1, 65536, "80", True])
async def test_a_port_that_is_none_is_an_error_that_names_it(port: Any) -> None:
    with pytest.raises(ValueError, match=r"^port: "):
        async with serve({"/": Echo}, port=port):
            raise AssertionError("not reached")


async def test_a_unix_socket_is_served_and_removed(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")

    async with serving(Echo, unix=path) as (server, witness):
        async with raw_client(path) as client:
            assert await echoes(client)
        assert server.addresses == (f"unix:{path}",)
        with pytest.raises(AttributeError, match="Unix socket"):
            _ = server.port

    assert not (tmp_path / "socket").exists()
    assert witness.of(ConnectionOpened)[0].client == "unix"


async def test_the_unix_socket_of_a_dead_server_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)

    async with serving(Echo, unix=tmp_path / "socket"), raw_client(path) as client:
        assert await echoes(client)


async def test_the_unix_socket_of_a_live_server_and_a_file_are_left_alone(tmp_path: Path) -> None:
    path, file = str(tmp_path / "socket"), tmp_path / "file"
    file.write_text("precious")

    async with serving(Echo, unix=path):
        for taken in (path, str(file)):
            with pytest.raises(OSError, match=f"unix: '{taken}' cannot be bound"):
                async with serve({"/": Echo}, unix=taken):
                    raise AssertionError("not reached")
        async with raw_client(path) as client:
            assert await echoes(client)

    assert file.read_text() == "precious"


@pytest.mark.parametrize("listening", [True, False])
async def test_a_given_socket_is_taken_over(listening: bool) -> None:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    if listening:
        sock.listen()

    async with serving(Echo, sock=sock) as (server, _):
        assert server.port == sock.getsockname()[1]
        async with raw_client(server) as client:
            assert await echoes(client)

    assert sock.fileno() == -1


async def test_a_given_socket_that_cannot_listen_is_an_error_that_names_the_option() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))

        with pytest.raises((ValueError, OSError), match="sock: "):
            async with serve({"/": Echo}, sock=sock):
                raise AssertionError("not reached")


async def asynchronous(event: Event) -> None:
    """No hook: nobody would await it."""


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"port": 0, "unix": "/tmp/x"}, ValueError, "^port and unix: "),
        ({"policy": {"idle": 3}}, TypeError, "^policy: "),
        ({"ssl": True}, TypeError, "^ssl: "),
        ({"children": [Echo]}, TypeError, "^actor: Echo needs a WebSocket"),
        ({"children": ["clock"]}, TypeError, "^actor: a subclass of actors.Actor or a Supervisor"),
        ({"admission": 3}, TypeError, "^admission: "),
        ({"ready_path": "ready"}, ValueError, "^ready_path: a path begins with '/'"),
        ({"ready_path": 3}, TypeError, "^ready_path: a path"),
        ({"hooks": log_event}, TypeError, "^hooks: a list of functions of one event"),
        ({"hooks": ["log"]}, TypeError, "^hooks: plain functions of one event, 'log' is none"),
        ({"hooks": [log_event, asynchronous]}, TypeError, "^hooks: plain functions of one event, <function"),
        (
            {"children": [ChildSpec(Actor, name="twice"), ChildSpec(Actor, name="twice")]},
            ValueError,
            "^children: two of them are called 'twice'",
        ),
    ],
)
async def test_options_that_cannot_work_are_errors_at_once(
    options: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        serve({"/": Echo}, **options)


@pytest.mark.parametrize(
    ("routes", "error", "match"),
    [
        ({"chat": Echo}, ValueError, "^route: a path begins with '/'"),
        ({"/a/:x": Echo, "/a/:y": Echo}, ValueError, "^route: '/a/:y' is registered twice"),
        ({"/a": Echo, "/a/": Echo}, ValueError, "^route: '/a/' is registered twice"),
        ({"/": Actor}, TypeError, "^route: a subclass of actors.ConnectionActor"),
        ({"/": type("Coded", (Echo,), {"codec": "yaml"})}, ValueError, r"^Coded\.codec='yaml' is not known"),
    ],
)
async def test_routes_that_cannot_work_are_errors_at_once(
    routes: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        serve(routes)


# -- requests ----------------------------------------------------------------------------------


class Room(ConnectionActor):
    async def on_connect(self) -> None:
        await self.send(f"{self.path_params['room']} {self.query_params.get('as')} {self.request.path}")


async def test_a_route_has_parameters_and_a_fixed_segment_wins() -> None:
    async with serving({"/rooms/:room": Room, "/rooms/lobby": Echo}) as (server, _):
        async with raw_client(server, "/rooms/a%20b?as=me%26you") as client:
            assert (await client.frame()).text == "a b me&you /rooms/a b"
        async with raw_client(server, "/rooms/lobby") as client:
            assert await echoes(client)


async def test_an_unknown_path_gets_404() -> None:
    async with serving({"/rooms/:room": Room}) as (server, witness):
        status, _, body = await status_of(server, "/rooms")

    assert status == 404
    assert body == "no WebSocket at this path\n"
    refused = witness.of(UpgradeRefused)[0]
    assert (refused.path, refused.status) == ("/rooms", 404)


async def test_a_plain_request_gets_426() -> None:
    async with serving(Echo) as (server, _):
        status, headers, _ = await status_of(server, Upgrade="", Connection="close")

    assert status == 426
    assert headers["upgrade"] == "websocket"


async def test_another_version_gets_426_and_the_version_that_works() -> None:
    async with serving(Echo) as (server, _):
        status, headers, _ = await status_of(server, Sec_WebSocket_Version="8")

    assert status in (400, 426)
    assert headers["sec-websocket-version"] == "13"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 101 + b"\r\n",
        b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 40_000,
    ],
    ids=["TLS", "no colon", "no path", "POST", "fields", "line", "head"],
)
async def test_what_is_no_upgrade_gets_a_status_and_the_end(request_bytes: bytes) -> None:
    async with serving(Echo) as (server, _):
        client = await RawClient.dial(server)
        try:
            await client.send_bytes(request_bytes)
            status, _ = await client.read_head()
            await client.rest_of_bytes()
        finally:
            client.close()
        async with raw_client(server) as neighbour:
            assert await echoes(neighbour)

    assert 400 <= status < 500
    assert client.over == "eof"


async def test_a_request_may_come_byte_by_byte() -> None:
    async with serving(Echo) as (server, _):
        client = await RawClient.dial(server)
        try:
            for byte in (
                b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
                b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            ):
                await client.send_bytes(bytes([byte]))
                await anyio.lowlevel.checkpoint()
            status, _ = await client.read_head()
            assert await echoes(client)
        finally:
            client.close()

    assert status == 101


async def test_frames_may_come_right_behind_the_request() -> None:
    class Slow(Echo):
        @classmethod
        async def on_upgrade(cls, request: Request) -> None:
            await anyio.sleep(0.01)

    async with serving({"/": Echo, "/slow": Slow}) as (server, _):
        for target in ("/", "/slow"):
            client = await RawClient.dial(server)
            try:
                behind = encode(TEXT, b"hi") + encode_close(4001, "bye")
                await client.request(target, behind=behind)
                frames = await client.rest()
            finally:
                client.close()

            assert frames[-1].close == (4001, "bye")
            assert [frame.opcode for frame in frames] in ([TEXT, CLOSE], [CLOSE])


# -- on_upgrade --------------------------------------------------------------------------------


async def test_a_refusal_is_a_real_status_with_its_reason_and_headers() -> None:
    class Guarded(Echo):
        @classmethod
        async def on_upgrade(cls, request: Request) -> Refusal | None:
            if "token" not in request.query_params:
                return Refusal(401, "token required", {"WWW-Authenticate": "Bearer"})
            request.state["token"] = request.query_params["token"]
            return None

        async def on_connect(self) -> None:
            await self.send(self.request.state["token"])

    async with serving(Guarded) as (server, witness):
        status, headers, body = await status_of(server)
        async with raw_client(server, "/?token=secret") as client:
            first = await client.frame()

    assert (status, headers["www-authenticate"], body) == (401, "Bearer", "token required\n")
    assert first.text == "secret"
    assert [(event.status, event.reason) for event in witness.of(UpgradeRefused)] == [(401, "token required")]


async def test_a_plain_function_may_refuse() -> None:
    class Closed(Echo):
        @classmethod
        def on_upgrade(cls, request: Request) -> Refusal:
            return Refusal(403)

    async with serving(Closed) as (server, _):
        status, _, body = await status_of(server)

    assert (status, body) == (403, "Forbidden\n")


class Stop(BaseException):
    pass


@pytest.mark.parametrize("error", [ValueError, Stop, SystemExit, asyncio.CancelledError, "no refusal"])
async def test_an_on_upgrade_that_fails_is_answered_500_and_harms_nobody(
    error: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Echo):
        @classmethod
        async def on_upgrade(cls, request: Request) -> Any:
            if isinstance(error, str):
                return error
            raise error("a detail that stays here")

    async with serving({"/": Echo, "/broken": Broken}) as (server, _), raw_client(server) as neighbour:
        status, _, body = await status_of(server, "/broken")
        assert await echoes(neighbour)

    assert status == 500
    assert "detail" not in body
    assert "Broken.on_upgrade failed" in caplog.text


async def test_an_on_upgrade_is_cancelled_when_its_peer_goes_away() -> None:
    began, cancelled = anyio.Event(), anyio.Event()

    class Waiting(Echo):
        @classmethod
        async def on_upgrade(cls, request: Request) -> None:
            began.set()
            try:
                await anyio.sleep_forever()
            finally:
                cancelled.set()

    async with serving(Waiting) as (server, _):
        client = await RawClient.dial(server)
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(began.wait)
            await client.send_bytes(
                b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
                b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
        client.close()
        with anyio.fail_after(DEADLINE):
            await cancelled.wait()
        await until(lambda: not server.site.upgrades)


# -- subprotocols ------------------------------------------------------------------------------


class Spoken(ConnectionActor):
    subprotocols = ("v2", "v1")

    async def on_connect(self) -> None:
        await self.send(str(self.request.subprotocol))


@pytest.mark.parametrize(
    ("offered", "agreed"), [("v1, v2", "v2"), ("v1", "v1"), ("v3, v1", "v1"), ("v3", None), ("", None)]
)
async def test_the_first_of_our_subprotocols_that_is_offered_is_agreed(
    offered: str, agreed: str | None
) -> None:
    async with (
        serving(Spoken) as (server, witness),
        raw_client(server, headers={"Sec-WebSocket-Protocol": offered}) as client,
    ):
        said = (await client.frame()).text
        header = client.headers.get("sec-websocket-protocol")

    assert (said, header) == (str(agreed), agreed)
    assert witness.of(ConnectionOpened)[0].subprotocol == agreed


async def test_a_codec_by_subprotocol_decodes_and_without_one_of_them_there_is_400() -> None:
    class Coded(Echo):
        codec = {"json": "json", "msgpack": "msgpack"}  # noqa: RUF012

    async with serving(Coded) as (server, _):
        status, _, body = await status_of(server)
        async with raw_client(server, headers={"Sec-WebSocket-Protocol": "json"}) as client:
            await client.send('{"a":  1}')
            answer = await client.frame()

    assert status == 400
    assert "json, msgpack" in body
    assert answer.text == '{"a":1}'


# -- drain -------------------------------------------------------------------------------------


async def test_a_draining_server_refuses_with_503_and_closes_with_1012() -> None:
    async with (
        serving(Echo, policy=Policy(timeouts=Timeouts(close=0.2))) as (server, witness),
        raw_client(server) as polite,
        raw_client(server) as silent,
    ):
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(polite.answer_close)
            report = await server.drain(within=15, spread=0)
        status, headers, _ = await status_of(server)
        frames = await silent.rest()

    assert (report.total, report.clean, report.timed_out, report.aborted) == (2, 1, 1, 0)
    assert status == 503
    assert int(headers["retry-after"]) > 0
    assert frames[0].close == (1012, "service restart")
    assert {closed.report.exit_reason for closed in witness.closed} == {ExitReason.DRAIN}


# -- the surrounding program -------------------------------------------------------------------


async def test_it_runs_in_the_callers_task_group_beside_other_work() -> None:
    async def other_work() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.sleep(0.001)

    turns = 0
    async with anyio.create_task_group() as task_group:
        task_group.start_soon(other_work)
        async with serving(Echo) as (server, _), raw_client(server) as client:
            assert await echoes(client)
        after_the_block = turns
        await until(lambda: turns > after_the_block)
        task_group.cancel_scope.cancel()


async def serve_echo(*, task_status: TaskStatus[Server]) -> None:
    async with serve({"/": Echo}) as server:
        task_status.started(server)
        await server.serve_forever()


async def test_it_runs_in_a_native_nursery_or_task_group(anyio_backend_name: str) -> None:
    async def use(server: Server) -> None:
        async with raw_client(server) as client:
            assert await echoes(client)
            server.stop()
            closes.append(await client.answer_close())

    closes: list[tuple[int, str]] = []
    if anyio_backend_name == "trio":
        async with trio.open_nursery() as nursery:
            await use(await nursery.start(serve_echo))
    else:
        async with asyncio.TaskGroup() as native, serve({"/": Echo}) as server:
            native.create_task(use(server))
            await server.serve_forever()

    assert closes == [(1001, "server shutting down")]


async def test_it_can_be_started_with_task_group_start_and_ended_by_cancelling() -> None:
    async with anyio.create_task_group() as task_group:
        server: Server = await task_group.start(serve_echo)
        async with raw_client(server) as client:
            assert await echoes(client)
            task_group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                close = await client.answer_close()

    assert close == (1001, "server shutting down")


async def test_stop_ends_serve_forever_from_another_thread() -> None:
    async with serving(Echo) as (server, _):
        thread = threading.Thread(target=server.stop)
        thread.start()
        with anyio.fail_after(DEADLINE):
            await server.serve_forever()
        thread.join()


@pytest.mark.parametrize("error", [LookupError, KeyboardInterrupt, SystemExit, Stop, asyncio.CancelledError])
async def test_an_error_of_the_body_keeps_its_type_and_the_connections_are_closed(
    error: type[BaseException],
) -> None:
    raised = error("of the body")

    with pytest.raises(error) as caught:  # noqa: PT012  # the server is left by the error
        async with serving(Echo, policy=Policy(timeouts=Timeouts(close=0.1))) as (server, witness):
            client = await RawClient.dial(server)
            await client.request()
            raise raised
    frames = await client.rest()
    client.close()

    assert caught.value is raised
    assert frames[0].close == (1001, "server shutting down")
    assert len(witness.closed) == 1


async def test_several_servers_in_one_program_do_not_touch_each_other() -> None:
    async with serving(Echo) as (first, _), raw_client(first) as client:
        async with serving(Echo) as (second, _), raw_client(second) as other:
            assert await echoes(other)
        assert await echoes(client)


async def test_cancelling_the_surrounding_scope_closes_with_1001_and_takes_no_longer_than_the_timeouts() -> (
    None
):
    policy = Policy(timeouts=Timeouts(close=0.2, teardown=0.2))
    clients: list[RawClient] = []

    with anyio.fail_after(DEADLINE), anyio.CancelScope() as scope:
        async with serve({"/": Echo, "/late": Late}, policy=policy) as server:
            for target in ("/", "/late"):
                clients.append(await RawClient.dial(server))
                await clients[-1].request(target)
                await clients[-1].send("hello")
            await until(lambda: len(server.connections) == 2)
            scope.cancel()
            await anyio.sleep_forever()
    closes = [[frame.close for frame in await client.rest() if frame.opcode == CLOSE] for client in clients]
    for client in clients:
        client.close()

    assert scope.cancelled_caught
    assert closes == [[(1001, "server shutting down")]] * 2


async def test_leaving_the_block_leaves_no_task_and_no_socket() -> None:
    sockets, tasks = open_sockets(), running_tasks()
    clients = []

    async with serve({"/": Echo, "/late": Late}, policy=Policy(timeouts=Timeouts(close=0.1))) as server:
        for request in (b"", b"GET / HTT", b"GET / HTTP/1.1\r\n\r\n"):
            clients.append(await RawClient.dial(server))
            await clients[-1].send_bytes(request)
        for target in ("/", "/late"):
            clients.append(await RawClient.dial(server))
            await clients[-1].request(target)
        await clients[-1].send("hello")
        await until(lambda: len(server.connections) == 2)
    for client in clients:
        client.close()

    assert open_sockets() <= sockets
    assert running_tasks() == tasks


async def test_a_connection_that_comes_while_the_server_ends_is_not_left_open() -> None:
    sockets = open_sockets()

    for turns in range(60):
        clients = [socket.socket() for _ in range(5)]
        async with serve({"/": Echo}) as server:
            for client in clients:
                client.setblocking(False)
                client.connect_ex(("127.0.0.1", server.port))
            for _ in range(turns % 12):
                await anyio.lowlevel.checkpoint()
        for client in clients:
            client.close()

        assert open_sockets() <= sockets


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 50])
async def test_a_program_that_is_cancelled_natively_at_any_moment_still_ends_cleanly(
    turns: int, times: int, anyio_backend_name: str
) -> None:
    sockets, tasks = open_sockets(), running_tasks()
    clients: list[RawClient] = []

    async def program() -> None:
        async with serve({"/": Echo}, policy=Policy(timeouts=Timeouts(close=0.05))) as server:
            clients.append(await RawClient.dial(server))
            await clients[-1].request()
            await server.serve_forever()

    async def cancel_after_turns(cancel: Callable[[], object]) -> None:
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
        if turns == 50:
            await until(lambda: clients)
        for _ in range(times):
            cancel()
            await anyio.lowlevel.cancel_shielded_checkpoint()

    with anyio.fail_after(DEADLINE):
        if anyio_backend_name == "asyncio":
            task = asyncio.create_task(program())
            await cancel_after_turns(task.cancel)
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(program)
                await cancel_after_turns(nursery.cancel_scope.cancel)
    for client in clients:
        client.close()

    assert open_sockets() <= sockets
    assert running_tasks() == tasks


# -- children ----------------------------------------------------------------------------------


async def test_services_run_beside_the_connections_and_stop_after_them_in_reverse() -> None:
    trace: list[str] = []

    class Service(Actor):
        def __init__(self, name: str) -> None:
            self.name = name

        async def on_start(self) -> None:
            trace.append(f"start {self.name}")

        async def on_info(self, message: Any) -> Any:
            return f"{self.name} {message}"

        async def on_stop(self) -> None:
            trace.append(f"stop {self.name}")

    class Asking(ConnectionActor):
        async def on_message(self, message: str) -> None:
            await self.send(await services["second"].ask(message))

        async def on_close(self, report: CloseReport) -> None:
            trace.append("close")

    children = [ChildSpec(Service, name=name, args=(name,)) for name in ("first", "second")]
    async with serving(Asking, children=children) as (server, _):
        services = server.registry
        async with raw_client(server) as client:
            await client.send("hello")
            answer = await client.frame()
            await client.send_close()
            await client.rest()
        assert set(services) == {"first", "second"} | {ref.id for ref in server.connections}

    assert answer.text == "second hello"
    assert trace == ["start first", "start second", "close", "stop second", "stop first"]


# -- policies ----------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n"])
async def test_the_handshake_timeout_cuts_a_request_that_does_not_end(sent: bytes) -> None:
    async with serving(Echo, policy=Policy(timeouts=Timeouts(handshake=0.1))) as (server, witness):
        client = await RawClient.dial(server)
        await client.send_bytes(sent)
        answer = await client.rest_of_bytes()
        client.close()
        await until(lambda: not server.site.upgrades)

    assert answer == b""
    assert witness.of(ConnectionOpened) == []


class Waiting(Echo):
    """Never answers an upgrade; the stubborn ones go on when they are cancelled."""

    begun: anyio.Event
    cancelled: anyio.Event
    may_end: anyio.Event

    @classmethod
    def begin(cls) -> None:
        cls.begun, cls.cancelled, cls.may_end = anyio.Event(), anyio.Event(), anyio.Event()

    @classmethod
    async def on_upgrade(cls, request: Request) -> None:
        cls.begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            cls.cancelled.set()
            if "stubborn" in request.query_params:
                with anyio.CancelScope(shield=True):
                    await cls.may_end.wait()


def refusals_of(witness: Any) -> list[tuple[str, int, str]]:
    return [(event.path, event.status, event.reason) for event in witness.of(UpgradeRefused)]


SOON = Policy(timeouts=Timeouts(handshake=0.1, close=0.3))


EACH = pytest.mark.parametrize("target", ["/", "/?stubborn=1"])


@EACH
async def test_an_on_upgrade_that_takes_too_long_is_cancelled_and_its_client_gets_504(
    target: str, caplog: pytest.LogCaptureFixture
) -> None:
    Waiting.begin()
    async with serving(Waiting, policy=SOON) as (server, witness):
        client = await RawClient.dial(server)
        status = await client.request(target)
        rest = await client.rest_of_bytes()
        client.close()
        await until(lambda: not server.site.upgrades)
        with anyio.fail_after(DEADLINE):
            await Waiting.cancelled.wait()
        Waiting.may_end.set()

    assert (status, client.headers["retry-after"], client.headers["connection"]) == (504, "5", "close")
    assert (client.over, rest) == ("eof", b"the application has not answered in time\n")
    assert refusals_of(witness) == [("/", 504, "the application has not answered in time")]
    assert server.refused == {"on_upgrade": 1}
    assert "on_upgrade has not answered '/' within 0.1 s" in caplog.text
    assert witness.of(ConnectionOpened) == []


async def test_a_client_that_does_not_go_after_its_504_is_dropped_after_the_close_timeout() -> None:
    Waiting.begin()
    async with serving(Waiting, policy=SOON) as (server, _):
        client = await RawClient.dial(server)
        assert await client.request() == 504
        await until(lambda: not server.site.upgrades)
        client.close()


@EACH
async def test_a_server_that_stops_answers_the_upgrades_that_it_is_at_with_503(target: str) -> None:
    Waiting.begin()
    answers: list[object] = []

    async def ask(client: RawClient) -> None:
        answers.append(await client.request(target))
        await client.rest_of_bytes()
        client.close()

    async def wait(client: RawClient) -> None:
        await client.send_bytes(b"GET / HTTP/1.1\r\n")
        answers.append(await client.rest_of_bytes())
        client.close()

    async with anyio.create_task_group() as clients, serving(Waiting) as (server, witness):
        client = await RawClient.dial(server)
        clients.start_soon(ask, client)
        clients.start_soon(wait, await RawClient.dial(server))
        with anyio.fail_after(DEADLINE):
            await Waiting.begun.wait()
        await until(lambda: len(server.site.upgrades) == 2)
        Waiting.may_end.set()

    assert answers in ([503, b""], [b"", 503])
    assert (client.headers["retry-after"], client.over) == ("5", "eof")
    assert refusals_of(witness) == [("/", 503, "the server is going down")]
    assert server.refused == {"going_down": 1, "no_request": 1}


async def test_a_request_that_never_came_is_counted_and_a_client_that_left_is_not() -> None:
    async with serving(Echo, policy=SOON) as (server, witness):
        gone = await RawClient.dial(server)
        await gone.send_bytes(b"GET / HTTP/1.1\r\n")
        gone.close()
        await until(lambda: not server.site.upgrades)
        silent = await RawClient.dial(server)
        await silent.rest_of_bytes()
        silent.close()
        await until(lambda: not server.site.upgrades)

    assert server.refused == {"no_request": 1}
    assert refusals_of(witness) == []


async def test_an_upgrade_whose_client_has_ended_its_side_opens_no_connection() -> None:
    Waiting.begin()
    async with serving(Waiting) as (server, witness):
        client = await RawClient.dial(server)
        await client.send_bytes(UPGRADE.replace(b"/ws", b"/"))
        with anyio.fail_after(DEADLINE):
            await Waiting.begun.wait()
        client.finish()
        with anyio.fail_after(DEADLINE):
            await Waiting.cancelled.wait()
        await until(lambda: not server.site.upgrades)
        client.close()

    assert witness.of(ConnectionOpened) == []


async def test_without_a_handshake_timeout_who_does_not_go_after_an_answer_is_dropped_all_the_same() -> None:
    policy = Policy(timeouts=Timeouts(handshake=None, close=0.1))
    async with serving(Echo, policy=policy) as (server, _):
        client = await RawClient.dial(server)
        assert await client.request("/nowhere") == 404
        await until(lambda: not server.site.upgrades)
        client.close()


# -- readiness and HEAD ------------------------------------------------------------------------


async def ask_plainly(server: Any, line: str) -> tuple[int, dict[str, str], bytes]:
    client = await RawClient.dial(server)
    try:
        await client.send_bytes(f"{line} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        status, fields = await client.read_head()
        return status, fields, await client.rest_of_bytes()
    finally:
        client.close()


async def test_a_load_balancer_that_asks_whether_the_server_is_ready_gets_200() -> None:
    async with serving(Echo) as (server, _):
        get = await ask_plainly(server, "GET /-/ready")
        head = await ask_plainly(server, "HEAD /-/ready")
        with anyio.fail_after(DEADLINE):
            await server.drain(within=0)
        drained = await ask_plainly(server, "GET /-/ready")

    assert (get[0], get[2]) == (200, b"ready\n")
    assert (head[0], head[2]) == (200, b"")
    assert head[1]["content-length"] == get[1]["content-length"] == "6"
    assert (drained[0], drained[1]["retry-after"]) == (503, "5")
    assert server.refused == {}


async def test_a_server_that_is_full_is_ready_all_the_same() -> None:
    async with serving(Echo, admission=Admission(max_connections=1)) as (server, _), raw_client(server):
        assert (await ask_plainly(server, "GET /-/ready"))[0] == 200
        client = await RawClient.dial(server)
        assert await client.request() == 503
        client.close()


async def test_the_ready_path_may_be_another_one_or_none() -> None:
    async with serving(Echo, ready_path="/up") as (server, _):
        assert (await ask_plainly(server, "GET /up"))[0] == 200
        assert (await ask_plainly(server, "GET /-/ready"))[0] == 404
    async with serving(Echo, ready_path=None) as (server, _):
        assert (await ask_plainly(server, "GET /-/ready"))[0] == 404


@pytest.mark.parametrize("target", ["/", "/nowhere", "/" + "x" * 9000, "/\nX: y"])
async def test_head_is_answered_without_a_body(target: str) -> None:
    async with serving(Echo) as (server, _):
        status, fields, body = await ask_plainly(server, f"HEAD {target}")

    assert 400 <= status < 500
    assert int(fields["content-length"]) > 0
    assert body == b""


@pytest.mark.parametrize(
    ("timeouts", "close", "exit_reason"),
    [
        (Timeouts(idle=0.1), (1001, "idle timeout"), ExitReason.IDLE),
        (Timeouts(lifetime=0.1), (1001, "lifetime reached"), ExitReason.LIFETIME),
        (Timeouts(assembly=0.1), (1008, "message took too long to arrive"), ExitReason.POLICY_VIOLATION),
    ],
    ids=["idle", "lifetime", "assembly"],
)
async def test_a_timeout_of_the_policy_closes(
    timeouts: Timeouts, close: tuple[int, str], exit_reason: ExitReason
) -> None:
    class Timed(Echo):
        policy = Policy(timeouts=timeouts)

    async with serving(Timed) as (server, witness), raw_client(server) as client:
        assert await echoes(client)
        await client.send_bytes(encode(TEXT, b"half")[:-2])
        frame = await client.frame()
        await client.send_bytes(b"xx" + encode_close(*close))
        rest = await client.rest()
        report = (await witness.one_closed()).report

    assert frame.close == close
    assert rest == []
    assert (report.initiator, report.exit_reason, report.clean) == (Initiator.LOCAL, exit_reason, True)


async def test_a_handler_that_takes_too_long_is_cancelled_and_closed_with_1011() -> None:
    trace: list[str] = []

    class Stuck(ConnectionActor):
        policy = Policy(timeouts=Timeouts(handler=0.1))

        async def on_message(self, message: str) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                trace.append("cancelled")

        async def on_close(self, report: CloseReport) -> None:
            trace.append("on_close")

    async with serving(Stuck) as (server, witness), raw_client(server) as client:
        await client.send("hello")
        close = await client.answer_close()
        closed = await witness.one_closed()

    assert close == (1011, "")
    assert trace == ["cancelled", "on_close"]
    assert closed.report.exit_reason is ExitReason.HANDLER_TIMEOUT
    assert closed.leaks == ()
    assert [type(error).__name__ for error in witness.crashes] == ["HandlerTimeout"]


async def test_the_policy_of_the_class_wins_over_the_route_and_the_route_over_the_server() -> None:
    class Own(Echo):
        policy = Policy(timeouts=Timeouts(idle=0.1))

    off = Policy(timeouts=Timeouts())
    short = Policy(timeouts=Timeouts(idle=0.1))
    routes = {"/class": Route(Own, off), "/route": Route(Echo, short), "/server": Route(Echo, off)}
    async with (
        serving(routes, policy=short) as (server, witness),
        raw_client(server, "/class") as own,
        raw_client(server, "/route") as route,
        raw_client(server, "/server") as patient,
    ):
        closes = [await own.answer_close(), await route.answer_close()]
        await until(lambda: len(witness.closed) == 2)
        assert await echoes(patient)

    assert closes == [(1001, "idle timeout")] * 2


# -- what is logged ----------------------------------------------------------------------------

EXTRA = {
    "connection_id",
    "path",
    "client",
    "initiator",
    "code",
    "reason",
    "clean",
    "exit_reason",
    "opened_for",
    "handshake_took",
    "messages_in",
    "messages_out",
    "undelivered",
    "teardown",
    "leaks",
}


def closing_lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if hasattr(record, "connection_id")]


async def test_the_end_of_a_connection_is_one_line_with_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "supervisor")

    async with (
        serving({"/rooms/:room": Echo}) as (server, witness),
        raw_client(server, "/rooms/a?token=secret") as client,
    ):
        assert await echoes(client)
        await client.send_close(4001, "bye")
        await client.rest()
        closed = await witness.one_closed()

    (record,) = closing_lines(caplog)
    assert record.levelno == logging.INFO
    line = record.getMessage()
    for part in (
        f"connection {closed.id} '/rooms/a' from {closed.client} closed by peer",
        " with 4001 'bye', clean (normal): open ",
        " 1 in, 1 out, ",
    ):
        assert part in line
    assert "secret" not in line
    assert {name: getattr(record, name) for name in EXTRA} == {
        "connection_id": closed.id,
        "path": "/rooms/a",
        "client": closed.client,
        "initiator": "peer",
        "code": 4001,
        "reason": "bye",
        "clean": True,
        "exit_reason": "normal",
        "opened_for": closed.report.opened_for,
        "handshake_took": closed.report.handshake_took,
        "messages_in": 1,
        "messages_out": 1,
        "undelivered": 0,
        "teardown": closed.teardown,
        "leaks": (),
    }


async def test_an_unclean_end_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(Echo) as (server, witness), raw_client(server) as client:
        client.close()
        await witness.one_closed()

    (record,) = closing_lines(caplog)
    assert record.levelno == logging.WARNING
    assert "closed by transport with 1006 '', unclean (connection lost)" in record.getMessage()


async def test_text_of_the_peer_cannot_forge_a_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "supervisor")
    forged = "bye\nWARNING supervisor: connection \x1b[31m\u2028\x85\r"

    async with serving({"/:room": Echo}) as (server, witness):
        async with raw_client(server, "/a%0Ab%E2%80%A8c%1B") as client:
            await client.send_close(4001, forged)
            await client.rest()
            closed = await witness.one_closed()
        await status_of(server, "/x/%0Aforged")

    assert closed.report.reason == forged
    for record in caplog.records:
        assert record.getMessage().isprintable(), record.getMessage()


async def test_a_hook_gets_frozen_events_in_order() -> None:
    async with serving(Echo) as (server, witness):
        async with raw_client(server) as client:
            await client.send_close()
            await client.rest()
        await witness.one_closed()
        await status_of(server, "/nowhere")

    assert [type(event) for event in witness.events] == [
        ServerStarted,
        ConnectionOpened,
        ConnectionClosed,
        UpgradeRefused,
        ServerStopped,
    ]
    for event in witness.events:
        for field in fields(event):
            with pytest.raises((FrozenInstanceError, TypeError)):
                setattr(event, field.name, None)


@pytest.mark.parametrize("error", [ValueError, Stop, SystemExit, asyncio.CancelledError])
async def test_a_failing_hook_does_no_harm(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    def failing(event: object) -> None:
        raise error("a hook's own fault")

    seen: list[object] = []
    async with serve({"/": Echo}, hooks=[failing, seen.append]) as server, raw_client(server) as client:
        assert await echoes(client)
        await client.send_close()
        await client.rest()
        await until(lambda: not server.connections)
        status, _, _ = await status_of(server, "/nowhere")

    assert status == 404
    assert [type(event) for event in seen] == [
        ServerStarted,
        ConnectionOpened,
        ConnectionClosed,
        UpgradeRefused,
        ServerStopped,
    ]
    assert caplog.text.count("failed") >= 5
