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
from collections.abc import Awaitable, Callable, Generator
from typing import Protocol, final

import trio

_DAY = 86_400.0


class Parker(Protocol):
    """A place at which one task waits until it is woken."""

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
        self._future: asyncio.Future[None] | _HurriedWait | None = None
        self._hurried = False

    def park(self) -> Awaitable[None]:
        assert self._future is None or self._future.done(), "a parker holds one task at a time"
        self._future = future = _HurriedWait(self._loop) if self._hurried else self._loop.create_future()
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
        if isinstance(self._future, _HurriedWait):
            self._future.hurry()


@final
class _HurriedWait:
    """A future-like object (``asyncio.isfuture``) whose task can be run before its turn."""

    __slots__ = ("_asyncio_future_blocking", "_cancellation", "_context", "_handle", "_loop", "_step")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._step: Callable[[_HurriedWait], object] | None = None  # of the task that waits
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

    def __await__(self) -> Generator[_HurriedWait, None, None]:
        self._asyncio_future_blocking = True
        yield self

    def add_done_callback(
        self, step: Callable[[_HurriedWait], object], *, context: contextvars.Context
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
        """Tell whether the task is woken."""
        return self._handle is not None

    def result(self) -> None:
        """Give the task the end of its wait, or its cancellation."""
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
