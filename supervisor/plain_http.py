"""Plain HTTP on the public port: piped to Robyn, in this process or in the pump's."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, final

from actors.transports.asyncio import AsyncioTransport
from actors.transports.transport import Transport
from supervisor.pipe import QUIET, Pipes
from supervisor.pump import Pump
from supervisor.sources import Sources

if TYPE_CHECKING:
    from supervisor.server import Server


START_TIMEOUT = 10.0
"""Seconds that the start of a process waits for its pump."""


@final
class PlainHttp:
    """The ``plain_http`` of a server: takes its connections whose first request is no upgrade.

    With ``pump`` they are piped in a process of its own, once that is there.
    """

    __slots__ = ("_server", "address", "here", "pump", "sources")

    def __init__(self, server: Server, address: tuple[str, int], *, pump: bool = False) -> None:
        self._server = server
        self.sources = Sources()
        self.address = address
        """Where Robyn listens."""
        self.here = Pipes(server, address, self._upgrade, self.sources.give_back)
        self.pump = Pump(server, address, self.sources.give_back) if pump else None

    def start(self) -> None:
        """Start the pump, if there is to be one; while it is not ready, the pipes are here."""
        if self.pump is not None:
            self.pump.start()

    async def started(self) -> None:
        """Wait until the pump is ready, or known not to be, or takes too long."""
        if self.pump is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.pump.began.wait(), START_TIMEOUT)

    def __call__(self, client: Transport, data: bytes) -> None:
        """Pipe one client whose first bytes, the whole head of a request, are ``data``."""
        assert isinstance(client, AsyncioTransport), "Robyn's event loop is one of asyncio"
        source = self.sources.take(client.peer)
        if self.pump is None or not self.pump.take(client, data, source):
            self.here.begin(client, data, source)

    def _upgrade(self, client: AsyncioTransport, request: bytes) -> None:
        client.take_back()
        self._server.take_back(client, request)

    def last_answers(self) -> None:
        """Let every request be the last one of its connection from now on."""
        self.here.closing = True
        if self.pump is not None:
            self.pump.last_answers()

    async def settle(self) -> None:
        """Wait, for a short time, for the requests of the connections that were accepted last."""
        looks = 20
        while self._server.upgrades and looks:
            looks -= 1
            await asyncio.sleep(QUIET / 20)

    async def finish(self) -> None:
        """Wait for the answers that are to come; end the connections that have been quiet for a while."""
        await self.settle()
        if self.pump is not None:
            self.pump.finish()
        await self.here.finish()
        if self.pump is not None:
            await self.pump.finished()

    def abort(self) -> None:
        """Drop every connection that is piped."""
        self.here.abort()
        if self.pump is not None:
            self.pump.stop()
