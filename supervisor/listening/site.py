"""What a server is to those who accept connections for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import final

from actors import ConnectionActor
from actors.codecs import choose_codec
from supervisor.cell_options import wire_limits_of
from supervisor.connections.connection_supervisor import ConnectionSupervisor
from supervisor.listening.routes import Route
from supervisor.policies import Policy


@final
class Terms:
    """What every connection of one route gets under a server's policy; worked out once."""

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
