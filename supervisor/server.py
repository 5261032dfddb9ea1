"""``serve``: WebSockets of actor classes at paths, inside the caller's own asyncio or trio program.

Structure: the body of ``async with serve(...)`` runs in the caller's task.  Everything else runs in
one task group of a host task that is shielded from the caller's cancellation, so that a cancelled
program still closes its connections: the body sees the cancellation, and leaving the block stops
the host within the close and teardown timeouts.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl as tls
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import final

import anyio
import anyio.lowlevel
import anyio.to_thread
from anyio.abc import TaskGroup, TaskStatus

from actors import ConnectionActor
from actors.codes import CloseCode
from actors.messages import Close, ExitReason
from actors.runtime import Runtime
from actors.transports.transport import Transport
from actors.wakeup import Waiter
from supervisor.drain import DrainReport, drain
from supervisor.events import Hook, ServerStarted, ServerStopped, log_event, tell
from supervisor.listeners import addresses_of, bind_tcp, bind_unix, listen
from supervisor.policies import Policy, check_seconds
from supervisor.registry import Registry
from supervisor.routes import Route, Router
from supervisor.specs import ChildSpec
from supervisor.tree import Connections, ConnectionSupervisor, ServiceSupervisor
from supervisor.upgrade import Upgrade

logger = logging.getLogger("supervisor")

Routes = Mapping[str, type[ConnectionActor] | Route]


def serve(
    routes: Routes,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    unix: str | os.PathLike[str] | None = None,
    sock: socket.socket | None = None,
    ssl: tls.SSLContext | None = None,
    policy: Policy | None = None,
    children: Sequence[ChildSpec] = (),
    hooks: Sequence[Hook] = (log_event,),
) -> AbstractAsyncContextManager[Server]:
    """Serve actor classes at paths, for as long as the ``async with`` block runs.

    ``routes`` maps a path (``"/rooms/:room"``) to a ``ConnectionActor`` subclass or a ``Route``.
    Listens on ``host`` and ``port`` (by default any free one: ``server.port`` tells), or on the Unix
    socket ``unix``, or on the bound socket ``sock``, which it takes over.  ``ssl`` turns on TLS.
    ``policy`` is for what classes and routes leave open.  ``children`` are services that run beside
    the connections.  ``hooks`` are told every lifecycle event; by default the log is.

    Raises ``TypeError`` and ``ValueError`` at once for options that cannot work, and ``OSError``
    naming the address on entering the block.  An error of the body keeps its type.  Leaving the
    block, by its end, an error or cancellation, closes every connection with 1001, tears all down,
    and takes no longer than the close timeout and the steps of the teardown.
    """
    return Server(
        routes,
        host=host,
        port=port,
        unix=unix,
        sock=sock,
        ssl=ssl,
        policy=policy,
        children=children,
        hooks=hooks,
    ).running()


@final
class Server:
    """A server at work; made by ``serve``."""

    runtime: Runtime
    tree: ConnectionSupervisor
    _stop: Waiter

    def __init__(
        self,
        routes: Routes,
        *,
        host: str,
        port: int | None,
        unix: str | os.PathLike[str] | None,
        sock: socket.socket | None,
        ssl: tls.SSLContext | None,
        policy: Policy | None,
        children: Sequence[ChildSpec],
        hooks: Sequence[Hook],
        plain_http: Callable[[Transport, bytes], None] | None = None,
    ) -> None:
        given = [
            name for name, value in (("port", port), ("unix", unix), ("sock", sock)) if value is not None
        ]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)}: one address is enough, give only one of them")
        if policy is not None and not isinstance(policy, Policy):
            raise TypeError(f"policy: a supervisor.Policy, not {policy!r}")
        if ssl is not None and not isinstance(ssl, tls.SSLContext):
            raise TypeError(f"ssl: an ssl.SSLContext, not {ssl!r}")
        for child in children:
            if not isinstance(child, ChildSpec):
                raise TypeError(f"children: each a supervisor.ChildSpec, not {child!r}")
        names = [child.name for child in children if child.name is not None]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"children: {name!r} is the name of two of them")
        self.router = Router(routes)
        self.given_policy = policy
        self.policy = policy or Policy()
        self.hooks = tuple(hooks)
        self.registry = Registry()
        self.upgrades: set[Upgrade] = set()
        self.accepting = True
        self.plain_http = plain_http
        """Who gets a connection whose first request is no upgrade; without it that is answered 426."""
        self.bound: Sequence[socket.socket] | None = None
        """Listening sockets to take over in the place of an address: bound before the event loop runs."""
        self._tcp_address, self._sock = (host, port or 0), sock
        self._unix = None if unix is None else os.fspath(unix)
        self._ssl = ssl
        self._children = children
        self._addresses: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<Server on {', '.join(self._addresses) or 'nothing'}: {len(self.connections)} connections>"

    # -- what users see ------------------------------------------------------------------------

    @property
    def port(self) -> int:
        """The port that is listened on; raises ``AttributeError`` on a Unix socket."""
        for address in self._addresses:
            if not address.startswith("unix:"):
                return int(address.rpartition(":")[2])
        raise AttributeError("port: this server listens on a Unix socket")

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses that are listened on: ``host:port`` or ``unix:path``."""
        return self._addresses

    @property
    def connections(self) -> Connections:
        """A sized, iterable view of the refs of all open connections."""
        return self.tree.view

    async def drain(
        self,
        within: float = 30.0,
        spread: float = 10.0,
        code: int = CloseCode.SERVICE_RESTART,
        reason: str = "service restart",
        notice: object = None,
    ) -> DrainReport:
        """Take the server out of service gracefully, and say how it went.

        New upgrades get 503; every open connection is closed with ``code`` and ``reason`` at a time of
        its own within ``spread`` seconds, after ``notice`` if there is one; what is left after
        ``within`` seconds is aborted.  The listeners stay open, to refuse.
        """
        check_seconds("within", within, zero=True)
        check_seconds("spread", spread, zero=True)
        close = Close(code, reason, notice=notice, exit_reason=ExitReason.DRAIN)
        self.accepting = False
        return await drain(self.runtime, self.tree.cells(), close=close, within=within, spread=spread)

    async def serve_forever(self) -> None:
        """Wait until the surrounding program cancels this, or ``stop`` is called."""
        await self._stop.wait()

    def stop(self) -> None:
        """Let ``serve_forever`` return; from any thread."""
        self._stop.wake()

    # -- the life ------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Server]:
        """Run the server around a block."""
        sockets = await self._bind()
        self._addresses = addresses_of(sockets)
        self._stop = Waiter()
        started, body_over, over = Waiter(), Waiter(), Waiter()
        error: BaseException | None = None
        async with anyio.create_task_group() as outer:
            outer.start_soon(self._host_task, sockets, started, body_over, over, name="supervisor.serve")
            with anyio.CancelScope(shield=True):  # bounded: the host opens its listeners or fails
                await started.wait()
            try:
                await anyio.lowlevel.checkpoint_if_cancelled()  # the host may have failed
                yield self
            except BaseException as raised:
                error = raised
            body_over.wake()
            with anyio.CancelScope(shield=True):  # bounded: by the close timeout and the teardown's
                await over.wait()
        if error is not None:
            raise error

    async def run(self, *, task_status: TaskStatus[Server] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled or stopped; for ``task_group.start(server.run)``."""
        async with self.running():
            task_status.started(self)
            await self.serve_forever()

    async def _host_task(
        self, sockets: list[socket.socket], started: Waiter, body_over: Waiter, over: Waiter
    ) -> None:
        try:
            with anyio.CancelScope(shield=True):  # ends by itself after body_over
                async with anyio.create_task_group() as task_group:
                    await self._host(task_group, sockets, started, body_over)
                    task_group.cancel_scope.cancel()
        finally:
            for one in sockets:
                one.close()
            if self._unix is not None:
                with suppress(FileNotFoundError):
                    os.unlink(self._unix)
            started.wake()
            over.wake()

    async def _host(
        self, task_group: TaskGroup, sockets: list[socket.socket], started: Waiter, body_over: Waiter
    ) -> None:
        self.runtime = runtime = Runtime(task_group)
        runtime.spawn(runtime.timers.run, name="timers")
        self.tree = ConnectionSupervisor(runtime, self.registry, self.hooks)
        services = ServiceSupervisor(runtime, self.registry, self.hooks, self._children, self.given_policy)
        services.start()
        timeouts = self.policy.timeouts
        listeners = await listen(
            runtime,
            sockets,
            self._accepted,
            ssl=self._ssl,
            high_water=self.policy.limits.send_high_water,
            ssl_timeouts=(timeouts.handshake, timeouts.close),
        )
        tell(self.hooks, ServerStarted(self._addresses))
        started.wake()
        await body_over.wait()
        self.accepting = False
        listeners.close()
        for upgrade in list(self.upgrades):
            upgrade.abort()
        await self.tree.stop(
            Close(CloseCode.GOING_AWAY, "server shutting down", exit_reason=ExitReason.SHUTDOWN),
            timeouts.close,
        )
        await services.stop()
        tell(self.hooks, ServerStopped())

    def _accepted(self, transport: Transport) -> None:
        Upgrade(self, transport)

    async def _bind(self) -> list[socket.socket]:
        if self.bound is not None:
            return list(self.bound)
        if self._sock is not None:
            self._sock.setblocking(False)
            return [self._sock]
        if self._unix is not None:
            return [bind_unix(self._unix)]
        return await anyio.to_thread.run_sync(bind_tcp, *self._tcp_address)
