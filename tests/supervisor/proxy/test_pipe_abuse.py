"""What would end Robyn, or be done in part, sent through the pipe to a real one beside a WebSocket."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.programs import Program
from tests.raw import DEADLINE
from tests.robyn_apps import running
from tests.supervisor.proxy.malformed import CHUNKED, REFUSED, head
from tests.supervisor.sites import GET, UPGRADE

APP = """
import os, time
from actors import ConnectionActor
from robyn import Robyn, Request
from supervisor import Limits, Policy, Timeouts
from supervisor.proxy.pump import Pump
from supervisor.robyn import supervise

if os.environ["PIPE"] == "in process":
    Pump.take = lambda self, client, data, source, number: False
timeouts = Timeouts(handshake=float(os.environ["HEAD"]), assembly=float(os.environ["BODY"]))
app = Robyn(__file__)
sockets = supervise(app, policy=Policy(timeouts=timeouts, limits=Limits(max_body=1000)))
handled = []

@app.get("/page")
def page():
    return "page"

@app.get("/slow")
def slow():
    time.sleep(0.05)
    return "slow"

@app.get("/slower")
def slower():
    time.sleep(2.5)
    return "slower"

@app.post("/")
def post(request: Request):
    handled.append(bytes(request.body) if isinstance(request.body, list) else request.body)
    return "handled"

@app.get("/handled")
def count():
    return str(len(handled))

@sockets.route("/ws")
class Echo(ConnectionActor):
    async def on_message(self, message):
        await self.send(message)

sockets.start(port=0, keep_alive_timeout=int(os.environ["KEEP"]))
"""


@contextlib.contextmanager
def serving(
    directory: Path, pipe: str, *, head: float = 10, body: float = 30, keep: int = 20
) -> Iterator[Program]:
    environment = {"PIPE": pipe, "HEAD": str(head), "BODY": str(body), "KEEP": str(keep)}
    with running(directory, APP, **environment) as started:
        started.port()
        started.wait_for("HTTP goes through the pump")
        yield started
        assert "Traceback" not in started.output


@pytest.fixture(scope="module", params=["pump", "in process"])
def app(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with serving(tmp_path_factory.mktemp("app"), request.param) as started:
        yield started


@pytest.fixture(scope="module")
def opened(app: Program) -> Iterator[ClientConnection]:
    with connect(f"ws://127.0.0.1:{app.port()}/ws") as client:
        yield client


@pytest.fixture
def websocket(app: Program, opened: ClientConnection) -> Iterator[ClientConnection]:
    """One that was there before, and lives on afterwards, as Robyn's process does."""
    yield opened
    opened.send("still there")
    assert opened.recv(DEADLINE) == "still there"
    assert app.process.poll() is None


def dial(app: Program) -> socket.socket:
    return socket.create_connection(("127.0.0.1", app.port()), timeout=DEADLINE)


def answers(app: Program, *parts: bytes, end: bool = False) -> list[bytes]:
    """Send ``parts``, and give the answers up to the end of the connection."""
    with dial(app) as client:
        for part in parts:
            client.sendall(part)
        if end:
            client.shutdown(socket.SHUT_WR)
        with client.makefile("rb") as stream:
            received = stream.read()
    first, *rest = received.split(b"HTTP/1.1 ")
    assert first == b""
    return rest


def statuses(found: list[bytes]) -> list[int]:
    return [int(one[:3]) for one in found]


def handled(app: Program) -> int:
    (answer,) = answers(app, b"GET /handled HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    return int(answer.rpartition(b"\r\n\r\n")[2])


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_malformed_is_refused_behind_the_answers_to_what_came_before(
    app: Program, websocket: ClientConnection, name: str
) -> None:
    wire, status = REFUSED[name]
    before = handled(app)

    at_once = answers(app, GET + b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n" + wire)
    in_parts = answers(app, GET, wire[:-3], wire[-3:])

    assert statuses(at_once) == [200, 200, status]
    assert at_once[1].endswith(b"\r\n\r\nslow")
    assert statuses(in_parts) == [200, status]
    assert b"connection: close" in in_parts[-1].lower()
    assert handled(app) == before


@pytest.mark.parametrize("method", [b"GET", b"POST", b"PUT", b"DELETE", b"FOO"])
@pytest.mark.parametrize("path", [b"/", b"/page", b"/nothing"])
def test_a_valid_request_with_a_trailer_is_answered(
    app: Program, websocket: ClientConnection, method: bytes, path: bytes
) -> None:
    wire = b"%b %b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" % (method, path)
    wire += b"5;a=b\r\nhello\r\n0\r\nX-Trailer: y\r\n\r\n"

    found = answers(app, wire + wire, GET, end=True)

    assert len(found) == 3
    assert set(statuses(found)) <= {200, 404, 405}


@pytest.mark.parametrize(
    "wire", [CHUNKED + b"5\r\nhello\r\n", CHUNKED + b"5\r\nhel", head(b"Content-Length: 9") + b"he"]
)
def test_a_request_whose_client_goes_in_the_middle_is_not_handled(
    app: Program, websocket: ClientConnection, wire: bytes
) -> None:
    before = handled(app)

    assert statuses(answers(app, GET, wire, end=True)) == [200, 400]
    with dial(app) as reset:
        reset.sendall(GET)
        assert reset.recv(10_000)
        reset.sendall(wire)
        reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    assert statuses(answers(app, head(b"Content-Length: 5") + b"hello", end=True)) == [200]
    assert handled(app) == before + 1


def test_a_client_that_asks_for_another_protocol_is_answered_in_this_one(
    app: Program, websocket: ClientConnection
) -> None:
    upgrade = b"GET /page HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"

    found = answers(app, upgrade + b"HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n" + GET + GET, end=True)

    assert [one.rpartition(b"\r\n\r\n")[2] for one in found] == [b"page"] * 3


def test_a_websocket_behind_something_malformed_is_none(app: Program, websocket: ClientConnection) -> None:
    assert statuses(answers(app, GET + b"GET / HTTP/1.1\r\n\r\n" + UPGRADE)) == [200, 400]


# -- who is slow ---------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["pump", "in process"])
def impatient(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with serving(tmp_path_factory.mktemp("impatient"), request.param, head=0.2, body=0.2, keep=1) as started:
        yield started


@pytest.mark.parametrize(
    "wire", [GET[:-1], head(b"Content-Length: 9") + b"he", CHUNKED, CHUNKED + b"5\r\nhello\r\n0\r\n"]
)
def test_a_request_on_a_kept_connection_that_does_not_get_on_is_answered_408(
    impatient: Program, wire: bytes
) -> None:
    assert statuses(answers(impatient, GET, wire)) == [200, 408]
    assert handled(impatient) == 0


def test_the_first_request_of_a_connection_has_to_get_on_too(impatient: Program) -> None:
    assert statuses(answers(impatient, head(b"Content-Length: 9") + b"he")) == [408]


def test_a_kept_connection_that_asks_for_nothing_ends(impatient: Program) -> None:
    assert statuses(answers(impatient, GET)) == [200]


def test_a_client_that_only_sends_empty_lines_is_ended_too(impatient: Program) -> None:
    assert answers(impatient, b"\r\n\r\n") == []


def test_a_slow_answer_is_waited_for(impatient: Program) -> None:
    assert statuses(answers(impatient, b"GET /slower HTTP/1.1\r\nHost: x\r\n\r\n")) == [200]
