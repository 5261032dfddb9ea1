"""One connection from its first byte to 101, or to the HTTP status that refuses it.

The way through this file: ``Upgrade`` -> ``asked`` (the head is there: route, checks) ->
``on_upgrade`` of the class, if it has one -> ``_accept`` (101, the cell, the tree).

What we end is answered: once the head is there, its client gets a status, the hooks an event, and
``refused`` of the gate a count.  A request that never came is counted.
"""

from __future__ import annotations

import logging
import os
from enum import Enum, auto
from http import HTTPStatus
from types import CoroutineType
from typing import Any, final
from urllib.parse import unquote

import anyio

from actors import Refusal
from actors.cell.connection_cell import ConnectionCell
from actors.cell.hook import ABANDON_AFTER
from actors.cell.incarnation import log_left_behind
from actors.cell.misuse import taken
from actors.codecs import Codec, choose_codec
from actors.protocol.opening import (
    Handshake,
    HandshakeRefused,
    Opening,
    asks_whether_ready,
    wants_websocket,
)
from actors.protocol.websocket import WebSocket
from actors.repeats import log_error
from actors.transports.transport import NOBODY, Transport
from supervisor.admission.gate import Ticket
from supervisor.admission.options import WEBSOCKET
from supervisor.events import UpgradeRefused, tell
from supervisor.listening.site import Site, Terms

logger = logging.getLogger("supervisor")


class Stage(Enum):
    """The stage of an upgrade."""

    READING = auto()
    """The head is awaited."""
    ASKING = auto()
    """``on_upgrade`` runs."""
    ANSWERED = auto()
    """It is refused, or its peer has ended its side: the end of TCP is awaited."""
    OVER = auto()
    """It is somebody else's, or gone."""


# A member of an enum that is looked up in its class costs as much as a call.
READING, ASKING, ANSWERED, OVER = Stage


@final
class Upgrade(Opening):
    """The opening handshake of one accepted connection; forgotten by the server when it is over.

    ``ticket`` is the place of a kept HTTP connection that asks for something else.
    """

    __slots__ = ("_asking", "_deadline", "_handshake", "_scope", "_site", "_stage", "_ticket")

    def __init__(self, site: Site, transport: Transport, ticket: Ticket | None = None) -> None:
        super().__init__(transport)
        self._site = site
        self._stage = READING
        self._handshake: Handshake | None = None
        self._scope: anyio.CancelScope | None = None
        self._asking: object = None  # the task that runs on_upgrade
        transport.sink = self
        site.upgrades.add(self)
        timeout = site.policy.timeouts.handshake
        self._deadline = None if timeout is None else site.runtime.timers.after(timeout, self._late)
        if ticket is not None:
            self._ticket = ticket
            site.gate.come_back(ticket, self.abort)
            return
        self._ticket, refused = site.gate.arrive(transport, self.abort)
        if refused is not None and site.gate.crowded:
            self.abort()
        elif refused is not None:
            self.refuse(refused)

    def _late(self) -> None:
        """Its time is over."""
        site, self._deadline = self._site, None
        if self._stage is ASKING:
            assert self._handshake is not None, "the class is asked about it"
            logger.warning(
                "on_upgrade has not answered %r within %g s: cancelled, its client gets 504",
                unquote(self._handshake.path),
                site.policy.timeouts.handshake,
            )
            self.refuse(site.gate.refuse("on_upgrade", 504, "the application has not answered in time"))
        else:
            self._count_unasked()
            self.abort()

    def stop(self) -> None:
        """The server stops: give up what is not answered yet, and do not wait for the peer's end."""
        if self._stage is ASKING:
            self.refuse(self._going_down())
        if self._stage is ANSWERED:
            self.transport.end(linger=False)
        else:
            self._count_unasked()
            self.abort()

    def _count_unasked(self) -> None:
        if self._stage is READING:
            self._site.gate.refused["no_request"] += 1

    def abort(self) -> None:
        """Drop the connection."""
        self.transport.abort()
        self.gone()

    def asked(self, head: bytes) -> None:
        """The head is there: find out whether it may be, and what is to follow."""
        site, gate, peer = self._site, self._site.gate, self.transport.peer
        if asks_whether_ready(head, site.ready_path):
            self._stage = ANSWERED
            super().refuse(_READY if site.ready else _NOT_READY, body=not _is_head(head))
            return
        try:
            if site.forward is not None and not wants_websocket(head):
                gate.pipe(self._ticket, peer, head)
                self._over()
                site.forward(self.transport, head + self.rest(), self._ticket)
                return
            handshake = self._handshake = Handshake(head, client=peer)
            client = gate.identify(self._ticket, peer, handshake.headers)
            found = site.router.find(handshake.path)
            if found is None:
                raise HandshakeRefused(404, "no WebSocket at this path")
            route, path_params = found
            terms = site.terms_of(route)
            handshake.negotiate(
                terms.subprotocols, path_params, client=client, compression=terms.policy.limits.compression
            )
            if not site.accepting:
                raise self._going_down()
            gate.ask(self._ticket, handshake.request)
            codec = terms.codec or choose_codec(route.actor.codec, handshake.request.subprotocol)
        except HandshakeRefused as refused:
            self.refuse(refused, body=not _is_head(head))
        except LookupError:
            offer = ", ".join(terms.subprotocols)
            self.refuse(HandshakeRefused(400, f"Sec-WebSocket-Protocol: offer one of {offer}"))
        else:
            if terms.asks_class:
                self._stage = ASKING
                name = f"{route.actor.__name__}.on_upgrade"
                site.runtime.spawn(self._ask_class, handshake, terms, codec, name=name)
            else:
                cell = self._accept(handshake, terms, codec)
                site.runtime.start(cell.run, name=f"{route.actor.__name__} {cell.id}")

    async def _ask_class(self, handshake: Handshake, terms: Terms, codec: Codec) -> None:
        actor = terms.actor
        self._asking = self._site.runtime.backend.current_task()
        try:
            answer: Any = None
            with anyio.CancelScope() as self._scope:
                if self._stage is not ASKING:
                    return  # it was given up before this task ran
                answer = actor.on_upgrade(handshake.request)
                if type(answer) is CoroutineType:
                    answer = await answer
                elif answer is not None:
                    answer = await taken(answer)
                if answer is not None and not isinstance(answer, Refusal):
                    raise TypeError(f"on_upgrade returns None or a Refusal, not {answer!r}")
        except BaseException as error:
            log_error(logger, error, actor.__qualname__, "%s.on_upgrade failed", actor.__name__)
            answer = Refusal(500)
        finally:
            self._asking = None
        if self._stage is not ASKING:
            return  # given up meanwhile, or its peer is gone
        if isinstance(answer, Refusal):
            text = answer.reason or HTTPStatus(answer.status).phrase
            self.refuse(HandshakeRefused(answer.status, text, answer.headers))
        elif not self._site.accepting:
            self.refuse(self._going_down())
        else:
            await self._accept(handshake, terms, codec).run()

    def _going_down(self) -> HandshakeRefused:
        return self._site.gate.refuse("going_down", 503, "the server is going down")

    def _accept(self, handshake: Handshake, terms: Terms, codec: Codec) -> ConnectionCell:
        site, transport = self._site, self.transport
        cell = ConnectionCell(
            site.runtime,
            terms.actor,
            id=os.urandom(8).hex(),
            request=handshake.request,
            codec=codec,
            options=terms.options,
        )
        transport.write(handshake.accept())
        websocket = WebSocket(transport, handshake.protocol, cell, site.runtime.clock, terms.wire)
        cell.websocket = websocket
        self._stage = OVER
        site.upgrades.discard(self)
        site.connections.start(cell, terms.policy, self._ticket, self._deadline)
        transport.sink = websocket
        rest = self.rest()
        if rest:  # reading may have been paused for it
            websocket.data(rest)
            if cell.reading:
                transport.resume()
        return cell

    def refuse(self, refused: HandshakeRefused, *, body: bool = True) -> None:
        """Answer, tell the hooks, and let the deadline bound how long the peer takes to go."""
        self._answered()
        path = unquote(self._handshake.path) if self._handshake is not None else ""
        tell(self._site.hooks, UpgradeRefused(path, self.transport.peer, refused.status, refused.text))
        timeout = self._site.policy.timeouts.close
        if self._deadline is None and timeout is not None:
            self._deadline = self._site.runtime.timers.after(timeout, self._late)
        if self._ticket.kind == WEBSOCKET:  # it is none any more, and the one with its key may come again
            self._site.gate.come_back(self._ticket, self.abort)
        super().refuse(refused, body=body)

    def _answered(self) -> None:
        self._stage = ANSWERED
        if self._scope is not None and self._asking is not None and not self._scope.cancel_called:
            self._scope.cancel()
            self._site.runtime.timers.after(ABANDON_AFTER, self._tell_stubborn)

    def eof(self) -> None:
        """The peer does not wait for the answer: there is nobody to talk to."""
        self._answered()
        super().eof()

    def gone(self) -> None:
        """The peer is gone: give its place back, unless that is somebody else's now."""
        if self._stage is OVER:
            return
        self._answered()
        if self.transport.sink is self:
            self.transport.sink = NOBODY  # nothing that comes late is asked about
        self._site.gate.leave(self._ticket)
        self._over()

    def _tell_stubborn(self) -> None:
        if self._asking is not None:
            log_left_behind(f"on_upgrade for {self.transport.peer}", self._asking)

    def _over(self) -> None:
        self._stage = OVER
        if self._deadline is not None:
            self._deadline.cancel()
        self._site.over(self)


def take_back(site: Site, transport: Transport, request: bytes, ticket: Ticket) -> None:
    """Serve a connection that was forwarded from ``request`` on, which is for this server."""
    Upgrade(site, transport, ticket)
    transport.sink.data(request)


def _is_head(head: bytes) -> bool:
    return head.startswith(b"HEAD ")


_READY = HandshakeRefused(200, "ready")
_NOT_READY = HandshakeRefused(503, "not ready", {"Retry-After": "5"})
