"""WebSockets whose hooks are functions, in Robyn's style, on top of ``ConnectionActor``.

A function is called with what its event brings (``ws``, the message), by position, and with whatever
else it names: dependencies, and parameters of the path and the query, by name and type as Robyn does.
These are found once, when the connection opens; one that does not fit closes it with 1008.

A plain function runs in a worker thread, as in Robyn, so that one that blocks holds up its own connection
alone.  What it calls on ``ws`` is done on the event loop, in the order of the calls and before what comes
after the function.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from inspect import Parameter
from types import NoneType, UnionType
from typing import Any, ClassVar, TypeVar, Union, final, get_args, get_origin, get_type_hints

import anyio
import anyio.from_thread
import anyio.to_thread
from anyio.lowlevel import current_token

from actors import CloseCode, ConnectionActor, ConnectionClosing, Down, Request, Restarted
from actors.codecs import Codec, JsonCodec, RawCodec
from actors.codes import fit_reason
from actors.messages import CloseReport
from actors.misuse import say_nobody_takes, taken
from actors.ref import Closing
from supervisor.registry import Registry

logger = logging.getLogger("supervisor")

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
Codecs = str | Codec | Mapping[str | None, str | Codec]
Dependencies = Mapping[str, Mapping[str, Any]]

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

_EVENTS: dict[str, tuple[str, ...]] = {
    "connect": ("ws",),
    "message": ("ws", "message"),
    "close": ("ws", "report"),
}
"""For each event what it gives to its function, by position."""

_Source = Callable[[Request, Dependencies], Any]
"""Where the value of a named argument comes from; raises ``_Unfit``."""


class _Unfit(Exception):
    """A connection does not have what a function names; the text is for the peer."""


@final
@dataclass(frozen=True, slots=True)
class _Function:
    """A registered function: how many arguments it takes by position, and what it names otherwise."""

    function: Callable[..., Any]
    positional: int
    named: Mapping[str, _Source]

    @property
    def plain(self) -> bool:
        """Whether it does its work when it is called, not when what it returns is awaited."""
        call = self.function if inspect.isroutine(self.function) else type(self.function).__call__
        return not inspect.iscoroutinefunction(inspect.unwrap(call))

    def call(self, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
        """Call it for an event."""
        return self.function(*arguments[: self.positional], **keywords)


def _function(function: Callable[..., Any], event: str) -> _Function:
    """Look at a function; raises ``TypeError`` when it cannot be called for ``event``."""
    if not callable(function):
        raise TypeError(f"event: {event!r} needs a function, not {function!r}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"event: the function for {event!r} has a yield in it, which makes it a generator that nobody "
            "runs; ws.sync_send(message) and await ws.send(message) send one"
        )
    given = _EVENTS[event]
    try:
        signature = inspect.signature(function)
    except ValueError:  # a function of C that does not tell
        return _Function(function, len(given), {})
    parameters = list(signature.parameters.values())
    if any(one.kind is Parameter.VAR_POSITIONAL for one in parameters):
        positional = len(given)
    else:
        by_position = [one for one in parameters if one.kind in _BY_POSITION]
        positional = min(len(given), len(by_position))
        if event == "close" and positional == 2 and not _takes_report(by_position[1]):
            positional = 1
    named = [one for one in parameters[positional:] if one.kind in _BY_NAME]
    needed = 1 if event == "close" else len(given)
    unnamed = [one for one in parameters[positional:] if one.kind is Parameter.POSITIONAL_ONLY]
    if positional < needed or any(one.default is Parameter.empty for one in unnamed):
        raise TypeError(
            f"event: the function for {event!r} is called with ({', '.join(given)}) and what it names, "
            f"but it is {getattr(function, '__name__', function)}{signature}"
        )
    hints = _hints(function)
    sources = {one.name: _source(one, hints.get(one.name, one.annotation)) for one in named}
    return _Function(function, positional, sources)


_BY_POSITION = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_BY_NAME = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


def _takes_report(second: Parameter) -> bool:
    """Whether the second parameter of a function for ``"close"`` is the report, not a name to look up."""
    told = second.annotation in (CloseReport, "CloseReport")
    return second.name == "report" or told or second.kind is Parameter.POSITIONAL_ONLY


def _hints(function: Callable[..., Any]) -> Mapping[str, Any]:
    """The annotations of a function; those that are text are looked up, where that is possible."""
    try:
        return get_type_hints(function)
    except Exception:  # whatever looking up a name raises
        return {}


def _source(parameter: Parameter, annotation: Any) -> _Source:
    name = parameter.name
    if name in ("global_dependencies", "router_dependencies"):
        return lambda request, dependencies: dependencies.get(name, {})
    if name == "query_params" or getattr(annotation, "__name__", None) == "QueryParams":
        return lambda request, dependencies: request.query_params
    default = parameter.default
    if get_origin(annotation) in (Union, UnionType) and NoneType in get_args(annotation):
        (annotation, *more) = (one for one in get_args(annotation) if one is not NoneType)
        default = None if default is Parameter.empty else default
        if more:
            annotation = None
    many = get_origin(annotation) is list or annotation is list
    if many:
        annotation = (*get_args(annotation), str)[0]
    convert = _CONVERSIONS.get(annotation, annotation)
    if not callable(convert) or get_origin(annotation) is not None:
        raise TypeError(f"parameter {name!r}: of {parameter.annotation!r} nothing can be made from text")
    value = _Value(name, convert, default, many)
    return lambda request, dependencies: value.of(request)


_WORDS = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off", ""), False),
}
_CONVERSIONS: Mapping[Any, Callable[[str], Any]] = {
    Parameter.empty: str,
    Any: str,
    bool: lambda text: _WORDS[text.lower()],
}


@final
@dataclass(frozen=True, slots=True)
class _Value:
    """A parameter of the path or the query; with ``many`` the list of all its values."""

    name: str
    convert: Callable[[str], Any]
    default: Any
    many: bool

    def of(self, request: Request) -> Any:
        """Find it in a request; raises ``_Unfit``."""
        found = request.query_params.get_all(self.name)
        if self.name in request.path_params:
            found = [request.path_params[self.name]]
        if found:
            return [self._of(text) for text in found] if self.many else self._of(found[-1])
        if self.default is Parameter.empty:
            raise _Unfit(f"missing parameter: {self.name}")
        return self.default

    def _of(self, text: str) -> Any:
        try:
            return self.convert(text)
        except Exception as error:  # whatever a conversion raises is about the text, which is the client's
            logger.debug("parameter %s: converting it failed", self.name, exc_info=error)
            raise _Unfit(f"parameter with a wrong value: {self.name}") from None
