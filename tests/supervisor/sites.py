"""A server of WebSockets with a listener behind it that a test plays, and bytes for both."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import pytest

from actors import ConnectionActor
from supervisor import Admission, Policy, Server
from supervisor.admission.options import Kind
from supervisor.proxy.forwarder import Forwarder
from tests.raw import DEADLINE, RawClient
from tests.witness import serving

GET = b"GET /page HTTP/1.1\r\nHost: localhost\r\n\r\n"
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
MB = 1024 * 1024

asyncio_only = pytest.mark.parametrize(
    "anyio_backend",
    ["asyncio", pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop")],
    scope="module",
)
"""Robyn's event loop is one of asyncio."""


class Echo(ConnectionActor):
    async def on_message(self, message: str | bytes) -> None:
        await self.send(message)


def post(body: bytes) -> bytes:
    return b"POST /p HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


class Site:
    """A server of WebSockets, and the listener behind it that a test plays."""

    def __init__(self, server: Server, http: Forwarder) -> None:
        self.server = server
        self.port = server.port
        self.http = http
        self.pipes = http.here


Play = Callable[[RawClient], Awaitable[None]]


@asynccontextmanager
async def site(
    play: Play, policy: Policy | None = None, *, pump: bool = False, admission: Admission | None = None
) -> AsyncIterator[Site]:
    """Serve WebSockets at /ws, and everything else by ``play``, called with each connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        async with serving({"/ws": Echo}, policy=policy, admission=admission) as (server, _):
            http = Forwarder(server.site, listener.getsockname(), pump=pump)
            server.site.serve_http(http, server.site.ready_path, None)
            http.start()
            await http.started()
            try:
                async with anyio.create_task_group() as task_group:
                    task_group.start_soon(accept, listener, play)
                    yield Site(server, http)
                    task_group.cancel_scope.cancel()
            finally:
                http.abort()
            assert not http.here.open
            assert not http.sources._open
            assert not http._places
            assert server.site.gate.count(Kind.HTTP) == 0


async def accept(listener: socket.socket, play: Play) -> None:
    async def played(connection: socket.socket) -> None:
        connection.setblocking(False)
        with connection:
            await play(RawClient(connection))

    async with anyio.create_task_group() as task_group:
        while True:
            await anyio.wait_readable(listener)
            task_group.start_soon(played, listener.accept()[0])


@asynccontextmanager
async def dialed(port: int, source: str | None = None) -> AsyncIterator[RawClient]:
    """A client that has sent nothing yet, at the address ``source``."""
    client = await RawClient.dial(port, source=source)
    try:
        yield client
    finally:
        client.close()


async def read(stream: RawClient, expected: bytes) -> None:
    """Read ``expected`` and no more."""
    with anyio.fail_after(DEADLINE):
        while len(stream.wire) - stream._read < len(expected):
            assert await stream.receive()
    assert stream.wire[stream._read :] == expected
    stream._read = len(stream.wire)


async def answer_gets(client: RawClient) -> None:
    """Answer GET requests until the client ends its side, then end too, as Robyn does."""
    answered = 0
    while await client.receive():
        while client.wire.count(b"\r\n\r\n") > answered:
            answered += 1
            await client.send_bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
    assert client.wire == GET * answered


async def discard(client: RawClient) -> int:
    """Read to the end of the stream and count the bytes."""
    received = 0
    while await client.receive():
        received += len(client.wire)
        client.wire.clear()
    return received


def resident(pid: int | str = "self") -> int:
    """Bytes of memory that a process has in use."""
    with open(f"/proc/{pid}/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
