"""A whole server in memory: no socket, and a clock that only the test moves.

Everything above the bytes is the real thing: admission, the upgrade, the supervisor of connections,
policies and their watches, registry and topics.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
from websockets.client import ClientProtocol
from websockets.protocol import CONNECTING
from websockets.uri import parse_uri

from actors import ConnectionActor
from actors.protocol.websocket import wire_logger
from actors.testing import Client, ManualClock, running
from actors.transports.asyncio import HIGH_WATER
from supervisor import Server, serve
from supervisor.events import ConnectionOpened
from supervisor.listening.upgrade import Upgrade
from supervisor.tree.lifespan import Host
from tests.witness import Witness


class MemoryServer:
    """A server under test, its clock and its events; made by ``serving_in_memory``."""

    def __init__(self, server: Server, witness: Witness, clock: ManualClock) -> None:
        self.server = server
        self.witness = witness
        self.clock = clock

    async def connect(self, target: str = "/") -> Client:
        """Open a WebSocket; what is still open at the end is closed by the server."""
        protocol = ClientProtocol(parse_uri(f"ws://memory{target}"), max_size=None, logger=wire_logger)
        client = Client(protocol, HIGH_WATER)
        Upgrade(self.server.site, client.transport)
        client.feed(protocol.connect().serialize())
        client.cell = self.server.site.connections.cells()[-1]
        self.server.site.runtime.spawn(client.run, name="client")
        await client.until(lambda: protocol.state is not CONNECTING)
        return client


@asynccontextmanager
async def serving_in_memory(
    routes: type[ConnectionActor] | Mapping[str, type[ConnectionActor]],
    clock: ManualClock | None = None,
    **options: Any,
) -> AsyncIterator[MemoryServer]:
    """Serve ``routes``, or one actor at ``/``; afterwards check that nothing is left."""
    witness, clock = Witness(), clock or ManualClock()
    if not isinstance(routes, Mapping):
        routes = {"/": routes}
    server = serve(routes, hooks=[witness], **options)
    async with running(clock) as runtime:
        host = Host(anyio.CancelScope())
        host.runtime = runtime
        await server._start([], host)
        try:
            yield MemoryServer(server, witness, clock)
        finally:
            over = anyio.Event()

            async def end() -> None:
                await server._end()
                over.set()

            runtime.spawn(end, name="end")
            while not over.is_set():
                await clock.advance(1.0)
        assert host.error is None
        assert len(runtime.timers) == 0
    assert len(server.connections) == 0
    assert len(server.registry) == 0
    assert len(server._root._environment.topics) == 0
    assert len(witness.closed) == len(witness.of(ConnectionOpened))
