"""Real slow lines and a really stopped process, at the default policy: the slow tests, ``-m soak``."""

from __future__ import annotations

import os
import signal
import socket
import sys
import textwrap
import time

import anyio
import pytest

from actors import ConnectionActor
from tests.raw import PING, PONG, RawClient, decode, encode, raw_client
from tests.witness import serving

pytestmark = pytest.mark.soak

KILO, MEGA = 1024, 1024 * 1024


class Sends(ConnectionActor):
    """Sends as much as it is told, in messages of a size or by publishing, and closes behind it."""

    async def on_connect(self) -> None:
        self.join(self.id)

    async def on_message(self, message: str) -> None:
        way, size, parts = message.split()
        for _ in range(int(parts)):
            if way == "publish":
                self.publish(self.id, bytes(int(size) // int(parts)))
            else:
                await self.send(bytes(int(size) // int(parts)))
        self.close(4001, "all of it")


async def read_at(client: RawClient, rate: float) -> tuple[int, tuple[int, str]]:
    """Read at ``rate`` bytes a second, answering pings, to the Close; give the bytes of the messages."""
    began, read, position, payload = time.monotonic(), 0, client._read, 0
    while True:
        ahead = read / rate - (time.monotonic() - began)
        if ahead > 0:
            await anyio.sleep(ahead)
        await anyio.wait_readable(client.sock)
        data = client.sock.recv(16 * KILO)
        assert data, f"the server ended it after {read} bytes"
        read += len(data)
        client.wire += data
        if len(client.wire) - position > 10 and client.wire[position] == 0x82:
            size = client.wire[position + 1]
            if size == 127 and len(client.wire) - position - 10 < int.from_bytes(
                client.wire[position + 2 : position + 10], "big"
            ):
                continue
        while (found := decode(client.wire, position)) is not None:
            frame, position = found
            if frame.opcode == PING:
                await client.send_bytes(encode(PONG, frame.payload))
            elif frame.opcode == 8:
                await client.send_bytes(encode(8, frame.payload))
                return payload, frame.close
            else:
                payload += len(frame.payload)


@pytest.mark.every_runtime
@pytest.mark.parametrize("buffer", [None, 87 * KILO])
@pytest.mark.parametrize(
    ("size", "parts", "rate"),
    [(32 * MEGA, 1, 1e6), (32 * MEGA, 512, 1e6), (3 * MEGA, 1, 200e3), (3 * MEGA, 48, 200e3)],
)
@pytest.mark.parametrize("way", ["send", "publish"])
async def test_a_steady_reader_gets_all_and_the_close_behind_it(
    way: str, size: int, parts: int, rate: float, buffer: int | None
) -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    if buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    with sock:
        async with (
            serving(Sends, sock=sock) as (server, witness),
            raw_client(server, receive_buffer=64 * KILO) as client,
        ):
            await client.send(f"{way} {size} {parts}")
            got, close = await read_at(client, rate)
            assert (await witness.one_closed()).report.clean

    assert (got, close) == (size, (4001, "all of it"))


PROGRAM = """
    import sys, anyio
    from supervisor import Heartbeat, Limits, Policy, Timeouts, serve
    from tests.supervisor.test_slow_lines import Sends

    policy = Policy(
        timeouts=Timeouts(idle=3, assembly=3, close=3),
        heartbeat=Heartbeat(interval=1, timeout=1),
        limits=Limits(send_stall=3),
    )

    async def main():
        async with serve({"/": Sends}, policy=policy) as server:
            print(server.port, flush=True)
            await anyio.sleep_forever()

    backend, uvloop = sys.argv[1:]
    options = {"use_uvloop": uvloop == "True"} if backend == "asyncio" else {}
    anyio.run(main, backend=backend, backend_options=options)
"""


@pytest.mark.parametrize(
    ("backend", "uvloop"), [("asyncio", False), ("asyncio", True), ("trio", False)], ids=str
)
async def test_a_process_that_was_stopped_ends_none_of_its_connections(backend: str, uvloop: bool) -> None:
    program = await anyio.open_process(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), backend, str(uvloop)], stderr=None
    )
    assert program.stdout is not None
    port = int(await program.stdout.receive())
    clients = [await RawClient.dial(port) for _ in range(3)]
    try:
        for client in clients:
            assert await client.request() == 101
        await clients[1].send_bytes(encode(2, bytes(1000))[:500])
        await anyio.sleep(0.5)
        for _ in range(2):
            os.kill(program.pid, signal.SIGSTOP)
            await anyio.sleep(5)
            os.kill(program.pid, signal.SIGCONT)
            await anyio.sleep(0.6)
            for client in clients:
                while client.sock in (await ready(client)):
                    assert await client.receive()
                while (found := decode(client.wire, client._read)) is not None:
                    frame, client._read = found
                    assert frame.opcode == PING
                    await client.send_bytes(encode(PONG, frame.payload))
    finally:
        for client in clients:
            client.close()
        program.kill()
        await program.wait()
        await program.aclose()


async def ready(client: RawClient) -> list[socket.socket]:
    """The client's socket, if there is something to read."""
    with anyio.move_on_after(0.05):
        await anyio.wait_readable(client.sock)
        return [client.sock]
    return []
