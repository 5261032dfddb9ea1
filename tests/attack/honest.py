"""Honest clients: ``honest.py PORT COUNT SECONDS [PERIOD]``; each has an address, and one message on its way.

With ``PERIOD`` a client waits that many seconds between two messages.  Prints one line of JSON: how
many messages came back, the median and the 99th percentile of their latency in seconds, and how many
connections were lost.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import uvloop

from tests.attack.wire import REQUEST
from tests.raw import TEXT, encode

MESSAGE = b"x" * 64
FRAME = encode(TEXT, MESSAGE)
ANSWER = bytes([0x80 | TEXT, len(MESSAGE)]) + MESSAGE


class Client(asyncio.Protocol):
    """One connection."""

    latencies: list[float] = []  # noqa: RUF012  # of all clients
    ending = False
    lost = 0
    period = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as asyncio's docs do
        self.transport = transport
        self.buffer = b""
        self.open = asyncio.get_running_loop().create_future()
        transport.write(REQUEST)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not self.open.done():
            head, end, self.buffer = self.buffer.partition(b"\r\n\r\n")
            if end:
                assert head.startswith(b"HTTP/1.1 101"), head
                self.open.set_result(None)
                self.send()
        while len(self.buffer) >= len(ANSWER):
            if self.buffer.startswith(b"\x89"):  # a ping of the heartbeat, with 4 bytes
                self.transport.write(encode(0xA, self.buffer[2:6]))
                self.buffer = self.buffer[6:]
                continue
            assert self.buffer.startswith(ANSWER), self.buffer
            self.buffer = self.buffer[len(ANSWER) :]
            self.latencies.append(time.perf_counter() - self.sent_at)
            if self.period:
                asyncio.get_running_loop().call_later(self.period, self.send)
            else:
                self.send()

    def send(self) -> None:
        self.sent_at = time.perf_counter()
        self.transport.write(FRAME)

    def connection_lost(self, exc: Exception | None) -> None:
        if not Client.ending:
            Client.lost += 1


async def main(port: int, count: int, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    clients = [
        (await loop.create_connection(Client, "127.0.0.1", port, local_addr=(f"127.0.2.{number + 1}", 0)))[1]
        for number in range(count)
    ]
    await asyncio.gather(*(client.open for client in clients))
    print("connected", flush=True)
    await asyncio.sleep(seconds)
    Client.ending = True
    latencies = sorted(Client.latencies)
    print(
        json.dumps(
            {
                "messages": len(latencies),
                "median": latencies[len(latencies) // 2],
                "p99": latencies[len(latencies) * 99 // 100],
                "lost": Client.lost,
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    Client.period = float(sys.argv[4]) if len(sys.argv) > 4 else 0.0
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
