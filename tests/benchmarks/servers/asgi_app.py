"""A plain ASGI application, for the servers that bring no framework: granian, hypercorn."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from tests.benchmarks.servers import DONE, RESTART

Event = dict[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

room: set[Send] = set()


def closing(code: int, reason: str) -> Event:
    return {"type": "websocket.close", "code": code, "reason": reason}


def the_same(event: Event) -> Event:
    if event.get("text") is not None:
        return {"type": "websocket.send", "text": event["text"]}
    return {"type": "websocket.send", "bytes": event["bytes"]}


async def app(scope: Event, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        return
    await receive()  # websocket.connect
    await send({"type": "websocket.accept"})
    path = scope["path"]
    if path == "/room":
        room.add(send)
    try:
        while (event := await receive())["type"] == "websocket.receive":
            if path == "/room":
                for member in list(room):
                    await member(the_same(event))
            elif path == "/close":
                await send(the_same(event))
                await send(closing(*DONE))
            elif path == "/drain":
                for member in list(room):
                    await member(closing(*RESTART))
            else:
                await send(the_same(event))
    finally:
        room.discard(send)
