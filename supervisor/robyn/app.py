"""``supervise(app)``: supervised WebSockets in a Robyn app, on the app's own port.

No WebSocket route is ever registered on Robyn.  Our listener owns the public port, inside Robyn's
own event loop: upgrades come to us, everything else is piped to Robyn's listener, which has a port
of its own on loopback (or, with ``websocket_port``, the public one).  A process of its own does the
piping, the pump, where there can be one.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import ssl as tls
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar, final

from robyn import Request as RobynRequest
from robyn import Robyn, SubRouter
from robyn.events import Events
from robyn.robyn import FunctionInfo

import supervisor

if "serve" not in vars(supervisor):  # pragma: no cover - only in a broken environment
    raise ImportError(
        f"supervisor: {supervisor.__file__} is not of connection-supervisor, but probably of supervisord, "
        "which has the same name; install connection-supervisor into an environment of its own"
    )
from actors import Actor, ActorRef, ConnectionActor
from actors.codes import CloseCode
from actors.errors import ActorMisuse
from actors.request import Headers
from supervisor.admission.options import Admission
from supervisor.checks import check_count
from supervisor.connections.drain import Drain
from supervisor.events import DrainReport, Hook, log_event
from supervisor.listening.routes import Route, Router
from supervisor.listening.server import Server, serve
from supervisor.listening.site import check_ready_path
from supervisor.listening.sockets import addresses_of
from supervisor.policies import Policy, RestartLimit, check_seconds
from supervisor.proxy.forwarder import Forwarder
from supervisor.registry import Registry
from supervisor.robyn.functions import Codecs, FunctionRoute
from supervisor.robyn.lifecycle import RETIRING, Life
from supervisor.robyn.patience import Patience
from supervisor.robyn.ports import (
    _ip_address,
    _port_of_environment,
    _reserve,
    _sockets,
    bind_places,
    close_places,
)
from supervisor.robyn.processes import Deadlines, Parent, Processes
from supervisor.tree.specs import ChildSpec
from supervisor.tree.strategies import Strategy
from supervisor.tree.tree import Supervisor

logger = logging.getLogger("supervisor")

A = TypeVar("A", bound=type[ConnectionActor])

_BY_DEFAULT = Drain()


def supervise(
    app: Robyn,
    *,
    ssl: tls.SSLContext | None = None,
    policy: Policy | None = None,
    admission: Admission | None = None,
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
    server = serve(
        {},
        ssl=ssl,
        policy=policy,
        admission=admission,
        strategy=strategy,
        children=children,
        hooks=hooks,
    )
    return RobynSockets(app, server, encrypted=ssl is not None)


@final
class RobynSockets:
    """The WebSockets of a Robyn app; made by ``supervise``.

    ``publish``, ``registry``, ``connections`` and ``close`` work in every handler of Robyn, plain or
    async.  With several processes each of them has the connections of its own process.
    """

    def __init__(self, app: Robyn, server: Server, *, encrypted: bool) -> None:
        self.server = server
        """The server of the WebSockets: ``port``, ``tree``, ``refused``, ``stop`` and the others."""
        self._app = app
        self._encrypted = encrypted
        self._started = False
        self._routes: list[tuple[SubRouter, str, Route]] = []
        self._http: Forwarder | None = None

    def __repr__(self) -> str:
        return f"<RobynSockets: {len(self.server.site.router) + len(self._routes)} routes>"

    # -- before the start ----------------------------------------------------------------------

    def route(
        self, path: str, *, policy: Policy | None = None, router: SubRouter | None = None
    ) -> Callable[[A], A]:
        """Serve the decorated ``ConnectionActor`` subclass at ``path``; gives the class back.

        ``path`` may have parameters (``"/rooms/:room"``).  With ``router``, a ``SubRouter`` that the
        app includes, it is below the prefix of that.  Raises ``ValueError`` when it is malformed or
        taken, and what ``Route`` raises.
        """

        def add(actor: A) -> A:
            self._add(path, Route(actor, policy), router)
            return actor

        return add

    def websocket(
        self,
        path: str,
        *,
        policy: Policy | None = None,
        codec: Codecs | None = None,
        router: SubRouter | None = None,
        threads: bool = True,
    ) -> FunctionRoute:
        """Serve functions at ``path``, in Robyn's style: register them with ``on`` of what this returns.

        Plain functions run in threads, as in Robyn: one that blocks holds up its own connection alone.  With
        ``threads=False`` they run on the event loop, which is several times faster for functions that do
        little, and one that blocks holds up every WebSocket of the process.

        Without ``codec`` they get ``str`` and ``bytes``, and a ``dict`` or ``list`` is sent as JSON;
        with one it is as in a ``ConnectionActor``.  Dependencies are those of ``router``, or of the
        app.  Raises what ``route`` raises.
        """
        owner = router or self._app
        functions = FunctionRoute(
            path,
            self.registry,
            self.publish,
            dependencies=lambda: owner.dependencies.get_dependency_map(owner),
            codec=codec,
            threads=threads,
        )
        self._add(path, Route(functions.actor, policy), router)
        return functions

    def _add(self, path: str, route: Route, router: SubRouter | None) -> None:
        if router is None:
            self.server.site.router.add(path, route)
        else:
            Router({path: route})  # raises for what is wrong with it; the prefix is known at the start
            self._routes.append((router, path, route))

    def _add_routes_of_routers(self) -> None:
        for router, path, route in self._routes:
            prefixes = list(_prefixes(self._app, router))
            if not prefixes:
                raise ActorMisuse(
                    f"router: the SubRouter {router.prefix!r} of the WebSocket {path!r} is not in the app; "
                    "call app.include_router() with it"
                )
            for prefix in prefixes:
                self.server.site.router.add(prefix + path, route)
        self._routes.clear()

    # -- in handlers of Robyn ------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Tell whether new connections are welcome: it serves, and is not being drained or stopped."""
        return self.server.ready

    @property
    def registry(self) -> Registry:
        """The live actors by id, and by name where they have one; a mapping, from any thread."""
        return self.server.registry

    def connections(self) -> list[ActorRef]:
        """The refs of the connections that are open now; from any thread."""
        return list(self._serving("connections").connections)

    def publish(self, topic: str, message: object) -> None:
        """Give ``message`` to every member of ``topic``; from any thread, returns at once."""
        self._serving("publish").publish(topic, message)

    def close(
        self,
        id: str,
        code: int = CloseCode.NORMAL_CLOSURE,
        reason: str = "",
        *,
        drain: bool = False,
        notice: object = None,
        grace: float = 5.0,
    ) -> bool:
        """Close the connection ``id`` as its own ``close`` does; from any thread, returns at once.

        Gives ``False`` when no actor has this id (any more).
        """
        ref = self._serving("close").registry.get(id)
        if ref is None:
            return False
        ref.close(code, reason, drain=drain, notice=notice, grace=grace)
        return True

    def client_of(self, request: RobynRequest) -> str | None:
        """The IP address of the client that sent an HTTP request; ``None`` when it is long gone.

        Robyn sees the pipe: ``request.ip_addr`` is a loopback address that stands for the client, the
        same one while it is known.  A client cannot forge it, as it could a header.  Behind a proxy of
        yours it is the proxy's address, unless ``trusted_proxies`` of the admission says whom to believe.
        """
        gate, peer = self._serving("client_of").site.gate, request.ip_addr
        if self._http is not None and peer is not None:
            peer = self._http.sources.client(peer)
        if peer is None:
            return None
        return gate.client_of(peer, Headers(request.headers.multi_items()))

    async def drain(
        self,
        within: float = 30.0,
        spread: float = 10.0,
        code: int = CloseCode.SERVICE_RESTART,
        reason: str = "service restart",
        notice: object = None,
    ) -> DrainReport:
        """Close every WebSocket and open no other, as ``Server.drain`` does; in async handlers.

        The process goes on with HTTP.  A signal drains and ends it.
        """
        server = self._serving("drain")
        if not server.site.runtime.in_thread:
            raise ActorMisuse("drain: runs on Robyn's event loop; await it in an async handler")
        return await server.drain(within, spread, code, reason, notice)

    def _serving(self, call: str) -> Server:
        if not hasattr(self.server.site, "runtime"):
            raise ActorMisuse(f"{call}: there are no connections before start()")
        return self.server

    # -- the start -----------------------------------------------------------------------------

    def start(
        self,
        host: str = "127.0.0.1",
        port: int = 8080,
        *,
        websocket_port: int | None = None,
        processes: int | None = None,
        restarts: RestartLimit | None = None,
        ready_within: float | None = 60.0,
        answer_within: float | None = 10.0,
        drain: Drain | None = _BY_DEFAULT,
        end_within: float | None = 20.0,
        ready_path: str | None = "/-/ready",
        client_timeout: int = 30,
        keep_alive_timeout: int = 20,
    ) -> None:
        """Start Robyn and serve until SIGINT, SIGTERM or ``server.stop()``; does not return.

        HTTP and WebSockets share ``port`` (0: any free one, which the log tells); on Linux and without
        TLS a second process, which ends with this one, passes HTTP on to Robyn.  With
        ``websocket_port`` the WebSockets have that one to themselves, and Robyn has ``port`` with
        nothing between it and its clients, of whom one malformed request ends the process: let them
        come through a proxy that reads bodies; ``host`` is an IP address then.  The environment variables
        ``ROBYN_HOST`` and ``ROBYN_PORT`` win, as they do in Robyn.

        A signal drains as ``drain`` says, then Robyn's shutdown handler runs and the process exits
        with status 0.  A second signal leaves ``drain.hurry`` seconds, a third drops the connections
        at once.  ``drain=None``: the first one closes every connection with 1001 within the close
        timeout, the second one drops them.  ``ready_path``: where our listener answers GET with 200,
        and with 503 from the first signal on; ``None`` leaves that path to the app.

        ``end_within``: seconds for everything behind the drain (without one, behind the close timeout):
        services, the shutdown handler, code that swallows its cancellation.  A process that has not
        ended then logs what it waits for, and exits with status 1.  ``None`` lets it wait.

        ``processes``: how many (by default what Robyn's ``--processes`` says).  The first one is the
        parent of the others and serves nothing: it passes signals on, starts a crashed one again
        within ``restarts`` (by default ``RestartLimit()``), replaces them one by one on SIGHUP, and
        exits with the worst of their statuses.  A process that does not serve ``ready_within`` seconds
        after its start is ended.  One whose event loop does not answer for ``answer_within`` seconds is
        replaced, and drains when it wakes up; one that does not end in time is killed.

        Raises ``OSError`` naming the port when it is in use, ``ValueError`` and ``ActorMisuse`` for
        what cannot work, and what Robyn's startup handler raises.
        """
        count = self._check(processes)
        check_ready_path(ready_path)
        check_seconds("ready_within", ready_within)
        check_seconds("answer_within", answer_within)
        check_seconds("end_within", end_within)
        self._add_routes_of_routers()
        if drain is not None:
            self.server.check_notice(drain.notice)
        host, port = os.environ.get("ROBYN_HOST", host), _port_of_environment(port)
        parent = Parent.of_this_process()
        patience = Patience(drain, self.server.site.policy.timeouts.close, end_within)
        if parent is None and count > 1:
            self._started = True
            deadlines = Deadlines(
                ready=ready_within,
                answer=answer_within,
                retire=patience.when_retired(drain or RETIRING),
                end=(patience.when_told(1), patience.when_told(2), patience.when_told(3)),
            )
            sys.exit(_run_processes(count, host, port, websocket_port, restarts or RestartLimit(), deadlines))
        reserved, public = _sockets(parent, host, port, websocket_port)
        address: tuple[str, int] = reserved.getsockname()[:2]
        one_port = websocket_port is None
        # A session of TLS stays in the process that it began in.
        pump = one_port and not self._encrypted and sys.platform == "linux"
        http = Forwarder(self.server.site, address, pump=pump)
        self.server.take_over(public)
        if not one_port and not ipaddress.ip_address(address[0]).is_loopback:
            logger.warning(
                "websocket_port: nothing protects Robyn at %s:%d, where one malformed request ends the "
                "process; let only a proxy that reads bodies get there, or leave websocket_port out",
                *address,
            )
        if one_port:
            self._http = http
        self.server.site.serve_http(self._http, ready_path, keep_alive_timeout or None)
        self._started = True
        # They are for the public address: hidden from Robyn's own start, and given back to the app.
        hidden = {name: os.environ.pop(name) for name in ("ROBYN_HOST", "ROBYN_PORT") if name in os.environ}
        announcement = self._announcement(public, reserved)
        life = Life(self._app, self.server, http, parent, drain, patience, hidden, announcement)
        handlers, asked_for = self._app.event_handlers, self._app.config.processes
        self._app.event_handlers = {
            Events.STARTUP: FunctionInfo(life.startup, True, 0, {}, {}),
            Events.SHUTDOWN: FunctionInfo(life.shutdown, False, 0, {}, {}),
        }
        self._app.config.processes = 1  # in each of ours
        try:
            self._app.start(
                *address,
                _check_port=False,  # it would ask on stdin for another port
                client_timeout=client_timeout,
                keep_alive_timeout=keep_alive_timeout,
            )
        finally:
            life.over()
            self._app.event_handlers, self._app.config.processes = handlers, asked_for
            os.environ.update(hidden)
            for one in (reserved, *public):
                one.close()

    def _check(self, processes: int | None) -> int:
        """Raise for what is wrong with the app before anything is done; give the number of processes."""
        config = self._app.config
        if self._started:
            raise ActorMisuse("start() was called before: Robyn starts once in a process")
        if config.dev or os.environ.get("IS_RELOADER_RUNNING") == "True":
            raise ValueError(
                "dev: Robyn's reloader kills the connections with the process; start without --dev"
            )
        check_count("processes", processes)
        if paths := ", ".join(self._app.web_socket_router.get_routes()):
            raise ActorMisuse(
                f"{paths}: a WebSocket route on Robyn itself, whose clients can crash the whole process with "
                "one frame; use websocket() or route() of what supervise() returned"
            )
        return processes or int(config.processes)

    def _announcement(self, public: Sequence[socket.socket], reserved: socket.socket) -> str:
        s = "s" if self._encrypted else ""
        internal = addresses_of([reserved])[0]
        if self.server.site.forward is not None:
            urls = ", ".join(f"http{s}://{address}" for address in addresses_of(public))
            return f"serving HTTP and WebSockets at {urls} (Robyn's own listener is {internal}, behind it)"
        urls = ", ".join(f"ws{s}://{address}" for address in addresses_of(public))
        return f"serving WebSockets at {urls}, HTTP by Robyn at http://{internal}"


def _prefixes(parent: Robyn | SubRouter, router: SubRouter, prefix: str = "") -> Iterator[str]:
    """The prefixes under which ``parent`` includes ``router``, directly or in another one."""
    for included in parent.included_routers:
        below = prefix + ("/" + included.prefix.strip().strip("/")).rstrip("/")
        if included is router:
            yield below
        yield from _prefixes(included, router, below)


def _run_processes(
    count: int,
    host: str,
    port: int,
    websocket_port: int | None,
    restarts: RestartLimit,
    deadlines: Deadlines,
) -> int:
    """Be the parent of ``count`` processes until the last one has ended; their exit status."""
    places = bind_places(host, port if websocket_port is None else websocket_port, count)
    try:
        if websocket_port is not None:
            reserved = _reserve(_ip_address(host), port)
            places = [[reserved, *place] for place in places]
        return Processes(places, restarts, deadlines).run()
    finally:
        close_places(places)
