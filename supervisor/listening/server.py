"""``serve``: WebSockets of actor classes at paths, inside the caller's own asyncio or trio program.

The way of a connection: ``listeners`` -> ``Upgrade`` -> ``ConnectionSupervisor``.
The life of the server is ``running``: ``_start``, the caller's block, ``_end``; see ``lifespan``.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl as tls
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from enum import Enum, auto
from functools import partial
from types import TracebackType
from typing import final

import anyio
import anyio.to_thread
from anyio.abc import TaskStatus

from actors import Actor, ConnectionActor, ExitReason
from actors.backends import Waiter
from actors.codecs import encoded
from actors.codes import CloseCode
from actors.errors import ActorMisuse
from actors.messages import Close
from supervisor.admission.gate import Gate
from supervisor.admission.options import Admission
from supervisor.connections.connection_supervisor import Connections, ConnectionSupervisor
from supervisor.connections.drain import Drain, Draining
from supervisor.environment import Environment
from supervisor.events import DrainReport, Hook, ServerStarted, ServerStopped, check_hooks, log_event, tell
from supervisor.listening.listeners import Listeners, listen
from supervisor.listening.routes import Route, Router
from supervisor.listening.signals import Signals
from supervisor.listening.site import Site
from supervisor.listening.sockets import (
    addresses_of,
    bind_tcp,
    bind_unix,
    file_of,
    resolve,
    take_over,
    unlink_own,
)
from supervisor.listening.upgrade import Upgrade
from supervisor.policies import Policy, check_seconds
from supervisor.registry import Registry
from supervisor.tree.lifespan import Host, hosted
from supervisor.tree.specs import ChildSpec
from supervisor.tree.strategies import Strategy
from supervisor.tree.tree import Root, Supervisor, Tree

logger = logging.getLogger("supervisor")

LAST_ANSWERS = 1.0
"""Seconds that the answers to upgrades have to leave when the server stops."""

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
    ready_path: str | None = "/-/ready",
) -> Server:
    """Serve actor classes at paths, for as long as the ``async with`` block runs.

    ``routes`` maps a path (``"/rooms/:room"``) to a ``ConnectionActor`` subclass or a ``Route``.
    Listens on ``host`` and ``port`` (by default any free one: ``server.port`` tells), or on the Unix
    socket ``unix``, or on the bound socket ``sock``, which it takes over.  ``ssl`` turns on TLS.
    ``policy`` is for what classes and routes leave open, ``admission`` says who may connect.
    ``children`` are services and supervisors that run beside the connections, under ``strategy``, as
    in ``Supervisor``; they start before the first connection and stop after the last.  ``hooks`` are
    told every lifecycle event; by default the log is.  ``ready_path`` is where GET and HEAD are answered with
    200 while the server welcomes connections, also when it is full, and with 503 while it does not; ``None``
    leaves that out.

    In place of the block, ``await task_group.start(serve(...).run)`` serves until it is cancelled.

    Raises ``TypeError`` and ``ValueError`` at once for options that cannot work, and ``OSError``
    naming the address on entering the block, and what ``Supervisor`` raises.  An error of the block
    keeps its type.  Leaving the
    block, by its end, an error or cancellation, closes every connection with 1001, tears all down,
    and takes no longer than the close timeout and the steps of the teardown.

    Code that swallows its cancellation (a hook, a task, an ``on_upgrade``, a thread that is waited for)
    is left behind then, and an ERROR of the log names it and the place where it waits; but the event
    loop has it still, and ``asyncio.run`` or ``trio.run`` waits for it.  A plain function that blocks
    holds up everything on its thread, this too; the log says where it stands.

    On asyncio the block may be left in another task of the same event loop than it was entered in, as
    fixtures of pytest-asyncio do.
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
        ready_path=ready_path,
    )


class _Life(Enum):
    NEW = auto()
    STARTED = auto()
    ENDED = auto()


@final
class Server:
    """A server at work; made by ``serve``."""

    _root: Root

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
        ready_path: str | None,
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
        self.site = Site(Router(routes), policy, check_hooks(hooks), ready_path)
        """What those need who accept connections."""
        self.registry = Registry()
        self._given_policy = policy
        self._admission = admission or Admission()
        self._drains: list[Draining] = []
        self._out_of_service = False
        self._bound: Sequence[socket.socket] | None = None
        self._tcp_address, self._sock = (host, port or 0), sock
        self._unix = None if unix is None else os.fspath(unix)
        self._unix_file: tuple[int, int] | None = None
        self._ssl = ssl
        self._listeners: Listeners | None = None
        self._running: AbstractAsyncContextManager[Server] | None = None
        self._addresses: tuple[str, ...] = ()
        self._life = _Life.NEW
        self._entered = False
        self._stopping = False
        self._waiting: tuple[Waiter, ...] = ()
        self._signals: Signals | None = None

    def __repr__(self) -> str:
        return f"<Server on {', '.join(self._addresses) or 'nothing yet'}>"

    # -- what users see ------------------------------------------------------------------------

    @property
    def port(self) -> int:
        """The port that is listened on; raises ``AttributeError`` on a Unix socket."""
        self._check_started("port")
        for address in self._addresses:
            if not address.startswith("unix:"):
                return int(address.rpartition(":")[2])
        raise AttributeError("port: this server listens on a Unix socket")

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses that are listened on: ``host:port`` or ``unix:path``."""
        self._check_started("addresses")
        return self._addresses

    @property
    def accepting(self) -> bool:
        """Tell whether upgrades are welcome: not while it is drained, and not afterwards or when it stops."""
        return self.site.accepting

    @property
    def ready(self) -> bool:
        """Tell whether new connections are welcome: the server listens, and is not drained or stopped."""
        return self.site.ready

    @property
    def connections(self) -> Connections:
        """A sized, iterable view of the refs of all open connections."""
        self._check_started("connections")
        return self.site.connections.view

    @property
    def tree(self) -> Tree:
        """The tree: its registry, ``start_child``, ``publish`` and ``describe``."""
        self._check_started("tree")
        return self._root.tree

    def publish(self, topic: str, message: object) -> None:
        """Give ``message`` to every member of ``topic``; from any thread.  Nobody gets it after the end."""
        self._check_started("publish()")
        self._root.tree.publish(topic, message)

    @property
    def refused(self) -> Mapping[str, int]:
        """The number of connections refused or given up before 101, by reason.

        A reason is the option of ``Admission`` that says so, ``"handshakes"`` or ``"descriptors"``;
        ``"no_request"`` for a request that never came, ``"on_upgrade"`` for one that this has not answered
        in time, and ``"going_down"``.
        """
        self._check_started("refused")
        return self.site.gate.refused

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
        self._check_runs("drain()")
        check_seconds("within", within, zero=True, off=False)
        check_seconds("spread", spread, zero=True, off=False)
        close = Close(code, reason, notice=notice, exit_reason=ExitReason.DRAIN)
        cells = self.site.connections.cells()
        draining = Draining(
            self.site.runtime, cells, close=close, within=within, spread=spread, hooks=self.site.hooks
        )
        self._drains.append(draining)
        self._welcome()
        try:
            report = await draining.run()
            self._out_of_service = True
            return report
        finally:
            self._drains.remove(draining)
            self._welcome()

    def _welcome(self) -> None:
        self.site.accepting = not (self._out_of_service or self._drains)

    def check_notice(self, notice: object) -> None:
        """Raise what a codec of a route raises for a ``notice`` of a drain that is still to come."""
        for codec in self.site.router.codecs() if notice is not None else ():
            encoded(codec, notice)

    def hurry(self, within: float) -> None:
        """Let the drains at work close everything now, and abort what is left after ``within`` seconds."""
        self._check_started("hurry()")
        for draining in self._drains:
            draining.hurry(within)

    async def stop_listening(self) -> None:
        """Accept nothing more; what was accepted goes on."""
        self._check_started("stop_listening()")
        listeners, self._listeners = self._listeners, None
        self.site.listening = False
        if listeners is not None:
            self._unlink()
            await listeners.close()

    def _unlink(self) -> None:
        file, self._unix_file = self._unix_file, None
        if self._unix is not None:
            unlink_own(self._unix, file)

    async def serve_forever(self, *, signals: bool = True, drain: Drain | None = None) -> None:
        """Serve until ``stop`` is called, or SIGTERM or SIGINT (Ctrl-C) tells the process to end.

        Then the block is to be left, which closes every connection with 1001; with ``drain`` they are
        drained first, as it says.  A second signal drops what is left, after ``drain.hurry`` seconds with
        ``drain``; a third does what it did before this was called.

        A signal is only taken on the main thread, and only while nobody else has a handler for it: that
        of the program stays, and those of Python, asyncio and trio are back when the server has ended.
        ``signals=False`` takes none.
        """
        self._check_runs("serve_forever()")
        if not isinstance(signals, bool):
            raise TypeError(f"signals: True or False, not {signals!r}")
        if drain is not None and not isinstance(drain, Drain):
            raise TypeError(f"drain: a supervisor.Drain, not {drain!r}")
        if signals and self._signals is None:
            self._signals = Signals(self.site.runtime.backend, partial(self._told_to_end, drain))
            self._signals.take()
        await self._stopped()
        if drain is not None and self._signals is not None and self._signals.times:
            if self._signals.times > 1:  # the second one came before the drain began
                drain = replace(drain, within=min(drain.within, drain.hurry), spread=0.0, notice=None)
            await self.drain(drain.within, drain.spread, drain.code, drain.reason, drain.notice)

    async def _stopped(self) -> None:
        waiter = Waiter()
        self._waiting += (waiter,)
        try:
            if not self._stopping:
                await waiter.wait()
        finally:
            self._waiting = tuple(other for other in self._waiting if other is not waiter)

    def stop(self) -> None:
        """Let ``serve_forever`` return; from any thread."""
        self._check_started("stop()")
        self._stopping = True
        for waiter in self._waiting:
            waiter.wake()

    def _told_to_end(self, drain: Drain | None, name: str, times: int) -> None:
        """A signal came for the ``times``-th time; on the event loop's thread."""
        if times == 1:
            how = "closing" if drain is None else "draining"
            logger.info("%s: %s %d connections; another one hurries", name, how, len(self.connections))
            self.stop()
        elif drain is not None and not self._out_of_service:
            logger.warning("%s again: %d connections have %g s", name, len(self.connections), drain.hurry)
            self.hurry(drain.hurry)
        else:
            logger.warning("%s again: dropping %d connections", name, len(self.connections))
            for cell in self.site.connections.cells():
                cell.abort()
            self._root.node.kill()

    def _check_started(self, what: str) -> None:
        """Raise ``ActorMisuse`` before the start."""
        if self._life is _Life.NEW:
            raise ActorMisuse(
                f"{what}: this server has not been started; use it inside of `async with serve(...)`"
            )

    def _check_runs(self, what: str) -> None:
        """Raise ``ActorMisuse`` before the start and after the end."""
        self._check_started(what)
        if self._life is _Life.ENDED:
            raise ActorMisuse(f"{what}: this server has ended; call serve() again for another one")

    # -- the life ------------------------------------------------------------------------------

    async def __aenter__(self) -> Server:
        running = self.running()
        server = await running.__aenter__()
        self._running = running
        return server

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
        if self._life is not _Life.NEW or self._entered:
            over = "has ended" if self._life is _Life.ENDED else "runs already"
            raise ActorMisuse(f"this server {over}; call serve() again for another one")
        self._entered = True
        sockets = await self._bind()
        self._addresses = addresses_of(sockets)
        try:
            async with hosted(partial(self._start, sockets), self._end):
                yield self
        finally:
            self._life = _Life.ENDED
            if self._signals is not None:
                self._signals.give_back()
            self._unlink()
            for one in sockets:
                one.close()

    async def run(self, *, task_status: TaskStatus[Server] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled or stopped; for ``task_group.start(server.run)``.  Takes no signals."""
        async with self.running():
            task_status.started(self)
            await self._stopped()

    async def _start(self, sockets: list[socket.socket], host: Host) -> None:
        """Runs in the host task: the services first, then the listeners."""
        runtime, site = host.runtime, self.site
        environment = Environment(runtime, self.registry, site.hooks, self._given_policy)
        gate = Gate(self._admission, runtime.clock)
        connections = ConnectionSupervisor(environment, gate)
        site.begin(environment, gate, connections)
        self._root = Root(environment, self._services, host.end, connections.describe)
        self._life = _Life.STARTED
        await self._root.start()
        timeouts, limits = site.policy.timeouts, site.policy.limits
        with anyio.CancelScope(shield=True):  # takes a turn at most, and a listener must not get lost
            self._listeners = await listen(
                runtime,
                sockets,
                partial(Upgrade, site),
                ssl=self._ssl,
                high_water=limits.send_high_water,
                ssl_timeouts=(timeouts.handshake, timeouts.close),
            )
        site.listening = True
        tell(site.hooks, ServerStarted(self._addresses))

    async def _end(self) -> None:
        """Runs in the host task, also after a start that failed: the connections first, then the services."""
        site = self.site
        self._out_of_service = True
        self._welcome()
        await self.stop_listening()
        for upgrade in list(site.upgrades):
            upgrade.stop()
        close = Close(CloseCode.GOING_AWAY, "server shutting down", exit_reason=ExitReason.SHUTDOWN)
        await site.connections.stop(close, site.policy.timeouts.close)
        await site.runtime.wait(site.no_upgrades, lambda: not site.upgrades, LAST_ANSWERS)
        for upgrade in list(site.upgrades):
            upgrade.abort()
        await self._root.stop()
        tell(site.hooks, ServerStopped())

    def take_over(self, sockets: Sequence[socket.socket]) -> None:
        """Listen on ``sockets`` in the place of an address: they are bound before the event loop runs."""
        self._bound = sockets

    async def _bind(self) -> list[socket.socket]:
        if self._bound is not None:
            return list(self._bound)
        if self._sock is not None:
            take_over(self._sock)
            return [self._sock]
        if self._unix is not None:
            bound = bind_unix(self._unix)
            self._unix_file = file_of(self._unix)
            return [bound]
        # Only the look-up goes to a thread: a socket made there would be lost if this were cancelled.
        addresses = await anyio.to_thread.run_sync(resolve, *self._tcp_address)
        return bind_tcp(*self._tcp_address, addresses)
