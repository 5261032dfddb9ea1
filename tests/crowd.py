"""Thousands of WebSocket clients in one event loop: each a protocol on a bare socket, and what it saw."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable

from tests.raw import CLOSE, TEXT, decode, encode

KEY = "dGhlIHNhbXBsZSBub25jZQ=="


class Member(asyncio.Protocol):
    """One client: talks now and then, and answers a Close unless it is silent."""

    def __init__(self, crowd: Crowd, *, silent: bool) -> None:
        self.crowd = crowd
        self.silent = silent
        self.opened = asyncio.get_running_loop().create_future()
        self.over = asyncio.get_running_loop().create_future()
        self.echoes = 0
        self.closes: list[tuple[float, int, str]] = []
        """When the Close frames came, and what they said."""
        self.wire = bytearray()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(
            f"GET {self.crowd.path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        self.wire += data
        if not self.opened.done():
            head, found, rest = bytes(self.wire).partition(b"\r\n\r\n")
            if not found:
                return
            self.wire[:] = rest
            self.opened.set_result(int(head.split()[1]))
            self.talk()
        while (frame := decode(self.wire)) is not None:
            del self.wire[: frame[1]]
            if frame[0].opcode == CLOSE:
                self.closes.append((self.crowd.now(), *frame[0].close))
                if not self.silent:
                    self.transport.write(encode(CLOSE, frame[0].payload))
            elif frame[0].opcode == TEXT:
                self.echoes += 1

    def talk(self) -> None:
        if not self.closes and not self.transport.is_closing():
            self.transport.write(encode(TEXT, b"still here"))
            self.crowd.loop.call_later(random.uniform(0, 2 * self.crowd.pause), self.talk)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_result(0)
        self.over.set_result(None)


class Crowd:
    """The clients of one server, at ``path``; each says something every ``pause`` seconds on average."""

    def __init__(self, port: int, path: str, *, pause: float = 2.0) -> None:
        self.port, self.path, self.pause = port, path, pause
        self.loop = asyncio.get_running_loop()
        self.now: Callable[[], float] = self.loop.time
        self.members: list[Member] = []
        self.refused: Counter[str] = Counter()
        """Attempts to connect that failed, by what was seen."""

    async def join(self, *, silent: bool = False) -> Member | None:
        """Open one more connection."""
        try:
            _, member = await self.loop.create_connection(
                lambda: Member(self, silent=silent), "127.0.0.1", self.port
            )
        except OSError as error:
            self.refused[type(error).__name__] += 1
            return None
        status = await member.opened
        if status != 101:
            self.refused[f"status {status}"] += 1
            return None
        self.members.append(member)
        return member

    async def grow(self, count: int, *, silent: bool = False) -> None:
        """Open ``count`` connections, some of them at a time."""
        for start in range(0, count, 100):
            await asyncio.gather(*(self.join(silent=silent) for _ in range(min(100, count - start))))

    async def stay(self, until: asyncio.Event, back_within: float) -> int:
        """Hold one connection, and open another one whenever it was closed; give how many there were."""
        connections = 0
        while not until.is_set():
            member = await self.join()
            if member is not None:
                connections += 1
                waiting = asyncio.ensure_future(until.wait())
                await asyncio.wait({member.over, waiting}, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
            await asyncio.sleep(random.uniform(0, back_within))
        return connections
