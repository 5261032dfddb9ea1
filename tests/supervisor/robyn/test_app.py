"""Robyn apps with supervised WebSockets, as their clients see them; each app is a process of its own."""

from __future__ import annotations

import contextlib
import http.client
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import aiohttp
import anyio
import pytest
from websockets.asyncio.client import connect as asyncio_connect
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from actors import Actor, ActorMisuse, ConnectionActor
from supervisor import Drain
from tests.programs import ROOT, Program, alive, children_of, close_of, program
from tests.raw import DEADLINE, RawClient
from tests.robyn_apps import APP, TWO_PORTS, ask, http_connection, running

with patch.object(sys, "argv", sys.argv[:1]):  # Robyn reads the arguments of the process
    from robyn import Robyn
    from robyn.argument_parser import Config

    from supervisor.robyn import supervise

asyncio_only = pytest.mark.parametrize("anyio_backend", ["asyncio"])


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """One app for all tests that do not end it."""
    with running(tmp_path_factory.mktemp("app"), APP) as started:
        started.port()
        yield started
        assert "Traceback" not in started.output


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """A file with a key and a certificate for localhost, and the context of a client that trusts it."""
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    certificate = path.with_suffix(".crt")
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout {path} -out {certificate}"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    path.write_text(path.read_text() + certificate.read_text())
    return path, ssl.create_default_context(cafile=str(certificate))


# -- HTTP on the same port ---------------------------------------------------------------------


def test_http_is_answered_by_robyn_on_one_connection_that_is_kept_alive(app: Program) -> None:
    with http_connection(app.port()) as connection:
        assert ask(connection, "GET", "/") == (200, b"hello")
        used = connection.sock
        assert ask(connection, "GET", "/async") == (200, b"hello from the event loop")
        assert ask(connection, "POST", "/echo", b"a body") == (200, b"a body")
        assert ask(connection, "GET", "/nothing")[0] == 404
        assert connection.sock is used


def test_large_bodies_go_both_ways(app: Program) -> None:
    body = b"0123456789" * 500_000
    with http_connection(app.port()) as connection:
        assert ask(connection, "GET", "/big") == (200, b"x" * 5_000_000)
        assert ask(connection, "POST", "/echo", body) == (200, body)
        assert ask(connection, "POST", "/echo", iter([body[:7], body[7:]])) == (200, body)  # in chunks


def test_a_client_that_aborts_harms_nobody(app: Program) -> None:
    with http_connection(app.port()) as other:
        ask(other, "GET", "/")
        for request in (
            b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n",
            b"POST /echo HTTP/1.1\r\nContent-Length: 9\r\n\r\nx",
        ):
            with socket.create_connection(("127.0.0.1", app.port())) as client:
                client.sendall(request)
                if request.startswith(b"GET"):
                    client.recv(1)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")

        assert ask(other, "GET", "/") == (200, b"hello")
    with http_connection(app.port()) as connection:
        assert ask(connection, "GET", "/") == (200, b"hello")


def test_a_client_that_ends_its_side_early_still_gets_its_answer(app: Program) -> None:
    with socket.create_connection(("127.0.0.1", app.port()), timeout=DEADLINE) as client:
        client.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        client.shutdown(socket.SHUT_WR)

        with client.makefile("rb") as stream:
            answer = stream.read()

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"slow")


# -- WebSockets --------------------------------------------------------------------------------


def test_an_actor_class_is_served_at_its_routes(app: Program) -> None:
    with connect(f"ws://127.0.0.1:{app.port()}/echo") as client:
        client.send("hello")
        assert client.recv(DEADLINE) == "hello"
    with connect(f"ws://127.0.0.1:{app.port()}/rooms/blue") as client:
        client.send(" sky")
        assert client.recv(DEADLINE) == "blue sky"


def test_a_websocket_at_a_path_of_nobody_is_answered_404(app: Program) -> None:
    with pytest.raises(InvalidStatus) as refused, connect(f"ws://127.0.0.1:{app.port()}/"):
        pass

    assert refused.value.response.status_code == 404


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_pump_ends_with_its_process_whatever_ends_that(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path, APP) as app, http_connection(app.port()) as connection:
        pump = int(app.wait_for(r"HTTP goes through the pump, process (\d+)")[1])
        assert children_of(app.process.pid) == {pump}
        assert ask(connection, "GET", "/") == (200, b"hello")

        app.signal(number)
        app.status()

        with contextlib.suppress(ConnectionError):
            assert connection.sock.recv(1) == b""
        deadline = time.monotonic() + DEADLINE
        while alive(pump):
            assert time.monotonic() < deadline
            time.sleep(0.01)


@asyncio_only
async def test_a_websocket_comes_through_on_a_connection_that_http_used_before(app: Program) -> None:
    client = await RawClient.dial(app.port())
    try:
        await client.send_bytes(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        status, fields = await client.read_head()
        while len(client.wire) - client._read < int(fields["content-length"]):
            await client.receive()
        client._read = len(client.wire)

        upgraded = await client.request("/echo")
        await client.send("the same connection")

        assert (status, upgraded) == (200, 101)
        assert (await client.frame()).text == "the same connection"
    finally:
        client.close()


@asyncio_only
async def test_a_session_of_aiohttp_mixes_http_and_websockets(app: Program) -> None:
    async with aiohttp.ClientSession(f"http://127.0.0.1:{app.port()}") as session:
        for text in ("one", "two", "three"):
            async with session.post("/echo", data=text) as response:
                assert await response.text() == text
            async with session.ws_connect("/echo") as client:
                await client.send_str(text)
                assert await client.receive_str() == text
            assert client.close_code == 1000


def test_a_plain_handler_of_robyn_sends_to_websockets_from_its_own_thread(app: Program) -> None:
    with (
        connect(f"ws://127.0.0.1:{app.port()}/ws") as client,
        http_connection(app.port()) as connection,
    ):
        while ask(connection, "POST", "/tell", b"news") == (200, b"0"):
            pass

        assert client.recv(DEADLINE) == "news"


def test_several_workers_of_robyn_serve_side_by_side_with_websockets(tmp_path: Path) -> None:
    with running(tmp_path, APP, "--workers", "3") as app:
        with contextlib.ExitStack() as stack:
            for _ in range(8):
                connection = stack.enter_context(http_connection(app.port()))
                client = stack.enter_context(connect(f"ws://127.0.0.1:{app.port()}/echo"))
                client.send("hello")

                assert ask(connection, "GET", "/") == (200, b"hello")
                assert client.recv(DEADLINE) == "hello"
        app.signal(signal.SIGTERM)
        assert app.status() == 0


SNIPPET = """
app = Robyn(__file__)
sockets = supervise(app)                           # takes what serve() takes

@sockets.route("/chat")
class Chat(ConnectionActor): ...

websocket = sockets.websocket("/ws")               # Robyn's function style

@websocket.on("connect")
def handle_connect(ws):
    if not validate_token(ws.query_params.get("token")):
        ws.close(code=1008, reason="Invalid authentication")

@websocket.on("message")
def handle_message(ws, msg):
    if session_is_expired(ws.session_id):          # any attribute set on ws stays on ws
        ws.close(code=1008, reason="Session expired")
        return
    return "reply"                                 # a returned str or bytes is sent

sockets.start(host="127.0.0.1", port=8080)         # one port: HTTP is Robyn's, the WebSockets are ours
"""
"""As in the design document."""

AROUND_SNIPPET = """
from robyn import Robyn
from actors import ConnectionActor
from supervisor.robyn import supervise

seen = set()

def validate_token(token):
    return token == "valid"

def session_is_expired(session_id):
    expired = session_id in seen
    seen.add(session_id)
    return expired
"""


def test_the_snippet_of_the_design_runs_as_written(tmp_path: Path) -> None:
    with running(tmp_path, AROUND_SNIPPET + SNIPPET, ROBYN_PORT="0") as app:
        with connect(f"ws://127.0.0.1:{app.port()}/ws?token=invalid") as client:
            assert close_of(client) == (1008, "Invalid authentication")
        with connect(f"ws://127.0.0.1:{app.port()}/ws?token=valid") as client:
            client.send("a first message")
            assert client.recv(DEADLINE) == "reply"
            client.send("a second message, in an expired session")
            assert close_of(client) == (1008, "Session expired")
        with connect(f"ws://127.0.0.1:{app.port()}/chat") as client:
            client.send("nobody listens")
        assert "Traceback" not in app.output


# -- the end -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_closes_every_connection_and_the_process_exits_0(
    tmp_path: Path, number: signal.Signals
) -> None:
    with running(tmp_path, APP) as app, contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(connect(f"ws://127.0.0.1:{app.port()}/{path}"))
            for path in ("ws", "echo", "rooms/1") * 5
        ]

        app.signal(number)

        assert [close_of(client) for client in clients] == [(1012, "service restart")] * 15
        assert app.status() == 0
        assert "the app ends 0" in app.output  # the handler of the user ran, after the connections
        assert f"{number.name}: draining" in app.output
        assert "drain: 15 connections ended in" in app.output
        assert "Traceback" not in app.output


@asyncio_only
async def test_a_peer_that_does_not_answer_holds_up_the_exit_for_the_close_timeout_only(
    tmp_path: Path,
) -> None:
    with running(tmp_path, APP, CLOSE="0.2") as app:
        silent = await RawClient.dial(app.port())
        assert await silent.request("/ws") == 101

        app.signal(signal.SIGTERM)

        assert (await silent.frame()).close == (1012, "service restart")
        assert app.status() == 0
        assert "unclean" in app.output
        silent.close()


def test_the_app_can_stop_itself(tmp_path: Path) -> None:
    with running(tmp_path, APP) as app, connect(f"ws://127.0.0.1:{app.port()}/ws") as client:
        with (
            http_connection(app.port()) as connection,
            contextlib.suppress(http.client.HTTPException, OSError),
        ):
            ask(connection, "POST", "/stop")

        assert close_of(client) == (1001, "server shutting down")
        assert app.status() == 0


def test_an_exception_out_of_the_event_loop_still_closes_every_connection(tmp_path: Path) -> None:
    script = APP.replace("async def index_async():", "async def index_async():\n    raise SystemExit(3)")
    with running(tmp_path, script) as app, connect(f"ws://127.0.0.1:{app.port()}/ws") as client:
        with (
            http_connection(app.port()) as connection,
            contextlib.suppress(http.client.HTTPException, OSError),
        ):
            ask(connection, "GET", "/async")

        assert close_of(client) == (1001, "server shutting down")
        assert app.status() == 0
        assert "the app ends 0" in app.output


# -- addresses ---------------------------------------------------------------------------------


def test_the_address_of_the_environment_is_the_public_one_and_the_app_still_sees_it(tmp_path: Path) -> None:
    with running(tmp_path, APP, PORT="1", ROBYN_PORT="0", ROBYN_HOST="127.0.0.1") as app:
        with http_connection(app.port()) as connection:
            assert ask(connection, "GET", "/") == (200, b"hello")
        with connect(f"ws://127.0.0.1:{app.port()}/echo"):
            pass
        assert "the app starts 0" in app.output


def test_a_host_name_is_served_on_each_of_its_addresses(tmp_path: Path) -> None:
    script = APP.replace("sockets.start(", 'sockets.start("localhost", ')
    addresses = {found[4][0] for found in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)}
    with running(tmp_path, script) as app:
        app.wait_for("serving HTTP and WebSockets")
        port = app.port(r"serving HTTP and WebSockets at .*?:(\d+)[ ,]")

        for address in addresses:
            with http_connection(port, address) as connection:
                assert ask(connection, "GET", "/") == (200, b"hello")
            with connect(f"ws://{f'[{address}]' if ':' in address else address}:{port}/echo") as client:
                client.send("hello")
                assert client.recv(DEADLINE) == "hello"


def test_with_a_port_of_their_own_the_websockets_leave_http_to_robyn(tmp_path: Path) -> None:
    with running(tmp_path, TWO_PORTS) as app:
        found = app.wait_for(
            r"serving WebSockets at ws://127\.0\.0\.1:(\d+), HTTP by Robyn at http://127\.0\.0\.1:(\d+)"
        )
        websocket_port, http_port = int(found[1]), int(found[2])

        with http_connection(http_port) as connection:
            assert ask(connection, "GET", "/") == (200, b"hello")
        with http_connection(websocket_port) as connection:
            assert ask(connection, "GET", "/echo")[0] == 426
        with connect(f"ws://127.0.0.1:{websocket_port}/echo") as client:
            client.send("hello")
            assert client.recv(DEADLINE) == "hello"
            app.signal(signal.SIGTERM)
            assert close_of(client) == (1012, "service restart")
        assert app.status() == 0


def test_tls_is_spoken_to_browsers_of_pages_and_to_websockets(
    tmp_path: Path, certificate: tuple[Path, ssl.SSLContext]
) -> None:
    path, context = certificate
    context_of_server = f"""
import ssl
tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
tls.load_cert_chain({str(path)!r})
app = Robyn("""
    script = APP.replace("supervise(app, ", "supervise(app, ssl=tls, ").replace(
        "app = Robyn(", context_of_server
    )
    with running(tmp_path, script) as app:
        port = app.port()
        assert not children_of(app.process.pid)  # a session of TLS stays in the process that it began in
        connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=DEADLINE)
        with contextlib.closing(connection):
            assert ask(connection, "GET", "/big") == (200, b"x" * 5_000_000)

        # Not websockets' sync client: its two threads share one session of OpenSSL, and in one of about a
        # thousand runs the request never left it.
        async def talk() -> None:
            async with asyncio_connect(f"wss://localhost:{port}/echo", ssl=context) as client:
                await client.send("hello")
                assert await client.recv() == "hello"
                app.signal(signal.SIGTERM)
                await client.wait_closed()
                assert (client.close_code, client.close_reason) == (1012, "service restart")

        anyio.run(talk)
        assert app.status() == 0


# -- what cannot work --------------------------------------------------------------------------


@pytest.fixture
def robyn() -> Robyn:
    with patch.object(sys, "argv", sys.argv[:1]):
        return Robyn(__file__, config=Config())


class Echo(ConnectionActor):
    async def on_message(self, message: str | bytes) -> None:
        await self.send(message)


@pytest.mark.parametrize(
    ("host", "port", "options"),
    [
        ("127.0.0.1", None, {}),
        ("127.0.0.1", 0, {"websocket_port": None}),
        ("127.0.0.1", None, {"websocket_port": 0}),
    ],
    ids=["the one port", "the port of the WebSockets", "the port of Robyn"],
)
def test_a_port_in_use_is_an_error_that_names_it(
    robyn: Robyn, host: str, port: int | None, options: dict[str, int | None]
) -> None:
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as another Robyn does
        holder.bind((host, 0))
        holder.listen()
        taken = holder.getsockname()[1]
        given = {name: taken if value is None else value for name, value in options.items()}

        with pytest.raises(OSError, match=f"port: 127.0.0.1:{taken} is in use"):
            supervise(robyn).start(host, taken if port is None else port, **given)


def test_the_reloader_is_refused(robyn: Robyn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IS_RELOADER_RUNNING", "True")

    with pytest.raises(ValueError, match=r"dev: .* start without --dev"):
        supervise(robyn).start()


def test_a_websocket_route_on_robyn_itself_is_refused(robyn: Robyn) -> None:
    @robyn.websocket("/unsafe")
    async def handler(websocket: Any) -> None: ...

    with pytest.raises(
        ActorMisuse, match=r"/unsafe: a WebSocket route on Robyn itself, .* use websocket\(\)"
    ):
        supervise(robyn).start()


@pytest.mark.parametrize("call", ["connections()", "publish('topic', 'message')", "close('id')"])
def test_before_the_start_there_are_no_connections(robyn: Robyn, call: str) -> None:
    sockets = supervise(robyn)

    assert not sockets.ready
    assert dict(sockets.registry) == {}
    with pytest.raises(ActorMisuse, match=r"there are no connections before start\(\)"):
        eval(f"sockets.{call}")


def test_supervisords_package_of_the_same_name_is_told_from_ours(tmp_path: Path) -> None:
    """What an environment has after supervisord was installed over it."""
    package = tmp_path / "supervisor"
    shutil.copytree(ROOT / "supervisor", package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "__init__.py").write_text("#\n")
    (package / "events.py").write_text("callbacks = []\n")
    script = tmp_path / "app.py"
    script.write_text("import supervisor.robyn")

    with program(script, environment={"PYTHONPATH": f"{tmp_path}:{ROOT}"}) as failing:
        assert failing.status() == 1

    assert re.search(
        r"ImportError: supervisor: .*/supervisor/__init__.py is not of connection-supervisor, but probably "
        "of supervisord, .* into an environment of its own",
        failing.output,
    )


def test_a_package_of_ours_that_lost_a_module_to_supervisord_says_so(tmp_path: Path) -> None:
    package = tmp_path / "supervisor"
    shutil.copytree(ROOT / "supervisor", package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "events.py").write_text("callbacks = []\n")
    script = tmp_path / "app.py"
    script.write_text("import supervisor")

    with program(script, environment={"PYTHONPATH": f"{tmp_path}:{ROOT}"}) as failing:
        assert failing.status() == 1

    assert "ImportError: supervisor: the module 'supervisor.events' is not of conn" in failing.output


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"host": "localhost", "websocket_port": 0}, ValueError, "host: Robyn listens on an IP address only"),
        ({"host": "no.such.host.invalid"}, OSError, "host: 'no.such.host.invalid' is not a host name"),
        ({"ready_path": "ready"}, ValueError, "ready_path: a path begins with '/', 'ready' does not"),
        ({"port": 65536}, ValueError, "port: a whole number from 0"),
        ({"port": "8080"}, ValueError, "port: a whole number from 0"),
        ({"websocket_port": -1}, ValueError, "port: a whole number from 0"),
    ],
)
def test_an_address_that_cannot_be_is_an_error_that_names_the_option(
    robyn: Robyn, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        supervise(robyn).start(**options)


@pytest.mark.parametrize("notice", ["\ud800", {"going": "down"}])
def test_a_notice_of_the_drain_that_a_codec_cannot_encode_is_an_error_before_the_start(
    robyn: Robyn, notice: object
) -> None:
    class Chat(ConnectionActor):
        pass

    sockets = supervise(robyn)
    sockets.route("/chat/:room")(Chat)

    with pytest.raises((TypeError, ValueError), match=r"codec 'raw'"):
        sockets.start(drain=Drain(notice=notice))


def test_a_port_of_the_environment_that_is_no_number_is_an_error(
    robyn: Robyn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROBYN_PORT", "http")

    with pytest.raises(ValueError, match="ROBYN_PORT: a whole number, not 'http'"):
        supervise(robyn).start()


def test_options_are_checked_at_once(robyn: Robyn) -> None:
    with pytest.raises(TypeError, match=r"app: the robyn.Robyn that would be started, not 'app'"):
        supervise("app")
    with pytest.raises(TypeError, match=r"policy: a supervisor.Policy"):
        supervise(robyn, policy=10)
    with pytest.raises(TypeError, match=r"ssl: an ssl.SSLContext"):
        supervise(robyn, ssl=True)
    with pytest.raises(TypeError, match=r"hooks: plain functions of one event, 'log' is none"):
        supervise(robyn, hooks=["log"])


def test_a_path_is_given_once_whichever_way(robyn: Robyn) -> None:
    sockets = supervise(robyn)
    sockets.route("/ws/:id")(Echo)

    with pytest.raises(ValueError, match="/ws/:name"):
        sockets.websocket("/ws/:name")
    with pytest.raises(ValueError, match="/ws/:id"):
        sockets.route("/ws/:id")(Echo)

    assert repr(sockets) == "<RobynSockets: 1 routes>"


def test_a_route_gives_the_class_back_and_takes_only_connection_actors(robyn: Robyn) -> None:
    sockets = supervise(robyn)

    assert sockets.route("/echo")(Echo) is Echo
    with pytest.raises(TypeError, match="ConnectionActor"):
        sockets.route("/other")(Actor)
    with pytest.raises(ValueError, match="codec='yaml' is not known"):
        sockets.websocket("/ws", codec="yaml")


def test_a_startup_handler_that_fails_ends_the_start_with_its_error(tmp_path: Path) -> None:
    script = APP.replace(
        "async def startup():", "async def startup():\n    raise RuntimeError('no database')"
    ).replace("sockets.start(", "try:\n    sockets.start(")
    script += "except RuntimeError as error:\n    raise SystemExit(f'it could not start: {error}')\n"
    with running(tmp_path, script) as app:
        assert app.status() == 1

    assert app.output.endswith("it could not start: no database\n")  # and no noise of Robyn's thread
    assert "serving" not in app.output
    assert "the app ends" not in app.output


def test_a_plain_startup_handler_may_fail_as_well(tmp_path: Path) -> None:
    script = APP.replace("async def startup():", "def startup():\n    raise RuntimeError('no database')")
    with running(tmp_path, script) as app:
        assert app.status() == 1

    assert app.output.endswith("RuntimeError: no database\n")
    assert "serving" not in app.output


def test_a_service_that_cannot_start_ends_the_start_with_its_error(tmp_path: Path) -> None:
    clock = """
from actors import Actor
from supervisor import ChildSpec
class Clock(Actor):
    def on_start(self):
        raise RuntimeError("no time")
app = Robyn("""
    script = APP.replace("supervise(app, ", "supervise(app, children=[ChildSpec(Clock)], ")
    with running(tmp_path, script.replace("app = Robyn(", clock)) as app:
        assert app.status() == 1

    assert "RuntimeError: no time" in app.output
    assert app.output.splitlines()[-1].startswith("supervisor.ChildStartFailed: ")
    assert "serving" not in app.output
    assert "the app ends 0" in app.output


def test_a_service_that_fails_for_good_later_ends_the_process_with_its_error(tmp_path: Path) -> None:
    clock = """
from actors import Actor
from supervisor import ChildSpec, RestartLimit
class Clock(Actor):
    def on_info(self, message):
        raise RuntimeError("no time")
app = Robyn("""
    child = 'children=[ChildSpec(Clock, name="clock", policy=Policy(restarts=RestartLimit(count=0)))]'
    script = APP.replace("supervise(app, ", f"supervise(app, {child}, ").replace("app = Robyn(", clock)
    script = script.replace('return "hello"\n', 'sockets.server.registry["clock"].tell("go")\n')
    with running(tmp_path, script) as app, connect(f"ws://127.0.0.1:{app.port()}/ws") as client:
        with (
            http_connection(app.port()) as connection,
            contextlib.suppress(http.client.HTTPException, OSError),
        ):
            ask(connection, "GET", "/")

        assert close_of(client) == (1001, "server shutting down")
        assert app.status() == 1

    assert "RuntimeError: no time" in app.output
    assert "the app ends 0" in app.output


def test_an_interrupt_during_the_startup_ends_the_process_with_status_0(tmp_path: Path) -> None:
    startup = """async def startup():
    import asyncio
    print("starting", flush=True)
    await asyncio.sleep(3600)"""
    script = APP.replace("async def startup():", startup)
    with running(tmp_path, script) as app:
        app.wait_for("starting")
        app.signal(signal.SIGINT)

        assert app.status() == 0
        assert "serving" not in app.output
