"""``serve``: WebSockets of actor classes at paths, inside the caller's own asyncio or trio program.

The way of a connection: ``listeners`` -> ``_accepted`` -> ``Upgrade`` -> ``ConnectionSupervisor``.
The life of the server is ``running``: ``_start``, the caller's block, ``_end``; see ``hosting``.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl as tls
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from types import TracebackType
from typing import final

import anyio
import anyio.to_thread
from anyio.abc import TaskStatus

from actors import Actor, ConnectionActor, ExitReason
from actors.codes import CloseCode
from actors.errors import ActorMisuse
from actors.messages import Close
from actors.runtime import Runtime
from actors.transports.transport import Transport
from actors.wakeup import Waiter
from supervisor.admission import Admission, Gate
from supervisor.connections import Connections, ConnectionSupervisor
from supervisor.drain import Draining, DrainReport
from supervisor.events import Hook, ServerStarted, ServerStopped, check_hooks, log_event, tell
from supervisor.hosting import Host, hosted
from supervisor.listeners import Listeners, addresses_of, bind_tcp, bind_unix, listen, resolve, take_over
from supervisor.policies import Policy, check_seconds
from supervisor.registry import Registry
from supervisor.routes import Route, Router
from supervisor.specs import ChildSpec
from supervisor.strategies import Strategy
from supervisor.surroundings import Surroundings
from supervisor.tree import Root, Supervisor, Tree
from supervisor.upgrade import Terms, Upgrade

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
    admission: Admission | None = None,
    strategy: Strategy = Strategy.ONE_FOR_ONE,
    children: Sequence[ChildSpec | Supervisor | type[Actor]] = (),
    hooks: Sequence[Hook] = (log_event,),
) -> Server:
    """Serve actor classes at paths, for as long as the ``async with`` block runs.

    ``routes`` maps a path (``"/rooms/:room"``) to a ``ConnectionActor`` subclass or a ``Route``.
    Listens on ``host`` and ``port`` (by default any free one: ``server.port`` tells), or on the Unix
    socket ``unix``, or on the bound socket ``sock``, which it takes over.  ``ssl`` turns on TLS.
    ``policy`` is for what classes and routes leave open, ``admission`` says who may connect.
    ``children`` are services and supervisors that run beside the connections, under ``strategy``, as
    in ``Supervisor``; they start before the first connection and stop after the last.  ``hooks`` are
    told every lifecycle event; by default the log is.

    In place of the block, ``await task_group.start(serve(...).run)`` serves until it is cancelled.

    Raises ``TypeError`` and ``ValueError`` at once for options that cannot work, and ``OSError``
    naming the address on entering the block, and what ``Supervisor`` raises.  An error of the block
    keeps its type.  Leaving the
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
        admission=admission,
        strategy=strategy,
        children=children,
        hooks=hooks,
    )


@final
class Server:
    """A server at work; made by ``serve``."""

    runtime: Runtime
    connection_supervisor: ConnectionSupervisor
    gate: Gate
    _root: Root
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
        admission: Admission | None,
        strategy: Strategy,
        children: Sequence[ChildSpec | Supervisor | type[Actor]],
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
        if admission is not None and not isinstance(admission, Admission):
            raise TypeError(f"admission: a supervisor.Admission, not {admission!r}")
        if ssl is not None and not isinstance(ssl, tls.SSLContext):
            raise TypeError(f"ssl: an ssl.SSLContext, not {ssl!r}")
        self._services = Supervisor(children, strategy=strategy, name="services")
        self.router = Router(routes)
        self.given_policy = policy
        self._terms: dict[Route, Terms] = {}
        self._admission = admission or Admission()
        self.policy = policy or Policy()
        self.hooks = check_hooks(hooks)
        self.registry = Registry()
        self.upgrades: set[Upgrade] = set()
        self._drains: list[Draining] = []
        self._out_of_service = False
        self.plain_http = plain_http
        """Who gets a connection whose first request is no upgrade; without it that is answered 426."""
        self.ready_path: str | None = None
        """Where GET is answered with 200 while the server is ready, and with 503 while it is not."""
        self.keep_alive: float | None = None
        """Seconds that a connection of ``plain_http`` may be idle."""
        self.bound: Sequence[socket.socket] | None = None
        """Listening sockets to take over in the place of an address: bound before the event loop runs."""
        self._tcp_address, self._sock = (host, port or 0), sock
        self._unix = None if unix is None else os.fspath(unix)
        self._ssl = ssl
        self._listeners: Listeners | None = None
        self._running: AbstractAsyncContextManager[Server] | None = None
        self._addresses: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<Server on {', '.join(self._addresses) or 'nothing yet'}>"

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
    def accepting(self) -> bool:
        """Whether upgrades are welcome: not while it is drained, and not afterwards or when it stops."""
        return not (self._out_of_service or self._drains)

    @property
    def ready(self) -> bool:
        """Whether new connections are welcome: the server listens, and is not drained or stopped."""
        return self._listeners is not None and self.accepting

    @property
    def connections(self) -> Connections:
        """A sized, iterable view of the refs of all open connections."""
        return self.connection_supervisor.view

    @property
    def tree(self) -> Tree:
        """The tree: its registry, ``start_child``, ``publish`` and ``describe``."""
        return self._root.tree

    def publish(self, topic: str, message: object) -> None:
        """Give ``message`` to every member of ``topic``; from any thread."""
        self._root.tree.publish(topic, message)

    @property
    def refused(self) -> Mapping[str, int]:
        """How many connections admission refused, by reason: ``"origin"``, ``"per_address"`` and so on."""
        return self.gate.refused

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
        ``within`` seconds is aborted.  The listeners stay open, to refuse.  A drain that is cancelled
        leaves the connections that are still open alone, and new ones are welcome again.
        """
        check_seconds("within", within, zero=True, off=False)
        check_seconds("spread", spread, zero=True, off=False)
        close = Close(code, reason, notice=notice, exit_reason=ExitReason.DRAIN)
        cells = self.connection_supervisor.cells()
        draining = Draining(self.runtime, cells, close=close, within=within, spread=spread, hooks=self.hooks)
        self._drains.append(draining)
        try:
            report = await draining.run()
            self._out_of_service = True
            return report
        finally:
            self._drains.remove(draining)

    def hurry(self, within: float) -> None:
        """Let the drains at work close everything now, and abort what is left after ``within`` seconds."""
        for draining in self._drains:
            draining.hurry(within)

    async def stop_listening(self) -> None:
        """Accept nothing more; what was accepted goes on."""
        listeners, self._listeners = self._listeners, None
        if listeners is not None:
            await listeners.close()

    async def serve_forever(self) -> None:
        """Wait until the surrounding program cancels this, or ``stop`` is called."""
        await self._stop.wait()

    def stop(self) -> None:
        """Let ``serve_forever`` return; from any thread."""
        self._stop.wake()

    # -- the life ------------------------------------------------------------------------------

    async def __aenter__(self) -> Server:
        if self._running is not None:
            raise ActorMisuse("this server runs already; call serve() again for another one")
        self._running = self.running()
        return await self._running.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        assert self._running is not None, "left without having been entered"
        return await self._running.__aexit__(kind, error, traceback)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Server]:
        """Run the server around a block."""
        self._stop = Waiter()
        sockets = await self._bind()
        self._addresses = addresses_of(sockets)
        try:
            async with hosted(partial(self._start, sockets), self._end):
                yield self
        finally:
            for one in sockets:
                one.close()
            if self._unix is not None:
                with suppress(FileNotFoundError):
                    os.unlink(self._unix)

    async def run(self, *, task_status: TaskStatus[Server] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled or stopped; for ``task_group.start(server.run)``."""
        async with self.running():
            task_status.started(self)
            await self.serve_forever()

    async def _start(self, sockets: list[socket.socket], host: Host) -> None:
        """Runs in the host task: the services first, then the listeners."""
        self.runtime = runtime = host.runtime
        around = Surroundings(runtime, self.registry, self.hooks, self.given_policy)
        self.gate = Gate(self._admission, runtime.clock)
        self.connection_supervisor = ConnectionSupervisor(around, self.gate)
        self._root = Root(around, self._services, host.end, self.connection_supervisor.describe)
        await self._root.start()
        timeouts = self.policy.timeouts
        with anyio.CancelScope(shield=True):  # takes a turn at most, and a listener must not get lost
            self._listeners = await listen(
                runtime,
                sockets,
                self._accepted,
                ssl=self._ssl,
                high_water=self.policy.limits.send_high_water,
                ssl_timeouts=(timeouts.handshake, timeouts.close),
            )
        tell(self.hooks, ServerStarted(self._addresses))

    async def _end(self) -> None:
        """Runs in the host task, also after a start that failed: the connections first, then the services."""
        self._out_of_service = True
        await self.stop_listening()
        for upgrade in list(self.upgrades):
            upgrade.abort()
        close = Close(CloseCode.GOING_AWAY, "server shutting down", exit_reason=ExitReason.SHUTDOWN)
        await self.connection_supervisor.stop(close, self.policy.timeouts.close)
        await self._root.stop()
        tell(self.hooks, ServerStopped())

    def terms_of(self, route: Route) -> Terms:
        """What every connection of ``route`` gets."""
        terms = self._terms.get(route)
        if terms is None:
            terms = Terms(route, self.given_policy, self.connection_supervisor)
            self._terms[route] = terms
        return terms

    def _accepted(self, transport: Transport) -> None:
        Upgrade(self, transport)

    def take_back(self, transport: Transport, request: bytes) -> None:
        """Serve a connection of ``plain_http`` from ``request`` on, which is for this server."""
        Upgrade(self, transport)
        transport.sink.data(request)

    async def _bind(self) -> list[socket.socket]:
        if self.bound is not None:
            return list(self.bound)
        if self._sock is not None:
            take_over(self._sock)
            return [self._sock]
        if self._unix is not None:
            return [bind_unix(self._unix)]
        # Only the look-up goes to a thread: a socket made there would be lost if this were cancelled.
        addresses = await anyio.to_thread.run_sync(resolve, *self._tcp_address)
        return bind_tcp(*self._tcp_address, addresses)
