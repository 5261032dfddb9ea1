"""What a server is to those who accept connections for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, final

from actors import ConnectionActor
from actors.codecs import choose_codec
from actors.runtime import Runtime
from actors.transports.transport import Transport
from actors.wakeup import Parker
from supervisor.admission.gate import Gate, Ticket
from supervisor.cell_options import wire_limits_of
from supervisor.connections.connection_supervisor import ConnectionSupervisor
from supervisor.environment import Environment
from supervisor.events import Hook
from supervisor.listening.routes import Route, Router
from supervisor.policies import Policy


class Upgrading(Protocol):
    """A connection on its way to 101, as its site knows it."""

    def stop(self) -> None:
        """The server stops: give up what is not answered yet."""

    def abort(self) -> None:
        """Drop the connection."""


Forward = Callable[[Transport, bytes, Ticket], None]
"""Takes a connection whose first bytes, the whole head of a request, ask for no WebSocket, and its place."""


@final
class Site:
    """The server as seen by those who accept connections for it, pipe them, and bring them back.

    What it has with a runtime is there from ``begin`` on.
    """

    __slots__ = (
        "_terms",
        "accepting",
        "connections",
        "environment",
        "forward",
        "gate",
        "hooks",
        "keep_alive",
        "listening",
        "no_upgrades",
        "policy",
        "ready_path",
        "router",
        "runtime",
        "upgrades",
    )

    runtime: Runtime
    environment: Environment
    gate: Gate
    connections: ConnectionSupervisor
    no_upgrades: Parker
    """Woken when the last one of ``upgrades`` is over."""

    def __init__(
        self, router: Router, policy: Policy | None, hooks: tuple[Hook, ...], ready_path: str | None
    ) -> None:
        self.router = router
        self.policy = policy or Policy()
        self.hooks = hooks
        self.ready_path = check_ready_path(ready_path)
        """Where GET is answered with 200 while the server is ready, and with 503 while it is not."""
        self.keep_alive: float | None = None
        """Seconds that a connection of ``forward`` may be idle."""
        self.forward: Forward | None = None
        """Who gets a connection whose first request is no upgrade; without it that is answered 426."""
        self.accepting = True
        """Whether upgrades are welcome: not while the server is drained, and not afterwards."""
        self.listening = False
        self.upgrades: set[Upgrading] = set()
        self._terms: dict[Route, Terms] = {}

    def begin(self, environment: Environment, gate: Gate, connections: ConnectionSupervisor) -> None:
        """Work in ``environment`` from now on."""
        self.environment = environment
        self.runtime = environment.runtime
        self.gate = gate
        self.connections = connections
        self.no_upgrades = environment.runtime.backend.parker()

    def serve_http(self, forward: Forward | None, ready_path: str | None, keep_alive: float | None) -> None:
        """Give plain HTTP to ``forward``, on connections that may be idle for ``keep_alive`` seconds."""
        self.forward = forward
        self.ready_path = check_ready_path(ready_path)
        self.keep_alive = keep_alive

    @property
    def ready(self) -> bool:
        """Tell whether new connections are welcome: the server listens, and is not drained or stopped."""
        return self.listening and self.accepting

    def terms_of(self, route: Route) -> Terms:
        """Give the terms of every connection of ``route``."""
        terms = self._terms.get(route)
        if terms is None:
            terms = self._terms[route] = Terms(route, self.environment.policy, self.connections)
        return terms

    def over(self, upgrade: Upgrading) -> None:
        """``upgrade`` is open, refused or gone."""
        self.upgrades.discard(upgrade)
        if not self.upgrades:
            self.no_upgrades.wake()


def check_ready_path(path: str | None) -> str | None:
    """Give ``path`` back; raises ``TypeError`` or ``ValueError`` naming ``ready_path``."""
    if path is not None and not isinstance(path, str):
        raise TypeError(f"ready_path: a path, or None to leave it out, not {path!r}")
    if path is not None and not path.startswith("/"):
        raise ValueError(f"ready_path: a path begins with '/', {path!r} does not")
    return path


@final
class Terms:
    """The terms of every connection of one route under a server's policy; worked out once."""

    __slots__ = ("actor", "asks_class", "codec", "options", "policy", "subprotocols", "wire")

    def __init__(self, route: Route, server_policy: Policy | None, supervisor: ConnectionSupervisor) -> None:
        self.actor = route.actor
        self.policy = policy = route.policy_within(server_policy)
        self.options = supervisor.options(policy)
        self.wire = wire_limits_of(policy)
        self.subprotocols = route.subprotocols
        by_subprotocol = isinstance(route.actor.codec, Mapping)
        self.codec = None if by_subprotocol else choose_codec(route.actor.codec, None)
        """``None`` where the subprotocol decides."""
        self.asks_class = _on_upgrade(route.actor) is not _on_upgrade(ConnectionActor)
        """Whether the class has an ``on_upgrade`` of its own."""


def _on_upgrade(actor: type[ConnectionActor]) -> Callable[..., object]:
    return getattr(actor.on_upgrade, "__func__", actor.on_upgrade)
