"""HTTP through the pipe to a real Robyn: large, streamed, pipelined, and from whom it came."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator

import pytest

from tests.programs import Program, children_of
from tests.raw import DEADLINE
from tests.robyn_apps import ask, http_connection, running
from tests.supervisor.sites import MB, resident

LARGE = 100 * MB

APP = """
import asyncio, os
from robyn import Robyn, Request, SSEMessage, SSEResponse, StreamingResponse
from supervisor import Admission
from supervisor.robyn import supervise

app = Robyn(__file__)
sockets = supervise(app, admission=Admission(trusted_proxies=["127.0.0.7"]))
app.serve_directory("/files", os.path.dirname(__file__))
go_on = asyncio.Semaphore(0)
ended = 0

@app.get("/number/:number")
def number(request: Request):
    return request.path_params["number"]

@app.post("/size")
def size(request: Request):
    return str(len(request.body))

async def pieces(make):
    global ended
    try:
        for number in range(3):
            yield make(f"piece {number}")
            await go_on.acquire()
    finally:
        ended += 1

@app.get("/stream")
async def stream():
    return StreamingResponse(pieces(lambda text: text + ";"), media_type="text/plain")

@app.get("/events")
async def events():
    return SSEResponse(pieces(SSEMessage))

@app.post("/go-on")
async def proceed():
    go_on.release()
    return "ok"

@app.get("/who")
def who(request: Request):
    return {"seen": request.ip_addr, "client": sockets.client_of(request)}

@app.get("/async/who")
async def async_who(request: Request):
    return {"seen": request.ip_addr, "client": sockets.client_of(request)}

sockets.start(port=0)
"""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    directory = tmp_path_factory.mktemp("app")
    with open(directory / "large.bin", "wb") as file:
        file.truncate(LARGE)
    with running(directory, APP) as started:
        started.port()
        started.wait_for("HTTP goes through the pump")
        yield started
        assert "Traceback" not in started.output


def pump_of(app: Program) -> int:
    """The process of the pipes."""
    (pid,) = children_of(app.process.pid)
    return pid


def memory(app: Program) -> int:
    """Bytes of memory that both processes have in use."""
    return resident(app.process.pid) + resident(pump_of(app))


# -- much ----------------------------------------------------------------------------------------


def test_a_file_of_100_mb_comes_through_with_flat_memory(app: Program) -> None:
    with http_connection(app.port()) as connection:
        ask(connection, "GET", "/number/1")
        before = highest = memory(app)
        connection.request("GET", "/files/large.bin")
        response = connection.getresponse()

        received = 0
        while piece := response.read(MB):
            received += len(piece)
            highest = max(highest, memory(app))

    assert received == LARGE
    assert highest - before < 16 * MB


def test_a_body_of_100_mb_goes_to_robyn_which_alone_keeps_it(app: Program) -> None:
    piece, sizes = b"x" * MB, []

    def pieces() -> Iterator[bytes]:
        for _ in range(100):
            yield piece
            sizes.append(resident(pump_of(app)))

    with http_connection(app.port()) as connection:
        ask(connection, "GET", "/number/1")
        before = resident(pump_of(app))
        connection.request("POST", "/size", pieces(), {"Content-Length": str(LARGE)}, encode_chunked=False)

        assert connection.getresponse().read() == str(LARGE).encode()
    assert max(sizes) - before < 8 * MB


def test_pipelined_requests_are_answered_in_order(app: Program) -> None:
    requests = [f"GET /number/{number} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for number in range(50)]
    with socket.create_connection(("127.0.0.1", app.port()), timeout=DEADLINE) as client:
        client.sendall(b"".join(requests))
        client.shutdown(socket.SHUT_WR)
        with client.makefile("rb") as stream:
            answers = stream.read()

    assert answers.count(b"HTTP/1.1 200 OK") == 50
    assert [int(one.split(b"\r\n\r\n")[1]) for one in answers.split(b"HTTP/1.1 ")[1:]] == list(range(50))


# -- piece by piece ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "pieces"),
    [
        ("/stream", [b"piece 0;", b"piece 1;", b"piece 2;"]),
        ("/events", [b"data: piece 0\n\n", b"data: piece 1\n\n", b"data: piece 2\n\n"]),
    ],
)
def test_a_streamed_answer_arrives_piece_by_piece(app: Program, path: str, pieces: list[bytes]) -> None:
    with http_connection(app.port()) as connection, http_connection(app.port()) as other:
        connection.request("GET", path)
        response = connection.getresponse()

        for piece in pieces:  # the next one is not made before this one was read
            assert response.read(len(piece)) == piece
            assert ask(other, "POST", "/go-on") == (200, b"ok")

        assert response.read() == b""


# -- from whom -----------------------------------------------------------------------------------


def who(app: Program, address: str, path: str = "/who", **headers: str) -> dict[str, str]:
    """What a handler is told about a client at ``address``."""
    connection = http.client.HTTPConnection("127.0.0.1", app.port(), DEADLINE, source_address=(address, 0))
    with contextlib.closing(connection):
        connection.request("GET", path, headers=headers)
        found: dict[str, str] = json.loads(connection.getresponse().read())
        return found


@pytest.mark.parametrize("path", ["/who", "/async/who"])
def test_the_address_of_the_client_is_known_to_every_handler(app: Program, path: str) -> None:
    assert who(app, "127.0.0.2", path)["client"] == "127.0.0.2"
    assert who(app, "127.0.0.3", path)["client"] == "127.0.0.3"
    assert who(app, "127.0.0.1", path) == {"seen": "127.0.0.1", "client": "127.0.0.1"}


def test_robyn_sees_one_loopback_address_for_each_client(app: Program) -> None:
    first, again, other = who(app, "127.0.0.4"), who(app, "127.0.0.4"), who(app, "127.0.0.5")

    assert first["seen"] == again["seen"]
    assert first["seen"] != other["seen"]
    assert first["seen"].startswith("127.")


def test_a_client_cannot_forge_its_address(app: Program) -> None:
    forged = who(app, "127.0.0.6", **{"X-Forwarded-For": "192.0.2.1", "Forwarded": "for=192.0.2.1"})

    assert forged["client"] == "127.0.0.6"


def test_a_trusted_proxy_is_believed_whose_request_it_is(app: Program) -> None:
    told = who(app, "127.0.0.7", **{"X-Forwarded-For": "192.0.2.9, 192.0.2.1"})
    silent = who(app, "127.0.0.7")

    assert told["client"] == "192.0.2.1"
    assert silent["client"] == "127.0.0.7"
