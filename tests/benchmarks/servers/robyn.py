"""Robyn's own WebSockets.  They cannot be closed with a code, and send no pings."""

from __future__ import annotations

import sys

from tests.benchmarks.servers import options

given = options()
del sys.argv[1:]  # Robyn parses them too

from robyn import Robyn  # noqa: E402  # it looks at the arguments when it is imported
from robyn.ws import WebSocketAdapter  # noqa: E402

app = Robyn(__file__)
members: dict[str, WebSocketAdapter] = {}


@app.websocket("/echo")
async def echo(websocket):  # type: ignore[no-untyped-def]  # Robyn takes annotations for its own
    while True:
        await websocket.send_text(await websocket.receive_text())


@app.websocket("/binary")
async def binary(websocket):  # type: ignore[no-untyped-def]  # as above
    while True:
        await websocket.send_bytes(await websocket.receive_bytes())


@app.websocket("/close")
async def echo_and_close(websocket):  # type: ignore[no-untyped-def]  # as above
    await websocket.send_text(await websocket.receive_text())
    await websocket.close()


@app.websocket("/room")
async def room(websocket):  # type: ignore[no-untyped-def]  # as above
    members[websocket.id] = websocket
    while True:
        await websocket.broadcast(await websocket.receive_text())


@app.websocket("/drain")
async def drain(websocket):  # type: ignore[no-untyped-def]  # as above
    await websocket.receive_text()
    for member in list(members.values()):
        await member.close()


if __name__ == "__main__":
    app.start(host="127.0.0.1", port=given.port)
