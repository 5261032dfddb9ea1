"""WebSockets whose hooks are functions, in Robyn's style, on top of ``ConnectionActor``.

A function is called with what its event brings (``ws``, the message), by position, and with whatever
else it names: dependencies, and parameters of the path and the query, by name and type as Robyn does.
These are found once, when the connection opens; one that does not fit closes it with 1008.

A plain function runs in a worker thread, as in Robyn, so that one that blocks holds up its own connection
alone.  What it calls on ``ws`` is done on the event loop, in the order of the calls and before what comes
after the function.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Hashable, Mapping
from contextlib import suppress
from functools import cached_property, partial
from typing import Any, ClassVar, TypeVar, final

import anyio
import anyio.from_thread
import anyio.to_thread
from anyio.lowlevel import current_token

from actors import CloseCode, ConnectionActor, ConnectionClosing, Down, Request, Restarted
from actors.cell.misuse import say_nobody_takes, taken
from actors.codecs import Codec, JsonCodec, RawCodec
from actors.codes import fit_reason
from actors.messages import CloseReport
from actors.ref import Closing
from supervisor.registry import Registry
from supervisor.robyn.arguments import (
    _EVENTS,
    Dependencies,
    _Function,
    _function,
    _Unfit,
)

logger = logging.getLogger("supervisor")

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
Codecs = str | Codec | Mapping[str | None, str | Codec]

_RAW, _JSON = RawCodec(), JsonCodec()

THREADS = 64
"""Plain functions of one WebSocket that run at the same time; further ones wait for their turn."""


@final
class FunctionCodec:
    """``str`` and ``bytes`` as they are, and JSON text for a ``dict`` or ``list`` that is sent."""

    name = "functions"

    def encode(self, message: object) -> str | bytes:
        """Return what to send; raises ``TypeError`` and ``ValueError`` for what cannot be."""
        return (_JSON if isinstance(message, dict | list) else _RAW).encode(message)

    def decode(self, data: str | bytes) -> str | bytes:
        """Return ``data`` as it came."""
        return data


class FunctionActor(ConnectionActor):
    """The ``ws`` that the functions of one WebSocket get: a connection actor with attributes of their own.

    Any attribute that is set on it stays on it, for as long as the connection lasts.  Everything of
    ``ConnectionActor`` is there: ``id``, ``ref``, ``request``, ``query_params``, ``path_params``,
    ``close``, ``await send(...)``, ``spawn``, ``after`` and the others.  What is told to its ref is
    sent to the peer, so any thread can send with ``ws.ref.tell(message)``.
    """

    codec = FunctionCodec()
    route: ClassVar[FunctionRoute]

    async def on_connect(self) -> None:
        """Call the function for ``"connect"``, if all functions can be called."""
        self._loop = current_token()
        try:
            _ = self._keywords
        except _Unfit as error:
            self.close(CloseCode.POLICY_VIOLATION, fit_reason(str(error)))
        else:
            self.join(self.route.topic)
            await self._answer("connect", self)

    async def on_message(self, message: Any) -> None:
        """Call the function for ``"message"``."""
        await self._answer("message", self, message)

    async def on_info(self, message: Any) -> None:
        """Send what is told to the ref."""
        if not isinstance(message, Down | Restarted):
            await self.send(message)

    async def on_close(self, report: CloseReport) -> None:
        """Call the function for ``"close"``, unless none was ever called."""
        with suppress(_Unfit):
            result = await self._call("close", self, report)
            if result is not None:
                say_nobody_takes(self, "on_close", result)

    async def _call(self, event: str, *arguments: Any) -> Any:
        """Call the function for an event, a plain one in a thread; the end of the hook leaves it there."""
        function = self.route.functions.get(event)
        if function is None:
            return None
        call = partial(function.call, arguments, self._keywords[event])
        threads = self.route.threads
        if threads is None or not function.plain:
            result = call()
        else:
            result = await anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=threads)
        return await taken(result)

    async def _answer(self, event: str, *arguments: Any) -> None:
        """Send what a function returns, if it is not ``None`` and no close has begun meanwhile."""
        result = await self._call(event, *arguments)
        if result is None or isinstance(result, Closing):
            return
        try:
            with suppress(ConnectionClosing):
                await self.send(result)
        except TypeError as error:
            raise TypeError(
                f"the function for {event!r} of {self.route.path} returned what cannot be sent: {error}"
            ) from error

    @cached_property
    def _keywords(self) -> dict[str, dict[str, Any]]:
        return self.route.keywords_for(self.request)

    # -- what only the function style has ------------------------------------------------------

    @cached_property
    def session_id(self) -> Any:
        """The id of the session: the connection's own until something else is set."""
        return self.id

    def sync_send(self, message: Any) -> None:
        """Send one message from a plain function; does not wait for the peer, whether it keeps up or not.

        From any thread.  Raises what ``send`` raises.
        """
        self._on_loop(self._own_cell.send_now, message)

    # Timers and tasks are for the thread of the event loop, and a plain function runs in another one.

    def spawn(self, function: Callable[..., Awaitable[object]], *args: object) -> None:
        """As ``ConnectionActor.spawn``, from a plain function too."""
        self._on_loop(super().spawn, function, *args)

    def after(self, delay: float, message: object, key: Hashable = None) -> Hashable:
        """As ``ConnectionActor.after``, from a plain function too."""
        return self._on_loop(super().after, delay, message, key)

    def every(self, interval: float, message: object, key: Hashable = None) -> Hashable:
        """As ``ConnectionActor.every``, from a plain function too."""
        return self._on_loop(super().every, interval, message, key)

    def cancel_timer(self, key: Hashable) -> bool:
        """As ``ConnectionActor.cancel_timer``, from a plain function too."""
        return self._on_loop(super().cancel_timer, key)

    def _on_loop(self, call: Callable[..., T], *arguments: object) -> T:
        """Call on the event loop and wait for what comes of it; raises ``RunFinishedError`` after its end."""
        if self._own_cell.runtime.in_thread:
            return call(*arguments)
        return anyio.from_thread.run_sync(call, *arguments, token=self._loop)

    # -- Robyn's names -------------------------------------------------------------------------

    def sync_send_to(self, id: str, message: Any) -> None:
        """Send to the connection ``id``, from any thread; nothing happens when it is gone."""
        ref = self.route.registry.get(id)
        if id == self.id:
            self.sync_send(message)
        elif ref is not None:
            ref.tell(message)

    async def async_send_to(self, id: str, message: Any) -> None:
        """Send to the connection ``id``; waits for a slow peer if it is the own one."""
        await self.send(message) if id == self.id else self.sync_send_to(id, message)

    def sync_broadcast(self, message: Any) -> None:
        """Send to every connection of this WebSocket; the same as ``publish`` of what ``websocket`` gave."""
        self.route.publish(message)

    async def async_broadcast(self, message: Any) -> None:
        """Send to every connection of this WebSocket."""
        self.route.publish(message)

    sync_send_bytes_to, async_send_bytes_to = sync_send_to, async_send_to
    sync_broadcast_bytes, async_broadcast_bytes, broadcast = sync_broadcast, async_broadcast, async_broadcast

    async def send_text(self, data: str) -> None:
        """Send a text message."""
        await self.send(data)

    async def send_bytes(self, data: bytes) -> None:
        """Send a binary message."""
        await self.send(data)

    async def send_json(self, data: Any) -> None:
        """Send ``data`` as JSON in a text message."""
        await self.send(_JSON.encode(data))

    def __getattr__(self, name: str) -> Any:
        if name in _INSTEAD:
            raise AttributeError(f"{name}: {_INSTEAD[name]}")
        raise AttributeError(f"{name}: nobody has set it on this {type(self).__name__}")


_MESSAGES_COME = 'messages are not fetched: each one is given to the function for on("message")'
_INSTEAD = {
    **dict.fromkeys(("receive_text", "receive_bytes", "message_channel"), _MESSAGES_COME),
    "receive_json": f'{_MESSAGES_COME}; websocket(path, codec="json") decodes them',
}
"""What Robyn has and we do not, and what to use instead."""


@final
class FunctionRoute:
    """A WebSocket at a path, in the function style; made by ``RobynSockets.websocket``."""

    def __init__(
        self,
        path: str,
        registry: Registry,
        publish: Callable[[str, object], None],
        *,
        dependencies: Callable[[], Dependencies] = dict,
        codec: Codecs | None = None,
        threads: bool = True,
    ) -> None:
        self.threads = anyio.CapacityLimiter(THREADS) if threads else None
        """Who may run a plain function in a thread; ``None``: they run on the event loop."""
        self.registry = registry
        self.functions: dict[str, _Function] = {}
        self.topic = f"websocket {path}"
        """Of it is every connection a member."""
        self.path = path
        self._publish = publish
        self._dependencies = dependencies
        own = {"route": self} if codec is None else {"route": self, "codec": codec}
        self.actor: type[FunctionActor] = type(f"websocket({path!r})", (FunctionActor,), own)

    def __repr__(self) -> str:
        return f"<FunctionRoute {self.path}: {', '.join(self.functions) or 'no functions'}>"

    def publish(self, message: object) -> None:
        """Send ``message`` to every connection of this WebSocket; from any thread, returns at once."""
        self._publish(self.topic, message)

    def on(self, event: str) -> Callable[[F], F]:
        """Register the decorated function for ``event``; gives the function back unchanged.

        ``"connect"`` gets ``(ws)``, ``"message"`` gets ``(ws, message)``, ``"close"`` gets ``(ws)``, or
        ``(ws, report)``, a ``CloseReport``.  Functions may be plain or async; they run when the hooks
        ``on_connect``, ``on_message`` and ``on_close`` of a ``ConnectionActor`` do, async ones on the event
        loop and plain ones in a thread, so that they may block.  What the first two
        return is sent, unless it is ``None``: ``str`` or ``bytes``, a ``dict`` or ``list`` as JSON, or
        what the codec takes.

        Whatever else a function names is looked up when the connection opens: the mappings
        ``global_dependencies`` and ``router_dependencies``, ``query_params``, and any other name in
        the parameters of the path and then of the query, converted to its annotation.  A connection
        without one that has no default, or with a wrong one, is closed with 1008 and a reason that
        names it, and no function is called.

        Raises ``ValueError`` for another event and for a second function, and ``TypeError`` for a
        function that cannot be called so.
        """
        if event not in _EVENTS:
            events = ", ".join(map(repr, _EVENTS))
            raise ValueError(f"event: {event!r} does not exist on a WebSocket; there are {events}")

        def register(function: F) -> F:
            if event in self.functions:
                raise ValueError(f"event: {event!r} of {self.path} has a function already")
            self.functions[event] = _function(function, event)
            return function

        return register

    def keywords_for(self, request: Request) -> dict[str, dict[str, Any]]:
        """The keyword arguments of every function on one connection; raises ``_Unfit``."""
        dependencies = self._dependencies()
        return {
            event: {name: source(request, dependencies) for name, source in function.named.items()}
            for event, function in self.functions.items()
        }


# -- what functions name -------------------------------------------------------------------------
