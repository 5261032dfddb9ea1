"""A turn of an actor ends after a while, whatever its messages cost; the others are not held up."""

from __future__ import annotations

import time
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from actors import ConnectionActor
from actors.cell import SLICE
from actors.codecs import JsonCodec
from tests.raw import BINARY, encode, encode_close, raw_client
from tests.witness import serving, until

pytestmark = pytest.mark.every_runtime

MESSAGES = 12


class Turns:
    """Counts what is handled within each turn of the event loop."""

    def __init__(self) -> None:
        self.handled = 0
        self.most = 0
        self._in_turn = 0

    def note(self) -> None:
        self.handled += 1
        self._in_turn += 1
        self.most = max(self.most, self._in_turn)

    async def turn(self) -> None:
        while True:
            self._in_turn = 0
            await anyio.lowlevel.checkpoint()


class SlowCodec(JsonCodec):
    def decode(self, data: Any) -> Any:
        time.sleep(2 * SLICE)
        return data


@pytest.mark.parametrize("decoding", [False, True], ids=["hooks", "decoding"])
@pytest.mark.parametrize("size", [10, 60_000], ids=["small", "large"])
@pytest.mark.parametrize("connections", [1, 3])
async def test_messages_that_take_long_get_no_turn_for_many_of_them(
    connections: int, size: int, decoding: bool
) -> None:
    turns = Turns()

    class Greedy(ConnectionActor):
        def on_message(self, message: str | bytes) -> None:
            if not decoding:
                time.sleep(2 * SLICE)
            turns.note()

    if decoding:
        Greedy.codec = SlowCodec()

    async def send(server: Any) -> None:
        async with raw_client(server) as client:
            await client.send_bytes(encode(BINARY, bytes(size)) * MESSAGES)
            await client.send_bytes(encode_close(1000))
            await client.receive()

    async with serving(Greedy) as (server, _), anyio.create_task_group() as task_group:
        task_group.start_soon(turns.turn)
        for _ in range(connections):
            task_group.start_soon(send, server)
        await until(lambda: turns.handled == connections * MESSAGES)
        task_group.cancel_scope.cancel()

    assert turns.most <= 2 * connections


async def test_told_messages_that_take_long_get_no_turn_for_many_of_them() -> None:
    turns = Turns()

    class Greedy(ConnectionActor):
        def on_info(self, message: object) -> None:
            time.sleep(2 * SLICE)
            turns.note()

    async with serving(Greedy) as (server, _), raw_client(server), anyio.create_task_group() as task_group:
        task_group.start_soon(turns.turn)
        (ref,) = server.connections
        for number in range(MESSAGES):
            ref.tell(number)
        await until(lambda: turns.handled == MESSAGES)
        task_group.cancel_scope.cancel()

    assert turns.most <= 2
