"""The event loop that runs actors: what differs between asyncio and trio."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Protocol, cast, final

import anyio
import trio
from anyio.lowlevel import current_token

from actors.wakeup import AsyncioParker, Parker, TrioParker


class Backend(Protocol):
    """The event loop that runs actors: what differs between asyncio and trio."""

    cancelled: type[BaseException]
    """The exception that cancellation raises."""
    clock: Callable[[], float]
    """Monotonic seconds."""
    scope: type[anyio.CancelScope]
    """``anyio.CancelScope`` without the search for the event loop."""

    def parker(self) -> Parker:
        """A new parker of this event loop."""

    def current_task(self) -> object:
        """The task that runs now; ``None`` in a callback."""

    def call_soon(self, function: Callable[..., object], *args: Any) -> None:
        """Run ``function`` when the others have had their turn; only on the event loop's thread."""

    def call_from_thread(self, function: Callable[..., object], *args: Any) -> None:
        """Run ``function`` on the event loop's thread soon; raises ``RuntimeError`` after its end."""

    def start_apart(self, run: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        """Start a task in no task group of the caller's: nothing of the caller's cancels it or waits for it.

        ``run`` lets nothing out but the cancellation of the whole event loop.
        """


@final
class AsyncioBackend:
    """asyncio and uvloop."""

    __slots__ = ("_context", "cancelled", "clock", "loop", "scope")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._context = contextvars.copy_context()
        # Not loop.time: uvloop's stands still within a turn of the loop and counts whole milliseconds,
        # so that a pong which comes at once would not be later than its ping.
        self.clock: Callable[[], float] = time.monotonic
        self.cancelled: type[BaseException] = asyncio.CancelledError
        self.scope = type(anyio.CancelScope())

    def parker(self) -> Parker:
        return AsyncioParker(self.loop)

    def current_task(self) -> object:
        return asyncio.current_task(self.loop)

    def call_soon(self, function: Callable[..., object], *args: Any) -> None:
        self.loop.call_soon(function, *args)

    def call_from_thread(self, function: Callable[..., object], *args: Any) -> None:
        # In the context of this event loop, not of the calling thread: see Runtime.
        self.loop.call_soon_threadsafe(function, *args, context=self._context)

    def start_apart(self, run: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        task = self.loop.create_task(run(), name=name)
        _apart.add(task)
        task.add_done_callback(_apart.discard)


_apart: set[asyncio.Task[None]] = set()
"""Those of ``start_apart``: event loops hold tasks weakly."""


@final
class TrioBackend:
    """trio."""

    __slots__ = ("_token", "cancelled", "clock", "scope")

    def __init__(self, token: trio.lowlevel.TrioToken) -> None:
        self._token = token
        self.clock: Callable[[], float] = trio.lowlevel.current_clock().current_time
        self.cancelled: type[BaseException] = trio.Cancelled
        self.scope = type(anyio.CancelScope())

    def parker(self) -> Parker:
        return TrioParker()

    def current_task(self) -> object:
        try:
            return trio.lowlevel.current_task()
        except RuntimeError:  # in a callback of the run loop
            return None

    def call_soon(self, function: Callable[..., object], *args: Any) -> None:
        self._token.run_sync_soon(function, *args)

    def call_from_thread(self, function: Callable[..., object], *args: Any) -> None:
        try:
            self._token.run_sync_soon(function, *args)
        except trio.RunFinishedError as error:
            raise RuntimeError(str(error)) from error

    def start_apart(self, run: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        trio.lowlevel.spawn_system_task(run, name=name, context=contextvars.copy_context())


def current_backend() -> Backend:
    """The event loop that runs now; raises ``anyio.NoEventLoopError`` outside of one."""
    token = current_token().native_token
    if isinstance(token, asyncio.AbstractEventLoop):
        return AsyncioBackend(token)
    return TrioBackend(cast(trio.lowlevel.TrioToken, token))


@final
class Waiter:
    """One task of any event loop, waiting for something that happens on any thread."""

    __slots__ = ("_backend", "_parker", "_thread", "woken")

    def __init__(self) -> None:
        self._backend = current_backend()
        self._parker = self._backend.parker()
        self._thread = threading.get_ident()
        self.woken = False

    def wake(self) -> None:
        """End the wait; from any thread, and once is enough."""
        self.woken = True
        if threading.get_ident() == self._thread:
            self._parker.wake()
            return
        with suppress(RuntimeError):  # the waiting event loop has ended, and the task with it
            self._backend.call_from_thread(self._parker.wake)

    async def wait(self) -> None:
        """Wait until ``wake`` has been called."""
        while not self.woken:
            await self._parker.park()
