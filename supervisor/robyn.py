"""``supervise(app)``: supervised WebSockets in a Robyn app, on the app's own port.

No WebSocket route is ever registered on Robyn.  Our listener owns the public port, inside Robyn's
own event loop: upgrades come to us, everything else is piped to Robyn's listener, which has a port
of its own on loopback (or, with ``websocket_port``, the public one).

What is relied on in Robyn 0.88 (``src/server.rs``): it listens already when it runs its startup
handler, and accepts once that returns; an async startup handler runs in a task of its event loop, on
the main thread; an exception out of the loop, KeyboardInterrupt too, makes it call the shutdown
handler and then ``exit(0)`` of C, unless a plain shutdown handler raises.
"""

from __future__ import annotations

import asyncio
import ctypes
import ipaddress
import logging
import os
import signal
import socket
import ssl as tls
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar, final

from robyn import Robyn
from robyn.events import Events
from robyn.robyn import FunctionInfo

from actors import Actor, ConnectionActor
from actors.codecs import Codec
from actors.errors import ActorMisuse
from supervisor.events import Hook, log_event
from supervisor.functions import FunctionActor, FunctionRoute
from supervisor.listeners import addresses_of, bind_tcp
from supervisor.pipe import Pipes
from supervisor.policies import Policy
from supervisor.routes import Route
from supervisor.server import Server, serve
from supervisor.specs import ChildSpec
from supervisor.strategies import Strategy
from supervisor.tree import Supervisor

logger = logging.getLogger("supervisor")

A = TypeVar("A", bound=type[ConnectionActor])


def supervise(
    app: Robyn,
    *,
    ssl: tls.SSLContext | None = None,
    policy: Policy | None = None,
    strategy: Strategy = Strategy.ONE_FOR_ONE,
    children: Sequence[ChildSpec | Supervisor | type[Actor]] = (),
    hooks: Sequence[Hook] = (log_event,),
) -> RobynSockets:
    """Give ``app`` supervised WebSockets; takes what ``serve`` takes, apart from the address.

    Add them with ``route`` and ``websocket`` of what this returns, then call its ``start`` in the
    place of ``app.start``.  Raises ``TypeError`` and ``ValueError`` for options that cannot work.
    """
    if not isinstance(app, Robyn):
        raise TypeError(f"app: the robyn.Robyn that would be started, not {app!r}")
    server = serve({}, ssl=ssl, policy=policy, strategy=strategy, children=children, hooks=hooks)
    return RobynSockets(app, server, encrypted=ssl is not None)


@final
class RobynSockets:
    """The WebSockets of a Robyn app; made by ``supervise``."""

    def __init__(self, app: Robyn, server: Server, *, encrypted: bool) -> None:
        self.server = server
        """The server of the WebSockets: ``connections``, ``registry``, ``port``, ``drain``, ``stop``."""
        self._app = app
        self._encrypted = encrypted
        self._started = False

    def __repr__(self) -> str:
        return f"<RobynSockets: {len(self.server.router)} routes>"

    def route(self, path: str, *, policy: Policy | None = None) -> Callable[[A], A]:
        """Serve the decorated ``ConnectionActor`` subclass at ``path``; gives the class back.

        ``path`` may have parameters (``"/rooms/:room"``).  Raises ``ValueError`` when it is malformed
        or taken, and what ``Route`` raises.
        """

        def add(actor: A) -> A:
            self.server.router.add(path, Route(actor, policy))
            return actor

        return add

    def websocket(
        self,
        path: str,
        *,
        policy: Policy | None = None,
        codec: str | Codec | Mapping[str | None, str | Codec] = "raw",
    ) -> FunctionRoute:
        """Serve functions at ``path``, in Robyn's style: register them with ``on`` of what this returns.

        ``codec`` as in a ``ConnectionActor``.  Raises what ``route`` raises.
        """
        actor = type(f"websocket({path!r})", (FunctionActor,), {"codec": codec})
        self.server.router.add(path, Route(actor, policy))
        return FunctionRoute(path, actor)

    def start(
        self,
        host: str = "127.0.0.1",
        port: int = 8080,
        *,
        websocket_port: int | None = None,
        client_timeout: int = 30,
        keep_alive_timeout: int = 20,
    ) -> None:
        """Start Robyn and serve until SIGINT, SIGTERM or ``server.stop()``; does not return.

        HTTP and WebSockets share ``port`` (0: any free one, which the log tells).  With
        ``websocket_port`` the WebSockets have that one to themselves, and Robyn has ``port`` with
        nothing between it and its clients; ``host`` is an IP address then.  The environment variables
        ``ROBYN_HOST`` and ``ROBYN_PORT`` win, as they do in Robyn.

        At the end every connection is closed with 1001 within the close timeout, then Robyn's
        shutdown handler runs and the process exits with status 0.  A second signal drops the
        connections at once.

        Raises ``OSError`` naming the port when it is in use, ``ValueError`` and ``ActorMisuse`` for
        what cannot work, and what Robyn's startup handler raises.
        """
        self._check()
        host, port = os.environ.get("ROBYN_HOST", host), _port_of_environment(port)
        if websocket_port is None:
            reserved = _reserve("127.0.0.1", 0)
            public = _bound_beside(reserved, host, port)
        else:
            reserved = _reserve(_ip_address(host), port)
            public = _bound_beside(reserved, host, websocket_port)
        address: tuple[str, int] = reserved.getsockname()[:2]
        pipes = Pipes(self.server, address)
        self.server.bound = public
        self.server.plain_http = pipes if websocket_port is None else None
        self._started = True
        # They are for the public address: hidden from Robyn's own start, and given back to the app.
        hidden = {name: os.environ.pop(name) for name in ("ROBYN_HOST", "ROBYN_PORT") if name in os.environ}
        life = _Life(self._app, self.server, pipes, hidden, self._announcement(public, reserved))
        handlers = self._app.event_handlers
        self._app.event_handlers = {
            Events.STARTUP: FunctionInfo(life.startup, True, 0, {}, {}),
            Events.SHUTDOWN: FunctionInfo(life.shutdown, False, 0, {}, {}),
        }
        try:
            self._app.start(
                *address,
                _check_port=False,  # it would ask on stdin for another port
                client_timeout=client_timeout,
                keep_alive_timeout=keep_alive_timeout,
            )
        finally:
            self._app.event_handlers = handlers
            os.environ.update(hidden)
            for one in (reserved, *public):
                one.close()

    def _check(self) -> None:
        """Raise for what is wrong with the app before anything is done."""
        config = self._app.config
        if self._started:
            raise ActorMisuse("start() was called before: Robyn starts once in a process")
        if config.dev or os.environ.get("IS_RELOADER_RUNNING") == "True":
            raise ValueError(
                "dev: Robyn's reloader kills the connections with the process; start without --dev"
            )
        if config.processes != 1:
            raise ValueError(
                f"processes: {config.processes} processes cannot share the WebSockets; start one, with "
                "--processes 1 (--fast starts several)"
            )
        if paths := ", ".join(self._app.web_socket_router.get_routes()):
            raise ActorMisuse(
                f"{paths}: a WebSocket route on Robyn itself, whose clients can crash the whole process with "
                "one frame; use websocket() or route() of what supervise() returned"
            )

    def _announcement(self, public: Sequence[socket.socket], reserved: socket.socket) -> str:
        s = "s" if self._encrypted else ""
        internal = addresses_of([reserved])[0]
        if self.server.plain_http is not None:
            urls = ", ".join(f"http{s}://{address}" for address in addresses_of(public))
            return f"serving HTTP and WebSockets at {urls} (Robyn's own listener is {internal}, behind it)"
        urls = ", ".join(f"ws{s}://{address}" for address in addresses_of(public))
        return f"serving WebSockets at {urls}, HTTP by Robyn at http://{internal}"


@final
class _Life:
    """Between Robyn's startup and its exit: our server in Robyn's event loop."""

    def __init__(
        self, app: Robyn, server: Server, pipes: Pipes, environment: Mapping[str, str], announcement: str
    ) -> None:
        self._server = server
        self._pipes = pipes
        self._environment = environment
        self._announcement = announcement
        self._users_startup: FunctionInfo | None = app.event_handlers.get(Events.STARTUP)
        self._users_shutdown: FunctionInfo | None = app.event_handlers.get(Events.SHUTDOWN)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting: asyncio.Task[None] | None = None
        self._serving: asyncio.Task[None] | None = None
        self._signals = 0
        self._ending = False
        self._failure: BaseException | None = None

    async def startup(self) -> None:
        """Robyn's startup handler: the user's first, so that what it opens is there for the actors.

        When something fails it does not return, so that Robyn does not come up.
        """
        self._loop = loop = asyncio.get_running_loop()
        self._starting = asyncio.current_task()
        os.environ.update(self._environment)
        started = asyncio.Event()
        try:
            if (users := self._users_startup) is not None:
                await (users.handler() if users.is_async else asyncio.to_thread(users.handler))
        except BaseException as error:
            self._failed(error)
            self._end_loop_soon()
        else:
            self._serving = loop.create_task(self._serve(started), name="supervisor.serve")
        await started.wait()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self._signalled, number)
        logger.info("%s", self._announcement)

    async def _serve(self, started: asyncio.Event) -> None:
        try:
            async with self._server.running():
                started.set()
                await self._server.serve_forever()
        except BaseException as error:
            self._failed(error)
        self._pipes.abort()
        if not self._ending:
            self._end_loop_soon()

    def _failed(self, error: BaseException) -> None:
        if not isinstance(error, KeyboardInterrupt) and not self._ending:
            self._failure = error

    def _signalled(self, number: signal.Signals) -> None:
        self._signals += 1
        open_now = len(self._server.connections)
        if self._signals == 1:
            logger.info("%s: closing %d connections; another one drops them", number.name, open_now)
            self._server.stop()
        else:
            logger.warning("%s again: dropping %d connections", number.name, open_now)
            _interrupt()

    def _end_loop_soon(self) -> None:
        assert self._loop is not None, "it runs this"
        self._loop.call_soon(_interrupt)

    def shutdown(self) -> None:
        """Robyn's shutdown handler, after the end of the event loop: the user's, after our server.

        What it raises comes out of ``start``; otherwise Robyn ends the process without Python's own
        ending, so what is buffered is written here.
        """
        self._ending = True
        if self._loop is not None and self._serving is not None:
            if not self._serving.done() and self._signals < 2:  # something else than us ended the loop
                self._serving.cancel()
                with suppress(asyncio.CancelledError, KeyboardInterrupt):
                    self._loop.run_until_complete(self._serving)
            if (users := self._users_shutdown) is not None:
                result = users.handler()
                if users.is_async:
                    self._loop.run_until_complete(result)
        if self._failure is not None:
            # A thread of Robyn may wait for this task for ever, and panics if Python's ending destroys it.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._starting))
            raise self._failure
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):  # closed, or not there at all
                stream.flush()


def _interrupt() -> None:
    """End the event loop that calls this."""
    raise KeyboardInterrupt


def _port_of_environment(port: int) -> int:
    value = os.environ.get("ROBYN_PORT")
    if value is None:
        return port
    try:
        return int(value)
    except ValueError:
        raise ValueError(f"ROBYN_PORT: a whole number, not {value!r}") from None


def _ip_address(host: str) -> str:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(f"host: Robyn listens on an IP address only, {host!r} is none") from None
    return host


def _reserve(host: str, port: int) -> socket.socket:
    """Bind a socket that keeps a port for Robyn, which sets SO_REUSEPORT; it does not listen itself.

    Raises ``OSError`` when somebody has the port, which with SO_REUSEPORT the kernel might not say.
    """
    if port:
        for probe in bind_tcp(host, port):
            probe.close()
    reserved = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind((host, port))
    except BaseException:
        reserved.close()
        raise
    return reserved


def _bound_beside(reserved: socket.socket, host: str, port: int) -> list[socket.socket]:
    try:
        return bind_tcp(host, port)
    except BaseException:
        reserved.close()
        raise
