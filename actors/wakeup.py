"""Park one task and wake it, with the cheapest means of each runtime.

The parker itself is what the task awaits on asyncio, ``wait_task_rescheduled`` does it on trio.  An
``Event`` would do the same at several times the price.  A parker holds one task at a time; ``wake``
without a parked task does nothing, so the woken task looks again at the state it waits for.  A parker
belongs to the thread of its event loop; a ``Waiter`` may be woken from any thread.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import threading
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import suppress
from types import CoroutineType, FrameType, coroutine
from typing import Any, Protocol, cast, final

import anyio
import trio
from anyio.lowlevel import current_token

_DAY = 86_400.0


class Parker(Protocol):
    """Where one task waits until it is woken."""

    def park(self) -> Awaitable[None]:
        """Wait for ``wake``; may return early, so the caller checks its condition again."""

    async def park_for(self, seconds: float) -> None:
        """``park`` for ``seconds`` at the most."""

    def wake(self) -> None:
        """Let the parked task go on; nothing when no task is parked."""

    def hurry(self) -> None:
        """Let a task that is woken run here and now, where the event loop allows it.

        For who was called by the event loop and has nothing half done: the task may do anything.
        """


@final
class AsyncioParker:
    """A parker on asyncio and uvloop: a future-like object (``asyncio.isfuture``), used again and again."""

    __slots__ = ("_asyncio_future_blocking", "_cancellation", "_context", "_handle", "_loop", "_step")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._step: Callable[[AsyncioParker], object] | None = None  # of the parked task
        self._context: contextvars.Context | None = None
        self._handle: asyncio.Handle | None = None  # the task is woken, and its turn will come
        self._cancellation: asyncio.CancelledError | None = None
        self._asyncio_future_blocking = False

    @coroutine
    def park(self) -> Generator[AsyncioParker, None, None]:
        assert self._step is None, "a parker holds one task at a time"
        self._asyncio_future_blocking = True
        yield self

    async def park_for(self, seconds: float) -> None:
        # uvloop counts whole milliseconds, and one that is rounded down comes too early, again and again.
        timer = self._loop.call_later(math.ceil(min(seconds, _DAY) * 1000) / 1000, self.wake)
        try:
            await self.park()
        finally:
            timer.cancel()

    def wake(self) -> None:
        if self._step is not None and self._handle is None:
            self._handle = self._loop.call_soon(self._step, self, context=self._context)

    def hurry(self) -> None:
        handle, step, context = self._handle, self._step, self._context
        if handle is None or asyncio.current_task(self._loop) is not None:
            return
        assert step is not None, "a woken task waits"
        assert context is not None, "comes with the step"
        handle.cancel()
        context.run(step, self)

    # -- called by the task --------------------------------------------------------------------

    def add_done_callback(
        self, step: Callable[[AsyncioParker], object], *, context: contextvars.Context
    ) -> None:
        """Take what lets the task go on."""
        self._step = step
        self._context = context

    def cancel(self, msg: object = None) -> bool:
        """Wake the task with a cancellation, unless it is woken already."""
        if self.done():
            return False
        # By its message anyio knows a cancellation of its own.
        self._cancellation = asyncio.CancelledError() if msg is None else asyncio.CancelledError(msg)
        self.wake()
        return True

    def done(self) -> bool:
        """Whether no task waits, or it is woken."""
        return self._step is None or self._handle is not None

    def result(self) -> None:
        """Let the task go on: what it gets for its wait."""
        self._step = self._handle = None
        cancellation, self._cancellation = self._cancellation, None
        if cancellation is not None:
            raise cancellation


@final
class TrioParker:
    """A parker on trio."""

    __slots__ = ("_task",)

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None

    async def park(self) -> None:
        assert self._task is None, "a parker holds one task at a time"
        self._task = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    async def park_for(self, seconds: float) -> None:
        with trio.move_on_after(max(0, seconds)):
            await self.park()

    def wake(self) -> None:
        task = self._task
        if task is not None:
            self._task = None
            trio.lowlevel.reschedule(task)

    def hurry(self) -> None:
        """Nothing: trio runs its tasks itself."""


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

    def call_from_thread(self, function: Callable[..., object], *args: Any) -> None:
        """Run ``function`` on the event loop's thread soon; raises ``RuntimeError`` after its end."""


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

    def call_from_thread(self, function: Callable[..., object], *args: Any) -> None:
        # In the context of this event loop, not of the calling thread: see Runtime.
        self.loop.call_soon_threadsafe(function, *args, context=self._context)


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

    def call_from_thread(self, function: Callable[..., object], *args: Any) -> None:
        try:
            self._token.run_sync_soon(function, *args)
        except trio.RunFinishedError as error:
            raise RuntimeError(str(error)) from error


def current_backend() -> Backend:
    """The event loop that runs now; raises ``anyio.NoEventLoopError`` outside of one."""
    token = current_token().native_token
    if isinstance(token, asyncio.AbstractEventLoop):
        return AsyncioBackend(token)
    return TrioBackend(cast(trio.lowlevel.TrioToken, token))


def innermost_frame(task: object) -> FrameType | None:
    """The frame in which a suspended asyncio or trio task waits."""
    awaited: Any = task.get_coro() if isinstance(task, asyncio.Task) else getattr(task, "coro", None)
    frame: FrameType | None = None
    while isinstance(awaited, CoroutineType):
        frame, awaited = awaited.cr_frame or frame, awaited.cr_await
    return frame


_RUNTIME = frozenset({"actors", "anyio", "asyncio", "supervisor", "trio"})


def waiting_frame(task: object) -> FrameType | None:
    """The frame of a suspended task that waits, as its author would look for it.

    The innermost one that belongs neither to the event loop nor to this library, where there is one.
    """
    frame: FrameType | None = None
    awaited: Any = task.get_coro() if isinstance(task, asyncio.Task) else getattr(task, "coro", None)
    while isinstance(awaited, CoroutineType):
        own = awaited.cr_frame
        if own is not None and own.f_globals.get("__name__", "").partition(".")[0] not in _RUNTIME:
            frame = own
        awaited = awaited.cr_await
    return frame or innermost_frame(task)


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
