"""A bare ``asyncio.Protocol`` on uvloop that checks, limits and supervises nothing: the floor of the others.

It believes its client in everything, and there is no task, no queue and no timer behind it.
"""

from __future__ import annotations

import asyncio
import re
from typing import cast

import uvloop
from websockets.speedups import apply_mask
from websockets.utils import accept_key

from tests.benchmarks.servers import DONE, options

CLOSE = 0x88
CLOSE_DONE = bytes((CLOSE, 2 + len(DONE[1]))) + DONE[0].to_bytes(2, "big") + DONE[1].encode()

room: set[asyncio.Transport] = set()


class Bare(asyncio.Protocol):
    def __init__(self) -> None:
        self.path = b""
        self.rest = b""
        self.closing = self.over = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        room.discard(self.transport)

    def data_received(self, data: bytes) -> None:
        if not self.path:
            self.open(data)
            return
        data, position, out = self.rest + data, 0, []
        while len(data) - position >= 6:
            first, length, start = data[position], data[position + 1] & 0x7F, position + 6
            if length == 126:
                length, start = int.from_bytes(data[position + 2 : position + 4], "big"), start + 2
            elif length == 127:
                length, start = int.from_bytes(data[position + 2 : position + 10], "big"), start + 8
            end = start + length
            if end > len(data):
                break
            payload = apply_mask(memoryview(data)[start:end], data[start - 4 : start])
            position = end
            if first == CLOSE:
                if not self.closing:
                    out += (bytes((CLOSE, length)), payload)
                self.closing = self.over = True
            elif self.path == b"/room":
                frame = header(first, length) + payload
                for member in room:
                    member.write(frame)
            else:
                out += (header(first, length), payload)
                if self.path == b"/close":
                    self.closing = True
                    out.append(CLOSE_DONE)
        self.rest = data[position:]
        if out:
            self.transport.write(b"".join(out))
        if self.over:
            self.transport.close()

    def open(self, head: bytes) -> None:
        self.path = head.split(b" ", 2)[1]
        found = re.search(rb"(?i)sec-websocket-key: *(\S+)", head)
        assert found is not None
        self.transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept_key(found[1].decode()).encode() + b"\r\n\r\n"
        )
        if self.path == b"/room":
            room.add(self.transport)


def header(first: int, length: int) -> bytes:
    if length < 126:
        return bytes((first, length))
    if length < 65_536:
        return bytes((first, 126)) + length.to_bytes(2, "big")
    return bytes((first, 127)) + length.to_bytes(8, "big")


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Bare, "127.0.0.1", options().port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
