"""``uvicorn`` with Starlette, on uvloop."""

from __future__ import annotations

import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from tests.benchmarks.servers import DONE, RESTART, options

room: set[WebSocket] = set()


async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    async for message in websocket.iter_text():
        await websocket.send_text(message)


async def echo_binary(websocket: WebSocket) -> None:
    await websocket.accept()
    async for message in websocket.iter_bytes():
        await websocket.send_bytes(message)


async def echo_and_close(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text(await websocket.receive_text())
    await websocket.close(*DONE)


async def join(websocket: WebSocket) -> None:
    await websocket.accept()
    room.add(websocket)
    try:
        async for message in websocket.iter_text():
            for member in list(room):
                await member.send_text(message)
    finally:
        room.discard(websocket)


async def drain(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.receive_text()
    for member in list(room):
        try:
            await member.close(*RESTART)
        except (RuntimeError, WebSocketDisconnect):
            continue


app = Starlette(
    routes=[
        WebSocketRoute("/echo", echo),
        WebSocketRoute("/binary", echo_binary),
        WebSocketRoute("/close", echo_and_close),
        WebSocketRoute("/room", join),
        WebSocketRoute("/drain", drain),
    ]
)

if __name__ == "__main__":
    given = options()
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=given.port,
        loop="uvloop",
        log_level="error",
        lifespan="off",
        ws_ping_interval=20 if given.heartbeat is None else given.heartbeat,
    )
