"""Attackers: ``attackers.py PORT COUNT SECONDS [NAME ...]``; each does all faults one after the other.

Each has an address of its own, up to 254 of them.

With names, only those.  Prints one line of JSON: how many times each fault was done.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

import uvloop

from tests.attack.wire import REQUEST
from tests.raw import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, encode, encode_close

PATIENCE = 1.0
"""Seconds that a fault may take when the server does not end it."""
FAULTS: dict[str, Callable[[Attacker], Awaitable[None]]] = {}


class Attacker:
    """One connection of an attacker."""

    def __init__(self, port: int, address: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._port = port
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.sock.bind((address, 0))

    async def dial(self) -> None:
        await self._loop.sock_connect(self.sock, ("127.0.0.1", self._port))

    async def upgrade(self, target: str = "/", behind: bytes = b"") -> None:
        await self.dial()
        await self.send(REQUEST.replace(b"GET / ", f"GET {target} ".encode()) + behind)
        head = b""
        while b"\r\n\r\n" not in head:
            data = await self._loop.sock_recv(self.sock, 4096)
            if not data:
                raise ConnectionResetError
            head += data

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self.sock, data)

    async def to_the_end(self) -> None:
        """Read until the server ends the connection, as a client does."""
        while await self._loop.sock_recv(self.sock, 1 << 16):
            pass

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


def fault(function: Callable[[Attacker], Awaitable[None]]) -> Callable[[Attacker], Awaitable[None]]:
    FAULTS[function.__name__] = function
    return function


def frames(name: str, data: bytes, target: str = "/") -> None:
    """A fault that is some bytes after the handshake, and then reading to the end."""

    async def attack(attacker: Attacker) -> None:
        await attacker.upgrade(target)
        await attacker.send(data)
        await attacker.to_the_end()

    FAULTS[name] = attack


def requests(name: str, data: bytes) -> None:
    """A fault that is a wrong request."""

    async def attack(attacker: Attacker) -> None:
        await attacker.dial()
        await attacker.send(data)
        await attacker.to_the_end()

    FAULTS[name] = attack


requests("half a request", REQUEST[:60])
requests("a long line", b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n")
requests("many fields", REQUEST[:-2] + b"X: y\r\n" * 101 + b"\r\n")
requests("a large head", b"GET / HTTP/1.1\r\nX: " + b"y" * 40_000)
requests("a bad key", REQUEST.replace(b"AAAA==", b""))
requests("a bad version", REQUEST.replace(b"Version: 13", b"Version: 8"))
requests("a POST", REQUEST.replace(b"GET", b"POST"))
requests("a null origin", REQUEST[:-2] + b"Origin: null\r\n\r\n")
frames("unmasked", encode(TEXT, b"x", masked=False))
frames("reserved opcode", encode(3, b"x"))
frames("reserved bit", encode(TEXT, b"x", rsv=4))
frames("length 2**63-1", struct.pack("!BBQ", 0x82, 0xFF, 2**63 - 1))
frames("length 2**64-1", struct.pack("!BBQ", 0x82, 0xFF, 2**64 - 1))
frames("large ping", encode(PING, bytes(126)))
frames("continuation first", encode(CONTINUATION, b"x"))
frames("text in a fragment", encode(TEXT, b"x", fin=False) * 2)
frames("empty fragments", encode(TEXT, b"", fin=False) + encode(CONTINUATION, b"", fin=False) * 100_000)
frames("small fragments", encode(TEXT, b"x", fin=False) + encode(CONTINUATION, b"x", fin=False) * 200_000)
frames("bad UTF-8", encode(TEXT, b"\xff"))
frames("Close of 1 byte", encode(CLOSE, b"x"))
frames("Close with 1005", encode_close(1005))
frames("data behind the Close", encode_close(1000) + encode(TEXT, b"x" * 1000) * 1000)
frames("unsolicited pongs", encode(PONG, b"x") * 1000)
frames("too big", encode(BINARY, bytes((1 << 20) + 1)))
frames("control strings", encode(TEXT, b"Connection closed") + encode_close(1000))


@fault
async def reset_before_101(attacker: Attacker) -> None:
    await attacker.dial()
    await attacker.send(REQUEST)
    attacker.reset()


@fault
async def reset_in_a_frame(attacker: Attacker) -> None:
    await attacker.upgrade()
    await attacker.send(encode(TEXT, b"x" * 100)[:50])
    attacker.reset()


@fault
async def end_without_close(attacker: Attacker) -> None:
    await attacker.upgrade(behind=encode(TEXT, b"x"))
    attacker.sock.shutdown(socket.SHUT_WR)
    await attacker.to_the_end()


@fault
async def drip(attacker: Attacker) -> None:
    await attacker.upgrade()
    for byte in encode(BINARY, bytes(1 << 20))[:64]:
        await attacker.send(bytes([byte]))
        await asyncio.sleep(PATIENCE / 64)


@fault
async def ping_flood(attacker: Attacker) -> None:
    await attacker.upgrade()
    while True:
        await attacker.send(encode(PING, b"x" * 125) * 500)


@fault
async def echo_flood_without_reading(attacker: Attacker) -> None:
    await attacker.upgrade()
    while True:
        await attacker.send(encode(TEXT, b"x" * 1000) * 60)


@fault
async def tiny_messages_without_reading(attacker: Attacker) -> None:
    await attacker.upgrade()
    while True:
        await attacker.send(encode(TEXT, b"") * 10_000)


@fault
async def news_without_reading(attacker: Attacker) -> None:
    await attacker.upgrade("/news")
    while True:
        await attacker.send(encode(TEXT, b"x" * 1000) * 10)
        await asyncio.sleep(0.05)


@fault
async def flood_behind_the_close(attacker: Attacker) -> None:
    await attacker.upgrade()
    await attacker.send(encode_close(1000))
    while True:
        await attacker.send(encode(TEXT, b"x" * 1000) * 60)


async def attack(port: int, address: str, names: list[str], done: Counter[str]) -> None:
    """Do all faults in a random order, again and again."""
    while True:
        for name in random.sample(names, len(names)):
            attacker = Attacker(port, address)
            try:
                async with asyncio.timeout(PATIENCE):
                    await FAULTS[name](attacker)
            except (OSError, TimeoutError):
                pass
            finally:
                attacker.sock.close()
            done[name] += 1


async def main(port: int, count: int, seconds: float, names: list[str]) -> None:
    done: Counter[str] = Counter()
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds), asyncio.TaskGroup() as tasks:
            for number in range(count):
                tasks.create_task(attack(port, f"127.0.1.{number + 1}", names or list(FAULTS), done))
    print(json.dumps(done), flush=True)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4:]))
