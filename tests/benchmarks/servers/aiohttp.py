"""``aiohttp``, on uvloop."""

from __future__ import annotations

import asyncio

import uvloop
from aiohttp import WSMsgType, web

from tests.benchmarks.servers import DONE, RESTART, options

given = options()
room: set[web.WebSocketResponse] = set()


async def opened(request: web.Request) -> web.WebSocketResponse:
    websocket = web.WebSocketResponse(heartbeat=given.heartbeat)
    await websocket.prepare(request)
    return websocket


async def echo(request: web.Request) -> web.WebSocketResponse:
    websocket = await opened(request)
    async for message in websocket:
        if message.type is WSMsgType.TEXT:
            await websocket.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await websocket.send_bytes(message.data)
    return websocket


async def echo_and_close(request: web.Request) -> web.WebSocketResponse:
    websocket = await opened(request)
    await websocket.send_str(await websocket.receive_str())
    await websocket.close(code=DONE[0], message=DONE[1].encode())
    return websocket


async def join(request: web.Request) -> web.WebSocketResponse:
    websocket = await opened(request)
    room.add(websocket)
    try:
        async for message in websocket:
            for member in list(room):
                await member.send_str(message.data)
    finally:
        room.discard(websocket)
    return websocket


async def drain(request: web.Request) -> web.WebSocketResponse:
    websocket = await opened(request)
    await websocket.receive_str()
    code, reason = RESTART
    await asyncio.gather(*(member.close(code=code, message=reason.encode()) for member in list(room)))
    return websocket


async def main() -> None:
    app = web.Application()
    app.router.add_get("/echo", echo)
    app.router.add_get("/binary", echo)
    app.router.add_get("/close", echo_and_close)
    app.router.add_get("/room", join)
    app.router.add_get("/drain", drain)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", given.port, backlog=2048).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
