"""Plain HTTP on the public port: piped to Robyn, in this process or in the pump's."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import count
from typing import final

from actors.transports.asyncio import AsyncioTransport
from actors.transports.transport import Transport
from supervisor.admission.gate import Ticket
from supervisor.listening.site import Site
from supervisor.listening.upgrade import take_back
from supervisor.proxy.addresses import Sources
from supervisor.proxy.pipe import QUIET, Pipes
from supervisor.proxy.pump import Pump

START_TIMEOUT = 10.0
"""Seconds that the start of a process waits for its pump."""


@final
class Forwarder:
    """The ``forward`` of a site: takes its connections whose first request is no upgrade.

    With ``pump`` they are piped in a process of its own, once that is there.  Each keeps its place until its
    pipe is over, wherever that is.
    """

    __slots__ = ("_numbers", "_places", "_site", "address", "here", "pump", "sources")

    def __init__(self, site: Site, address: tuple[str, int], *, pump: bool = False) -> None:
        self._site = site
        self.sources = Sources()
        self._numbers = count()
        self._places: dict[int, tuple[Ticket, str | None]] = {}  # of every pipe, by its number
        self.address = address
        """Where Robyn listens."""
        self.here = Pipes(site, address, self._upgrade_here, self._ended)
        self.pump = Pump(site, address, self._upgrade, self._ended) if pump else None

    def start(self) -> None:
        """Start the pump, if there is to be one; while it is not ready, the pipes are here."""
        if self.pump is not None:
            self.pump.start()

    async def started(self) -> None:
        """Wait until the pump is ready, or known not to be, or takes too long."""
        if self.pump is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.pump.began.wait(), START_TIMEOUT)

    def __call__(self, client: Transport, data: bytes, ticket: Ticket) -> None:
        """Pipe one client whose first bytes, the whole head of a request, are ``data``."""
        assert isinstance(client, AsyncioTransport), "Robyn's event loop is one of asyncio"
        source = self.sources.take(client.peer)
        number = next(self._numbers)
        self._places[number] = ticket, source
        if self.pump is None or not self.pump.take(client, data, source, number):
            self.here.begin(client, data, source, number)

    def _ended(self, number: int) -> None:
        ticket, source = self._places.pop(number)
        self.sources.give_back(source)
        self._site.gate.leave(ticket)

    def _upgrade_here(self, client: AsyncioTransport, request: bytes, number: int) -> None:
        client.take_back()
        self._upgrade(client, request, number)

    def _upgrade(self, client: AsyncioTransport, request: bytes, number: int) -> None:
        ticket, source = self._places.pop(number)
        self.sources.give_back(source)
        take_back(self._site, client, request, ticket)

    def last_answers(self) -> None:
        """Let every request be the last one of its connection from now on."""
        self.here.closing = True
        if self.pump is not None:
            self.pump.last_answers()

    async def settle(self) -> None:
        """Wait, for a short time, for the requests of the connections that were accepted last."""
        looks = 20
        while self._site.upgrades and looks:
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
