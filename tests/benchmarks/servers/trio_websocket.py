"""``trio-websocket``, with the heartbeat of its documentation where one is asked for."""

from __future__ import annotations

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

from tests.benchmarks.servers import DONE, RESTART, options

given = options()
room: set[WebSocketConnection] = set()


async def heartbeat(websocket: WebSocketConnection, interval: float) -> None:
    while True:
        with trio.fail_after(20):
            await websocket.ping()
        await trio.sleep(interval)


async def handle(request: WebSocketRequest) -> None:
    websocket = await request.accept()
    try:
        async with trio.open_nursery() as nursery:
            if given.heartbeat is not None:
                nursery.start_soon(heartbeat, websocket, given.heartbeat)
            await talk(request.path, websocket)
            nursery.cancel_scope.cancel()
    except* ConnectionClosed:
        pass


async def talk(path: str, websocket: WebSocketConnection) -> None:
    if path == "/close":
        await websocket.send_message(await websocket.get_message())
        await websocket.aclose(*DONE)
    elif path == "/room":
        room.add(websocket)
        try:
            while True:
                message = await websocket.get_message()
                for member in list(room):
                    await member.send_message(message)
        finally:
            room.discard(websocket)
    elif path == "/drain":
        await websocket.get_message()
        async with trio.open_nursery() as nursery:
            for member in list(room):
                nursery.start_soon(member.aclose, *RESTART)
    else:
        while True:
            await websocket.send_message(await websocket.get_message())


if __name__ == "__main__":
    trio.run(serve_websocket, handle, "127.0.0.1", given.port, None)
