"""WebSockets whose hooks are functions, in Robyn's style, on top of ``ConnectionActor``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from typing import Any, TypeVar, final

from actors import ConnectionActor, ConnectionClosing, Down, Restarted
from actors.messages import CloseReport

F = TypeVar("F", bound=Callable[..., Any])


class FunctionActor(ConnectionActor):
    """The ``ws`` that the functions of one WebSocket get: a connection actor with attributes of their own.

    Any attribute that is set on it stays on it, for as long as the connection lasts.  Everything of
    ``ConnectionActor`` is there: ``id``, ``ref``, ``request``, ``query_params``, ``path_params``,
    ``close``, ``await send(...)``, ``spawn``, ``after`` and the others.  What is told to its ref is
    sent to the peer, so any thread can send with ``ws.ref.tell(message)``.
    """

    @cached_property
    def session_id(self) -> Any:
        """The id of the session: the connection's own until something else is set."""
        return self.id

    def sync_send(self, message: Any) -> None:
        """Send one message from a plain function; returns at once, whether the peer keeps up or not.

        From another thread it goes through the mailbox, as ``ref.tell`` does.  Raises what ``send``
        raises.
        """
        cell = self._own_cell
        if cell.runtime.in_thread:
            cell.send(message)
        else:
            cell.ref.tell(message)

    async def on_info(self, message: Any) -> None:
        """Send what is told to the ref."""
        if not isinstance(message, Down | Restarted):
            await self.send(message)

    async def answer(self, result: Any) -> None:
        """Send what a function returned, if it is not ``None`` and no close has begun meanwhile."""
        if inspect.isawaitable(result):
            result = await result
        if result is not None:
            with suppress(ConnectionClosing):
                await self.send(result)


@final
class FunctionRoute:
    """A WebSocket at a path, in the function style; made by ``RobynSockets.websocket``."""

    def __init__(self, path: str, actor: type[FunctionActor]) -> None:
        self._path = path
        self._actor = actor

    def __repr__(self) -> str:
        return f"<FunctionRoute {self._path}: {', '.join(self._registered()) or 'no functions'}>"

    def on(self, event: str) -> Callable[[F], F]:
        """Register the decorated function for ``event``; gives the function back unchanged.

        ``"connect"`` gets ``(ws)``, ``"message"`` gets ``(ws, message)``, ``"close"`` gets ``(ws)`` or
        ``(ws, report)``, a ``CloseReport``.  Functions may be plain or async; they run as the hooks
        ``on_connect``, ``on_message`` and ``on_close`` of a ``ConnectionActor`` do.  What the first two
        return is sent, unless it is ``None``: ``str`` or ``bytes``, or what the codec takes.

        Raises ``ValueError`` for another event and for a second function, and ``TypeError`` for a
        function that takes other arguments.
        """
        if event not in _EVENTS:
            events = ", ".join(map(repr, _EVENTS))
            raise ValueError(f"event: {event!r} does not exist on a WebSocket; there are {events}")

        def register(function: F) -> F:
            if event in self._registered():
                raise ValueError(f"event: {event!r} of {self._path} has a function already")
            make, *signatures = _EVENTS[event]
            given = _arguments(function, event, signatures)
            setattr(self._actor, f"on_{event}", make(function, len(given)))
            return function

        return register

    def _registered(self) -> list[str]:
        return [event for event in _EVENTS if f"on_{event}" in vars(self._actor)]


def _on_connect(function: Callable[..., Any], _: int) -> Callable[..., Any]:
    async def on_connect(self: FunctionActor) -> None:
        await self.answer(function(self))

    return on_connect


def _on_message(function: Callable[..., Any], _: int) -> Callable[..., Any]:
    async def on_message(self: FunctionActor, message: Any) -> None:
        await self.answer(function(self, message))

    return on_message


def _on_close(function: Callable[..., Any], arguments: int) -> Callable[..., Any]:
    async def on_close(self: FunctionActor, report: CloseReport) -> None:
        result = function(self, report) if arguments == 2 else function(self)
        if inspect.isawaitable(result):
            await result

    return on_close


_EVENTS: dict[str, tuple[Any, ...]] = {
    "connect": (_on_connect, ("ws",)),
    "message": (_on_message, ("ws", "message")),
    "close": (_on_close, ("ws", "report"), ("ws",)),
}
"""For each event what makes a hook of a function, and the arguments that it may take, the most first."""


def _arguments(
    function: Callable[..., Any], event: str, signatures: list[tuple[str, ...]]
) -> tuple[str, ...]:
    """Choose the longest of ``signatures`` that ``function`` can be called with."""
    if not callable(function):
        raise TypeError(f"event: {event!r} needs a function, not {function!r}")
    try:
        parameters = inspect.signature(function)
    except ValueError:  # a function of C that does not tell
        return signatures[0]
    for arguments in signatures:
        with suppress(TypeError):
            parameters.bind(*arguments)
            return arguments
    allowed = " or ".join(f"({', '.join(arguments)})" for arguments in signatures)
    name = getattr(function, "__name__", repr(function))
    raise TypeError(
        f"event: the function for {event!r} is called with {allowed}, but it is {name}{parameters}"
    )
