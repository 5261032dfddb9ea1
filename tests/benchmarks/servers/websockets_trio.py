"""The trio server of ``websockets``."""

from __future__ import annotations

import trio
from websockets.trio.server import ServerConnection, serve

from tests.benchmarks.servers import DONE, RESTART, options

room: set[ServerConnection] = set()


async def handle(websocket: ServerConnection) -> None:
    assert websocket.request is not None
    path = websocket.request.path
    if path == "/close":
        await websocket.send(await websocket.recv())
        await websocket.aclose(*DONE)
    elif path == "/room":
        room.add(websocket)
        try:
            async for message in websocket:
                for member in list(room):  # it has no broadcast
                    await member.send(message)
        finally:
            room.discard(websocket)
    elif path == "/drain":
        await websocket.recv()
        async with trio.open_nursery() as nursery:
            for member in list(room):
                nursery.start_soon(member.aclose, *RESTART)
    else:
        async for message in websocket:
            await websocket.send(message)


async def main() -> None:
    given = options()
    interval = 20 if given.heartbeat is None else given.heartbeat
    await serve(handle, given.port, host="127.0.0.1", ping_interval=interval)


if __name__ == "__main__":
    trio.run(main)
