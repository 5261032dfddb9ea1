"""Listening sockets: bound before anything runs, then opened on asyncio or trio."""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import socket
import ssl as tls
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, final

import anyio
import trio

from actors.backends import AsyncioBackend
from actors.runtime import Runtime
from actors.transports.asyncio import AsyncioTransport
from actors.transports.transport import Transport
from actors.transports.trio import TrioTransport
from supervisor.listening.sockets import (
    BACKLOG,
)

logger = logging.getLogger("supervisor")

# accept(2): "treat them like EAGAIN": the connection is gone before it was accepted.  Everything else is
# the machine's matter, which passes: no descriptors, no memory, whatever a kernel may come upon.
_OF_ONE_CONNECTION = frozenset(
    {
        errno.ECONNABORTED,
        errno.ECONNRESET,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENOPROTOOPT,
        errno.EOPNOTSUPP,
        errno.EPERM,
        errno.EPROTO,
        errno.EPROTONOSUPPORT,
        errno.ESOCKTNOSUPPORT,
        errno.ETIMEDOUT,
        getattr(errno, "ENONET", errno.ENETDOWN),  # Linux only
    }
)
ACCEPT_PAUSE = 0.1
"""Seconds to wait when the process or the machine cannot accept a connection, for want of descriptors say."""


class Listeners(Protocol):
    """Open listeners."""

    async def close(self) -> None:
        """Accept nothing more; what was accepted is left alone, and all of it known when this returns."""


async def listen(
    runtime: Runtime,
    sockets: Sequence[socket.socket],
    accepted: Callable[[Transport], object],
    *,
    ssl: tls.SSLContext | None,
    high_water: int,
    ssl_timeouts: tuple[float | None, float | None],
) -> Listeners:
    """Accept on ``sockets``; ``accepted`` gets every connection and sets its transport's sink."""
    if isinstance(runtime.backend, AsyncioBackend):
        return await _listen_asyncio(
            runtime,
            runtime.backend.loop,
            sockets,
            accepted,
            ssl=ssl,
            high_water=high_water,
            ssl_timeouts=ssl_timeouts,
        )
    return _TrioListeners(runtime, sockets, accepted, ssl=ssl, high_water=high_water)


@final
class _Trouble:
    """The reaction to errors of accept(2): one connection's costs nothing, one of the process time."""

    def __init__(self, runtime: Runtime) -> None:
        self._clock = runtime.clock
        self._told_at = -math.inf

    def pause(self, error: OSError) -> float:
        """Give the seconds to wait before accepting again."""
        if error.errno in _OF_ONE_CONNECTION:
            return 0.0
        now = self._clock()
        if now - self._told_at >= 60:
            self._told_at = now
            logger.error("accept: %s; trying again every %s s", error.strerror, ACCEPT_PAUSE)
        return ACCEPT_PAUSE


class _AsyncioListeners:
    """Accepts by itself: to EMFILE, asyncio's server has one more try for each place in the backlog.

    And no event loop tells of a connection before its TLS handshake is done.
    """

    def __init__(
        self,
        runtime: Runtime,
        loop: asyncio.AbstractEventLoop,
        sockets: Sequence[socket.socket],
        protocol: Callable[[], AsyncioTransport],
        ssl: tls.SSLContext | None,
        ssl_timeouts: tuple[float | None, float | None],
    ) -> None:
        self._runtime = runtime
        self._loop = loop
        self._sockets = sockets
        self._protocol = protocol
        self._ssl = ssl
        self._ssl_timeouts = ssl_timeouts
        self._open = True
        self._trouble = _Trouble(runtime)
        for one in sockets:
            one.listen(BACKLOG)
            self._listen(one)

    def _listen(self, listener: socket.socket) -> None:
        if self._open:
            self._loop.add_reader(listener, self._accept, listener)

    async def close(self) -> None:
        self._open = False
        for one in self._sockets:
            self._loop.remove_reader(one)
            one.close()
        for _ in range(3):  # from accepting a connection to its transport it takes two turns
            await asyncio.sleep(0)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(BACKLOG):
            try:
                accepted, _address = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if pause := self._trouble.pause(error):
                    self._loop.remove_reader(listener)
                    self._runtime.timers.after(pause, partial(self._listen, listener))
                    return
            else:
                accepted.setblocking(False)
                serve = self._serve if self._ssl is None else self._serve_tls
                self._runtime.spawn(serve, accepted, name="connection")

    async def _serve(self, accepted: socket.socket) -> None:
        with suppress(OSError):
            await self._loop.connect_accepted_socket(self._protocol, accepted)

    async def _serve_tls(self, accepted: socket.socket) -> None:
        transport = self._protocol()
        handshake, shutdown = self._ssl_timeouts
        try:
            with anyio.CancelScope() as scope, suppress(OSError):
                # Before the handshake: a peer that makes none is counted, too.
                transport.wait_for_tls(accepted, scope.cancel)
                await self._loop.connect_accepted_socket(
                    lambda: transport,
                    accepted,
                    ssl=self._ssl,
                    ssl_handshake_timeout=handshake,
                    ssl_shutdown_timeout=shutdown,
                )
        finally:
            transport.tls_is_over()


class _UvloopListeners:
    """Leaves accepting to libuv, which has its own way with EMFILE: it drops what it cannot serve."""

    def __init__(self, servers: Sequence[asyncio.Server]) -> None:
        self._servers = servers

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        for _ in range(3):  # it tells us a turn late
            await asyncio.sleep(0)


async def _listen_asyncio(
    runtime: Runtime,
    loop: asyncio.AbstractEventLoop,
    sockets: Sequence[socket.socket],
    accepted: Callable[[Transport], object],
    *,
    ssl: tls.SSLContext | None,
    high_water: int,
    ssl_timeouts: tuple[float | None, float | None],
) -> Listeners:
    def protocol() -> AsyncioTransport:
        return AsyncioTransport(loop, accepted, high_water)

    if ssl is not None or isinstance(loop, asyncio.SelectorEventLoop):
        return _AsyncioListeners(runtime, loop, sockets, protocol, ssl, ssl_timeouts)
    servers = []
    for one in sockets:
        create: Any = loop.create_unix_server if one.family == socket.AF_UNIX else loop.create_server
        servers.append(await create(protocol, sock=one, backlog=BACKLOG))
    return _UvloopListeners(servers)


class _TrioListeners:
    def __init__(
        self,
        runtime: Runtime,
        sockets: Sequence[socket.socket],
        accepted: Callable[[Transport], object],
        *,
        ssl: tls.SSLContext | None,
        high_water: int,
    ) -> None:
        self._runtime = runtime
        self._accepted = accepted
        self._ssl = ssl
        self._high_water = high_water
        self._trouble = _Trouble(runtime)
        self._listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(one)) for one in sockets]
        for listener in self._listeners:
            runtime.spawn(self._accept, listener, name="accept")

    async def close(self) -> None:
        for listener in self._listeners:
            listener.socket.close()
        await trio.lowlevel.cancel_shielded_checkpoint()  # `_serve` of what was accepted last begins

    async def _accept(self, listener: trio.SocketListener) -> None:
        while True:
            try:
                stream = await listener.accept()
            except trio.ClosedResourceError:
                return
            except OSError as error:
                await trio.sleep(self._trouble.pause(error))
            else:
                self._runtime.spawn(self._serve, stream, name="connection")

    async def _serve(self, stream: trio.SocketStream) -> None:
        wire: trio.SocketStream | trio.SSLStream[trio.SocketStream] = stream
        if self._ssl is not None:
            # Not https_compatible: that leaves out close_notify, and the peer could not tell the end from a
            # cut (RFC 8446, section 6.1).
            wire = trio.SSLStream(stream, self._ssl, server_side=True)
        transport = TrioTransport(wire, self._high_water)
        self._accepted(transport)
        self._runtime.spawn(transport.write_out, name="writer")
        await transport.run()
