"""A peer that has much to do leaves turns to the others, whatever one message of its costs.

How long a neighbour waits: ``python -m pytest -m soak -s tests/supervisor/connections/test_fairness.py``.
"""

from __future__ import annotations

import socket
import statistics
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import anyio
import msgpack
import pytest

from actors import Actor, ConnectionActor
from supervisor import ChildSpec, Limits, Policy, serve
from tests.raw import BINARY, CONTINUATION, TEXT, RawClient, encode, raw_client
from tests.witness import serving, until

pytestmark = pytest.mark.every_runtime

LONG = 0.007
"""Seconds that one message takes: more than an actor's turn."""
FRAME = encode(TEXT, b"hello")
MESSAGES = 24


class Echo(ConnectionActor):
    async def on_message(self, message: str) -> None:
        await self.send(message)


class Neighbour:
    """A connection that is seen from outside of the event loop: it sends and reads without a turn of it."""

    def __init__(self, client: RawClient) -> None:
        self._sock = client.sock
        self._asked_at: int | None = None
        self.waited: list[int] = []
        """How many messages of the greedy one were handled before each answer was there."""

    def look(self, handled: int) -> None:
        """Before the greedy one's next message, ``handled`` of them having been."""
        if self._asked_at is not None:
            with suppress(BlockingIOError):
                assert self._sock.recv(100) == b"\x81\x05hello"
                self.waited.append(handled - self._asked_at)
                self._asked_at = None
        if self._asked_at is None:
            self._sock.send(FRAME)
            self._asked_at = handled


def small(count: int) -> bytes:
    return FRAME * count


def large(count: int) -> bytes:
    return encode(BINARY, bytes(60_000)) * count


def fragmented(count: int) -> bytes:
    return (encode(TEXT, b"hel", fin=False) + encode(CONTINUATION, b"lo")) * count


@pytest.mark.parametrize("messages", [small, large, fragmented])
async def test_a_neighbour_waits_for_one_message_of_a_greedy_peer_at_most(
    messages: Callable[[int], bytes],
) -> None:
    handled = 0

    class Greedy(ConnectionActor):
        def on_message(self, message: str | bytes) -> None:
            nonlocal handled
            neighbour.look(handled)
            time.sleep(LONG)  # work that gives no turn to anybody
            handled += 1

    async with (
        serving({"/": Echo, "/greedy": Greedy}) as (server, _),
        raw_client(server) as honest,
        raw_client(server, "/greedy") as greedy,
    ):
        neighbour = Neighbour(honest)
        await greedy.send_bytes(messages(MESSAGES))
        await until(lambda: handled == MESSAGES)

        assert len(neighbour.waited) >= MESSAGES // 2 - 1
        assert max(neighbour.waited) <= 2  # the message at hand, and on trio's random order one more


async def test_a_neighbour_waits_for_the_decoding_of_one_message_at_most() -> None:
    decoded = 0

    class Slow:
        name = "slow"

        def encode(self, message: object) -> str:
            return str(message)

        def decode(self, data: str | bytes) -> object:
            nonlocal decoded
            neighbour.look(decoded)
            time.sleep(LONG)
            decoded += 1
            return data

    class Greedy(ConnectionActor):
        codec = Slow()

    async with (
        serving({"/": Echo, "/greedy": Greedy}) as (server, _),
        raw_client(server) as honest,
        raw_client(server, "/greedy") as greedy,
    ):
        neighbour = Neighbour(honest)
        await greedy.send_bytes(small(MESSAGES))
        await until(lambda: decoded == MESSAGES)

        assert max(neighbour.waited) <= 2


async def test_a_neighbour_waits_for_one_message_of_a_greedy_service_at_most() -> None:
    handled = 0

    class Greedy(Actor):
        def on_info(self, message: str) -> None:
            nonlocal handled
            neighbour.look(handled)
            time.sleep(LONG)
            handled += 1

    children = [ChildSpec(Greedy, name="greedy")]
    async with serving(Echo, children=children) as (server, _), raw_client(server) as honest:
        neighbour = Neighbour(honest)
        for _number in range(MESSAGES):
            server.registry["greedy"].tell("work")
        await until(lambda: handled == MESSAGES)

        assert max(neighbour.waited) <= 2


# -- how long that is ----------------------------------------------------------------------------

EMPTY_ARRAYS = msgpack.packb([[]] * (1024 * 1024 - 8))


class Works(ConnectionActor):
    """20 ms of work for each message."""

    def on_message(self, message: object) -> None:
        time.sleep(0.02)


class Decodes(ConnectionActor):
    codec = "msgpack"


def dialled(port: int, path: str) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.sendall(
        f"GET {path} HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    assert b" 101 " in sock.recv(4096)
    return sock


def flood(port: int, path: str, data: bytes, seconds: float) -> None:
    with dialled(port, path) as sock:
        sock.settimeout(0.1)
        end = time.monotonic() + seconds
        view = memoryview(data)
        sent = 0
        while time.monotonic() < end:
            with suppress(TimeoutError):
                sent = (sent + sock.send(view[sent:])) % len(data)


def waits(port: int, seconds: float) -> list[float]:
    """Seconds of each echo."""
    found = []
    end = time.monotonic() + seconds
    with dialled(port, "/") as sock:
        while time.monotonic() < end:
            began = time.monotonic()
            sock.sendall(FRAME)
            assert sock.recv(100)
            found.append(time.monotonic() - began)
            time.sleep(0.005)
    return found


@pytest.mark.soak
@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("/works", encode(BINARY, bytes(60_000)) * 8),
        ("/works", FRAME * 1000),
        ("/decodes", encode(BINARY, EMPTY_ARRAYS)),
    ],
    ids=["20 ms of work for 60 kB", "20 ms of work for 5 bytes", "1 MiB of empty arrays"],
)
async def test_how_long_a_neighbour_waits(path: str, data: bytes, request: pytest.FixtureRequest) -> None:
    routes = {"/": Echo, "/works": Works, "/decodes": Decodes}
    policy = Policy(heartbeat=None, limits=Limits(max_message=2 * 1024 * 1024))
    async with serve(routes, hooks=[], policy=policy) as server:
        attacker = threading.Thread(target=flood, args=(server.port, path, data, 8.0), daemon=True)
        attacker.start()
        found = await anyio.to_thread.run_sync(waits, server.port, 6.0)
        median, longest = statistics.median(found) * 1000, max(found) * 1000
        print(f"\n{request.node.callspec.id}: median {median:.1f} ms, longest {longest:.0f} ms")
        await anyio.to_thread.run_sync(attacker.join)
