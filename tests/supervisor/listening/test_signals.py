"""SIGTERM and SIGINT to a program that waits in ``serve_forever``: real processes, real signals."""

from __future__ import annotations

import re
import signal
import threading
import time
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from websockets.sync.client import connect

from actors import ActorMisuse, ConnectionActor
from supervisor import serve
from supervisor.listening import signals
from tests.programs import Program, close_of, program
from tests.raw import DEADLINE, RawClient

APP = """
import logging, signal, sys
from functools import partial
import anyio
from actors import ConnectionActor
from supervisor import Drain, Policy, Timeouts, serve

logging.basicConfig(level=logging.INFO)

class Echo(ConnectionActor):
    async def on_message(self, message):
        if message == "block":
            import time
            print("blocks", flush=True)
            time.sleep(3600)
        await self.send(message)

async def main(what):
    before = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    drain = Drain(within=30, spread=30, hurry=0.2, reason="until later") if what == "drain" else None
    policy = Policy(timeouts=Timeouts(close=60))
    async with serve({"/": Echo}, policy=policy) as server:
        print("port", server.port, flush=True)
        await server.serve_forever(drain=drain)
        print("returned", flush=True)
    assert before == [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    print("left", flush=True)

async def own(number):
    with anyio.open_signal_receiver(number) as received:
        async with serve({"/": Echo}) as server, anyio.create_task_group() as group:
            async def wait():
                await anext(received)
                print("mine", flush=True)
                server.stop()
            group.start_soon(wait)
            print("port", server.port, flush=True)
            await server.serve_forever()
    print("left", flush=True)

backend, what = sys.argv[1:]
loop = {"backend": "trio"} if backend == "trio" else {"backend_options": {"use_uvloop": backend == "uvloop"}}
anyio.run(partial(own, signal.SIGTERM) if what == "own" else partial(main, what), **loop)
"""
LOOPS = ["asyncio", "uvloop", "trio"]
BOTH = [signal.SIGTERM, signal.SIGINT]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    script = tmp_path_factory.mktemp("signals") / "app.py"
    script.write_text(APP)
    return script


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    return request.param


def serving(running: Program) -> str:
    port = running.port(r"port (\d+)")
    return f"ws://127.0.0.1:{port}/"


@pytest.mark.parametrize("number", BOTH)
def test_a_signal_ends_serve_forever_and_the_clients_see_1001(
    app: Path, loop: str, number: signal.Signals
) -> None:
    with program(app, loop, "plain") as running:
        with connect(serving(running)) as client:
            client.send("hello")
            assert client.recv(DEADLINE) == "hello"
            running.signal(number)
            close = close_of(client)
        status = running.status()

    assert close == (1001, "server shutting down")
    assert status == 0
    assert re.search("(?s)returned\n.*left\n", running.output)
    assert "Traceback" not in running.output


def test_a_drain_is_hurried_by_a_second_signal(app: Path, loop: str) -> None:
    with program(app, loop, "drain") as running:
        with connect(serving(running)) as client:
            running.signal(signal.SIGTERM)
            running.wait_for("draining 1 connections")
            running.signal(signal.SIGTERM)
            close = close_of(client)
        status = running.status()

    assert (close, status) == ((1012, "until later"), 0)


def test_a_second_signal_drops_a_client_that_does_not_answer_the_close(app: Path, loop: str) -> None:
    async def silent() -> None:
        client = await RawClient.dial(port)
        await client.request()
        running.signal(signal.SIGTERM)
        await anyio.to_thread.run_sync(running.wait_for, "closing 1 connections")
        running.signal(signal.SIGINT)
        assert await anyio.to_thread.run_sync(running.status) == 0
        client.close()

    with program(app, loop, "plain") as running:
        port = running.port(r"port (\d+)")
        anyio.run(silent)


def test_a_third_signal_does_what_it_did_before_also_while_a_plain_function_blocks(
    app: Path, loop: str
) -> None:
    with program(app, loop, "plain") as running:
        with connect(serving(running), close_timeout=0.1) as client:
            client.send("block")
            running.wait_for("blocks")
            running.signal(signal.SIGTERM)
            running.wait_for(r"the event loop stands still since .*app\.py:\d+ in on_message")
            while running.process.poll() is None:  # two of them, unless they come together
                running.signal(signal.SIGTERM)
                time.sleep(0.05)
            client.socket.close()
        assert running.status() == -signal.SIGTERM


def test_a_program_with_a_handler_of_its_own_keeps_it(app: Path, loop: str) -> None:
    with program(app, loop, "own") as running:
        with connect(serving(running)) as client:
            running.signal(signal.SIGTERM)
            assert close_of(client) == (1001, "server shutting down")
        assert running.status() == 0

    assert re.search("(?s)mine\n.*left\n", running.output)


class Echo(ConnectionActor):
    async def on_message(self, message: str) -> None:
        await self.send(message)


@pytest.mark.every_runtime
async def test_the_handlers_are_given_back_also_when_two_servers_share_them() -> None:
    async def wait(server: object) -> None:
        await server.serve_forever()  # type: ignore[attr-defined]

    before = [signal.getsignal(number) for number in BOTH]
    async with serve({"/": Echo}) as one, serve({"/": Echo}) as two:
        async with anyio.create_task_group() as group:
            group.start_soon(wait, one)
            group.start_soon(wait, two)
            await anyio.wait_all_tasks_blocked()
            assert all(signal.getsignal(number) is signals._handle for number in BOTH)
            signal.raise_signal(signal.SIGTERM)  # ends both
        assert all(signal.getsignal(number) is signals._handle for number in BOTH)
    assert [signal.getsignal(number) for number in BOTH] == before


@pytest.mark.every_runtime
async def test_a_handler_that_was_put_over_ours_stays() -> None:
    def mine(*_: object) -> None: ...

    before = signal.getsignal(signal.SIGTERM)
    try:
        async with serve({"/": Echo}) as server:
            server.stop()
            await server.serve_forever()
            signal.signal(signal.SIGTERM, mine)
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.every_runtime
async def test_signals_can_be_left_alone() -> None:
    before = [signal.getsignal(number) for number in BOTH]
    async with serve({"/": Echo}) as server:
        server.stop()
        await server.serve_forever(signals=False)
        assert [signal.getsignal(number) for number in BOTH] == before


def test_a_server_on_another_thread_takes_none() -> None:
    async def main() -> None:
        async with serve({"/": Echo}) as server:
            server.stop()
            await server.serve_forever()
            taken.append([signal.getsignal(number) for number in BOTH] != before)

    taken: list[bool] = []
    before = [signal.getsignal(number) for number in BOTH]
    thread = threading.Thread(target=anyio.run, args=(main,))
    thread.start()
    thread.join(DEADLINE)

    assert taken == [False]


# -- before the start and after the end ------------------------------------------------------


@pytest.mark.parametrize("name", ["port", "addresses", "connections", "tree", "refused"])
def test_a_property_before_the_start_says_so(name: str) -> None:
    with pytest.raises(ActorMisuse, match=f"^{name}: this server has not been started; use it inside of"):
        getattr(serve({"/": Echo}), name)


@pytest.mark.parametrize(
    ("name", "arguments"), [("publish", ("topic", "x")), ("hurry", (1.0,)), ("stop", ())]
)
def test_a_method_before_the_start_says_so(name: str, arguments: tuple[object, ...]) -> None:
    with pytest.raises(ActorMisuse, match=rf"^{name}\(\): this server has not been started"):
        getattr(serve({"/": Echo}), name)(*arguments)


@pytest.mark.parametrize("name", ["drain", "serve_forever", "stop_listening"])
async def test_an_async_method_before_the_start_says_so(name: str) -> None:
    with pytest.raises(ActorMisuse, match=rf"^{name}\(\): this server has not been started"):
        await getattr(serve({"/": Echo}), name)()


async def test_after_the_end_what_needs_a_running_server_says_so_and_the_rest_can_be_read() -> None:
    async with serve({"/": Echo}) as server:
        port = server.port

    for name in ("drain", "serve_forever"):
        with pytest.raises(ActorMisuse, match=rf"^{name}\(\): this server has ended"):
            await getattr(server, name)()
    server.publish("topic", "x")
    server.stop()
    assert (server.port, len(server.connections), dict(server.refused)) == (port, 0, {})
    assert not server.ready
    with pytest.raises(ActorMisuse, match=r"this server has ended; call serve\(\) again"):
        async with server:
            pass


async def test_a_server_runs_once_whichever_way_it_is_started() -> None:
    async with serve({"/": Echo}) as server:
        with pytest.raises(ActorMisuse, match="this server runs already"):
            await server.run()
        with pytest.raises(ActorMisuse, match="this server runs already"):
            async with server:
                pass
        assert server.ready
