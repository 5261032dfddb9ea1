"""One connection from its first byte to 101, or to the HTTP status that refuses it.

The way through this file: ``Upgrade`` -> ``asked`` (the head is there: route, checks) ->
``on_upgrade`` of the class, if it has one -> ``_accept`` (101, the cell, the tree).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from http import HTTPStatus
from types import CoroutineType
from typing import TYPE_CHECKING, Any, final
from urllib.parse import unquote

import anyio

from actors import ConnectionActor, Refusal
from actors.codecs import Codec, choose_codec
from actors.connection_cell import ConnectionCell
from actors.incarnation import ABANDON_AFTER, log_left_behind
from actors.transports.opening import Handshake, HandshakeRefused, Opening, wants_websocket
from actors.transports.transport import Transport
from actors.transports.websocket import WebSocket
from supervisor.connections import ConnectionSupervisor, wire_limits_of
from supervisor.events import UpgradeRefused, tell
from supervisor.policies import Policy
from supervisor.routes import Route

if TYPE_CHECKING:
    from supervisor.server import Server

logger = logging.getLogger("supervisor")


@final
class Upgrade(Opening):
    """The opening handshake of one accepted connection; forgotten by the server when it is over."""

    __slots__ = ("_asking", "_deadline", "_handshake", "_left", "_scope", "_server", "_ticket")

    def __init__(self, server: Server, transport: Transport) -> None:
        super().__init__(transport)
        self._server = server
        self._left = False
        self._handshake: Handshake | None = None
        self._scope: anyio.CancelScope | None = None
        self._asking: object = None  # the task that runs on_upgrade
        transport.sink = self
        server.upgrades.add(self)
        handshake_timeout = server.policy.timeouts.handshake
        self._deadline = (
            None if handshake_timeout is None else server.runtime.timers.after(handshake_timeout, self.abort)
        )
        self._ticket, refused = server.gate.arrive(transport)
        if refused is not None and server.gate.crowded:
            self.abort()
        elif refused is not None:
            self._refuse(refused)

    def abort(self) -> None:
        """Drop the connection: its time is over, or the server stops."""
        self.transport.abort()
        self.gone()

    def asked(self, head: bytes) -> None:
        """The head is there: find out whether it may be, and what is to follow."""
        server = self._server
        if asks_whether_ready(head, server.ready_path):
            self.refuse(_READY if server.ready else _NOT_READY)
            return
        if server.plain_http is not None and not wants_websocket(head):
            self._over()
            server.gate.leave(self._ticket)
            server.plain_http(self.transport, head + self.rest())
            return
        try:
            handshake = self._handshake = Handshake(head, client=self.transport.peer)
            client = server.gate.client_of(self.transport.peer, handshake.headers)
            found = server.router.find(handshake.path)
            if found is None:
                raise HandshakeRefused(404, "no WebSocket at this path")
            route, path_params = found
            terms = server.terms_of(route)
            handshake.negotiate(
                terms.subprotocols, path_params, client=client, compression=terms.policy.limits.compression
            )
            if not server.accepting:
                raise HandshakeRefused(503, "the server is going down", {"Retry-After": "5"})
            server.gate.ask(self._ticket, client, handshake.request)
            codec = terms.codec or choose_codec(route.actor.codec, handshake.request.subprotocol)
        except HandshakeRefused as refused:
            self._refuse(refused)
        except LookupError:
            offer = ", ".join(terms.subprotocols)
            self._refuse(HandshakeRefused(400, f"Sec-WebSocket-Protocol: offer one of {offer}"))
        else:
            if terms.asks_class:
                name = f"{route.actor.__name__}.on_upgrade"
                server.runtime.spawn(self._ask_class, handshake, terms, codec, name=name)
            else:
                cell = self._accept(handshake, terms, codec)
                server.runtime.start(cell.run, name=f"{route.actor.__name__} {cell.id}")

    async def _ask_class(self, handshake: Handshake, terms: Terms, codec: Codec) -> None:
        actor = terms.actor
        self._asking = self._server.runtime.backend.current_task()
        try:
            with anyio.CancelScope() as self._scope:
                answer: Any = actor.on_upgrade(handshake.request)
                if type(answer) is CoroutineType:
                    answer = await answer
                if answer is not None and not isinstance(answer, Refusal):
                    raise TypeError(f"on_upgrade returns None or a Refusal, not {answer!r}")
            if self._scope.cancelled_caught:
                return
        except BaseException as error:
            logger.exception("%s.on_upgrade failed", actor.__name__, exc_info=error)
            answer = Refusal(500)
        finally:
            self._asking = None
        if self._left:
            return
        if isinstance(answer, Refusal):
            text = answer.reason or HTTPStatus(answer.status).phrase
            self._refuse(HandshakeRefused(answer.status, text, answer.headers))
        elif not self._server.accepting:
            self._refuse(HandshakeRefused(503, "the server is going down", {"Retry-After": "5"}))
        else:
            await self._accept(handshake, terms, codec).run()

    def _accept(self, handshake: Handshake, terms: Terms, codec: Codec) -> ConnectionCell:
        server, transport = self._server, self.transport
        cell = ConnectionCell(
            server.runtime,
            terms.actor,
            id=os.urandom(8).hex(),
            request=handshake.request,
            codec=codec,
            options=terms.options,
        )
        transport.write(handshake.accept())
        websocket = WebSocket(transport, handshake.protocol, cell, server.runtime.clock, terms.wire)
        cell.websocket = websocket
        server.upgrades.discard(self)
        server.connection_supervisor.start(cell, terms.policy, self._ticket, self._deadline)
        transport.sink = websocket
        rest = self.rest()
        if rest:  # reading may have been paused for it
            websocket.data(rest)
            if cell.reading:
                transport.resume()
        return cell

    def _refuse(self, refused: HandshakeRefused) -> None:
        """Answer, and let the handshake timeout bound how long the peer takes to go."""
        path = unquote(self._handshake.path) if self._handshake is not None else ""
        tell(self._server.hooks, UpgradeRefused(path, self.transport.peer, refused.status, refused.text))
        self.refuse(refused)

    def gone(self) -> None:
        """The peer is gone: give its place back."""
        self._left = True
        if self._scope is not None and self._asking is not None and not self._scope.cancel_called:
            self._scope.cancel()
            self._server.runtime.timers.after(ABANDON_AFTER, self._tell_stubborn)
        self._server.gate.leave(self._ticket)
        self._over()

    def _tell_stubborn(self) -> None:
        if self._asking is not None:
            log_left_behind(f"on_upgrade for {self.transport.peer}", self._asking)

    def _over(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._server.upgrades.discard(self)


def asks_whether_ready(head: bytes, path: str | None) -> bool:
    """Whether ``head`` is that of ``GET path``."""
    return path is not None and head.startswith(b"GET %b HTTP/" % path.encode())


_READY = HandshakeRefused(200, "ready")
_NOT_READY = HandshakeRefused(503, "not ready", {"Retry-After": "5"})


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
