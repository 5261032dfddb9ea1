"""Robyn apps in processes of their own, and clients that talk to them."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.programs import Program, program
from tests.raw import DEADLINE

APP = """
import os, time
from robyn import Robyn, Request
from actors import ConnectionActor
from supervisor import Drain, Policy, Timeouts
from supervisor.robyn import supervise

app = Robyn(__file__)
sockets = supervise(app, policy=Policy(timeouts=Timeouts(close=float(os.environ.get("CLOSE", 10)))))
members = []

@app.startup_handler
async def startup():
    print("the app starts", os.environ.get("ROBYN_PORT"), flush=True)

@app.shutdown_handler
def shutdown():
    print("the app ends", len(sockets.server.connections))

@app.get("/")
def index():
    return "hello"

@app.get("/async")
async def index_async():
    return "hello from the event loop"

@app.get("/slow")
def slow():
    time.sleep(0.3)
    return "slow"

@app.get("/big")
def big():
    return "x" * 5_000_000

@app.post("/echo")
def echo(request: Request):
    return request.body

@app.post("/tell")
def tell(request: Request):
    for ws in members:
        ws.ref.tell(request.body)
    return str(len(members))

@app.post("/stop")
def stop():
    sockets.server.stop()
    return "bye"

@sockets.route("/echo")
@sockets.route("/rooms/:room")
class Echo(ConnectionActor):
    async def on_message(self, message):
        await self.send(self.path_params.get("room", "") + message)

websocket = sockets.websocket("/ws")
websocket.on("connect")(members.append)
websocket.on("close")(members.remove)

sockets.start(port=int(os.environ.get("PORT", 0)), drain=Drain(spread=0))
"""

TWO_PORTS = APP.replace(
    'sockets.start(port=int(os.environ.get("PORT", 0)), ', "sockets.start(port=0, websocket_port=0, "
)


@contextmanager
def running(directory: Path, script: str, *arguments: str, **environment: str) -> Iterator[Program]:
    path = directory / "app.py"
    path.write_text(script)
    # Robyn ends the process without Python's own ending: what is buffered must be there all the same.
    with program(path, *arguments, environment={"PYTHONUNBUFFERED": "", **environment}) as started:
        yield started


@contextmanager
def http_connection(port: int, host: str = "127.0.0.1") -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(host, port, timeout=DEADLINE)
    try:
        yield connection
    finally:
        connection.close()


def ask(
    connection: http.client.HTTPConnection, method: str, path: str, body: Any = None
) -> tuple[int, bytes]:
    connection.request(method, path, body)
    response = connection.getresponse()
    return response.status, response.read()
