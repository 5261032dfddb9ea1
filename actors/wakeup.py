"""Park one task and wake it, with the cheapest means of each runtime.

A future on asyncio, ``wait_task_rescheduled`` on trio.  An ``Event`` would do the same at several
times the price.  A parker holds one task at a time; ``wake`` without a parked task does nothing,
so the woken task looks again at the state it waits for.  A parker belongs to the thread of its
event loop; a ``Waiter`` may be woken from any thread.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from types import CoroutineType, FrameType
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
    """A parker on asyncio and uvloop."""

    __slots__ = ("_future", "_hurried", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._future: asyncio.Future[None] | _Interruption | None = None
        self._hurried = False

    def park(self) -> Awaitable[None]:
        assert self._future is None or self._future.done(), "a parker holds one task at a time"
        self._future = future = _Interruption(self._loop) if self._hurried else self._loop.create_future()
        return future

    async def park_for(self, seconds: float) -> None:
        # uvloop counts whole milliseconds, and one that is rounded down comes too early, again and again.
        timer = self._loop.call_later(math.ceil(min(seconds, _DAY) * 1000) / 1000, self.wake)
        try:
            await self.park()
        finally:
            timer.cancel()

    def wake(self) -> None:
        future = self._future
        if future is not None and not future.done():
            future.set_result(None)

    def hurry(self) -> None:
        self._hurried = True  # from the next time on
        if isinstance(self._future, _Interruption):
            self._future.hurry()


@final
class _Interruption:
    """A future-like object (``asyncio.isfuture``) whose task can be run before its turn."""

    __slots__ = ("_asyncio_future_blocking", "_cancellation", "_context", "_handle", "_loop", "_step")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._step: Callable[[_Interruption], object] | None = None  # of the task that waits
        self._context: contextvars.Context | None = None
        self._handle: asyncio.Handle | None = None  # the task is woken, and its turn will come
        self._cancellation: asyncio.CancelledError | None = None
        self._asyncio_future_blocking = False

    def set_result(self, _: None) -> None:
        """Wake the task."""
        if self._step is not None:
            self._handle = self._loop.call_soon(self._step, self, context=self._context)

    def hurry(self) -> None:
        """Run the task now if it is woken, and no other one runs."""
        handle, step, context = self._handle, self._step, self._context
        if handle is None or step is None or context is None or asyncio.current_task(self._loop) is not None:
            return
        handle.cancel()
        context.run(step, self)

    # -- called by the task --------------------------------------------------------------------

    def __await__(self) -> Generator[_Interruption, None, None]:
        self._asyncio_future_blocking = True
        yield self

    def add_done_callback(
        self, step: Callable[[_Interruption], object], *, context: contextvars.Context
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
        self.set_result(None)
        return True

    def done(self) -> bool:
        """Whether the task is woken."""
        return self._handle is not None

    def result(self) -> None:
        """What the task gets for its wait; it goes on."""
        self._step = None
        if self._cancellation is not None:
            raise self._cancellation


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


def innermost_frame(task: object) -> FrameType | None:
    """The frame in which a suspended asyncio or trio task waits."""
    awaited: Any = task.get_coro() if isinstance(task, asyncio.Task) else getattr(task, "coro", None)
    frame: FrameType | None = None
    while isinstance(awaited, CoroutineType):
        frame, awaited = awaited.cr_frame or frame, awaited.cr_await
    return frame


_RUNTIME = frozenset({"actors", "anyio", "asyncio", "contextlib", "supervisor", "threading", "trio"})


def _of_a_program(frame: FrameType) -> bool:
    """Whether ``frame`` belongs neither to the event loop nor to this library."""
    return frame.f_globals.get("__name__", "").partition(".")[0] not in _RUNTIME


def program_frame(task: object) -> FrameType | None:
    """The innermost frame of a suspended task that is the program's own; ``None`` when it has none."""
    frame: FrameType | None = None
    awaited: Any = task.get_coro() if isinstance(task, asyncio.Task) else getattr(task, "coro", None)
    while isinstance(awaited, CoroutineType):
        own = awaited.cr_frame
        if own is not None and _of_a_program(own):
            frame = own
        awaited = awaited.cr_await
    return frame


def waiting_frame(task: object) -> FrameType | None:
    """The frame of a suspended task that waits, as its author would look for it.

    The innermost one that belongs neither to the event loop nor to this library, where there is one.
    """
    return program_frame(task) or innermost_frame(task)


def running_frame(thread: int) -> FrameType | None:
    """The frame in which the thread with this ``threading.get_ident()`` runs, the program's own if any."""
    innermost = frame = sys._current_frames().get(thread)
    while frame is not None and not _of_a_program(frame):
        frame = frame.f_back
    return frame or innermost


def place(frame: FrameType | None) -> str:
    """Where a frame is: ``file:line in function``."""
    if frame is None:
        return "an unknown place"
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


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
