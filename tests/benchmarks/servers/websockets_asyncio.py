"""The asyncio server of ``websockets``, on uvloop."""

from __future__ import annotations

import asyncio

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve

from tests.benchmarks.servers import DONE, RESTART, options

room: set[ServerConnection] = set()


async def handle(websocket: ServerConnection) -> None:
    assert websocket.request is not None
    path = websocket.request.path
    if path == "/close":
        await websocket.send(await websocket.recv())
        await websocket.close(*DONE)
    elif path == "/room":
        room.add(websocket)
        try:
            async for message in websocket:
                broadcast(room, message)
        finally:
            room.discard(websocket)
    elif path == "/drain":
        await websocket.recv()
        await asyncio.gather(*(member.close(*RESTART) for member in list(room)))
    else:
        async for message in websocket:
            await websocket.send(message)


async def main() -> None:
    given = options()
    interval = 20 if given.heartbeat is None else given.heartbeat
    async with serve(handle, "127.0.0.1", given.port, ping_interval=interval) as server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
