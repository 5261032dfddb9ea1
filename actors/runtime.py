"""The things that the actors of one event loop share. clock, timers, task group, thread hop, dead letters.

A cell gets its runtime when it is made and asks it for everything that reaches outside of the cell.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from functools import partial
from typing import Any, final

import anyio
import trio
from anyio.abc import TaskGroup
from anyio.lowlevel import current_token
from sniffio import current_async_library_cvar

from actors.backends import AsyncioBackend, current_backend
from actors.dead_letters import DeadLetters
from actors.frames import place, program_frame
from actors.repeats import log_error
from actors.timers import Timers
from actors.wakeup import Parker

logger = logging.getLogger("actors")

CANCEL_AGAIN = 0.1
"""Seconds until a task that swallowed its cancellation gets the next one."""


@final
class AsyncioTasks:
    """Tasks that a task group has without knowing them: ``keep`` is its task, and stands for them all.

    A task that anyio starts costs as much memory as everything else of an idle connection together:
    a handle with a scope and an event, the state of the task, and a coroutine around it.
    """

    __slots__ = ("_emptied", "_loop", "_tasks")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._tasks: set[asyncio.Task[None]] = set()
        self._emptied = asyncio.Event()

    def __iter__(self) -> Iterator[asyncio.Task[None]]:
        return iter(self._tasks)

    def start(self, coroutine: Coroutine[Any, Any, None], name: str) -> bool:
        """Start a task; tell whether ``keep`` is to be started for it."""
        first = not self._tasks
        self._tasks.add(self._loop.create_task(coroutine, name=name))
        return first

    def end(self, task: asyncio.Task[None]) -> None:
        """Forget ``task``, which does nothing more."""
        self._tasks.discard(task)
        if not self._tasks:
            self._emptied.set()

    async def keep(self) -> None:
        """Wait for the end of all tasks; when cancelled, cancel them, until they have ended."""
        self._emptied.clear()
        try:
            if self._tasks:
                await self._emptied.wait()
        except asyncio.CancelledError:
            with anyio.CancelScope(shield=True):  # bounded: by tasks that end when they are cancelled
                while self._tasks:
                    for task in self._tasks:
                        task.cancel()
                    done, _ = await asyncio.wait(self._tasks, timeout=CANCEL_AGAIN)
                    self._tasks -= done  # those that were cancelled before their first step
            raise


@final
class Runtime:
    """The things that the actors of one event loop share.

    ``task_group`` holds every task of the actors; whoever made it cancels it last.  Made in the task
    that has just opened it.
    """

    __slots__ = (
        "_nursery",
        "_task_group",
        "_tasks",
        "backend",
        "cancelled",
        "clock",
        "dead_letters",
        "thread",
        "timers",
    )

    def __init__(self, task_group: TaskGroup, clock: Callable[[], float] | None = None) -> None:
        if isinstance(current_token().native_token, asyncio.AbstractEventLoop):
            # anyio asks sniffio, which knows asyncio by the current task, or where there is none, as in
            # every callback, by this variable: unlike anyio.run(), asyncio.run() and Robyn do not set it.
            # Tasks and transports that are made in this context inherit it.
            current_async_library_cvar.set("asyncio")
        self.backend = current_backend()
        self.cancelled = self.backend.cancelled
        self.clock = self.backend.clock if clock is None else clock
        self.timers = Timers(self.clock)
        self.dead_letters = DeadLetters(self.clock)
        self._task_group = task_group
        self._tasks: AsyncioTasks | None = None
        self._nursery: trio.Nursery | None = None
        if isinstance(self.backend, AsyncioBackend):
            self._tasks = AsyncioTasks(self.backend.loop)
        else:
            self._nursery = trio.lowlevel.current_task().child_nurseries[-1]
        self.thread = threading.get_ident()
        """The event loop's."""

    def spawn(self, function: Callable[..., Awaitable[object]], *args: object, name: str) -> None:
        """Start a task that lets nothing out: ``function`` handles its own errors.

        Whatever gets out all the same would end every actor of the runtime, so it ends here, with a
        log record.  Cancellation passes.
        """
        self.start(partial(self._contain, function, args), name=name)

    def start(self, run: Callable[[], Coroutine[Any, Any, None]], *, name: str) -> None:
        """Start a task that gives to ``failed`` whatever would get out of it, and calls ``ends`` last."""
        if self._tasks is None:
            self._task_group.start_soon(run, name=name)
        elif self._tasks.start(run(), name):
            self._task_group.start_soon(self._tasks.keep, name="tasks")

    @property
    def ending(self) -> bool:
        """Tell whether every task of the runtime is being cancelled: the last resort of a shutdown."""
        return self._task_group.cancel_scope.cancel_called

    @trio.lowlevel.enable_ki_protection  # Ctrl-C is for the program's main task, not for whose hook runs
    async def _contain(self, function: Callable[..., Awaitable[object]], args: tuple[object, ...]) -> None:
        try:
            await function(*args)
        except BaseException as error:
            self.failed(error)
        finally:
            self.ends(self.backend.current_task())

    def ends(self, task: Any) -> None:
        """``task``, which calls this, does nothing more."""
        if self._tasks is not None:
            self._tasks.end(task)

    def failed(self, error: BaseException) -> None:
        """Log what would get out of a task; raises it when it is the cancellation of all of them."""
        if not isinstance(error, self.cancelled):
            log_error(logger, error, "task", "a task of the runtime failed")
        elif self.ending:
            raise error
        else:
            log_error(logger, error, "task", "a task was cancelled by something that does not own it")

    def busy(self) -> list[str]:
        """The tasks that wait in code of the program, each by its name and where that is."""
        tasks: Iterable[Any] = self._tasks or (() if self._nursery is None else self._nursery.child_tasks)
        found = []
        for task in tasks:
            frame = program_frame(task)
            if frame is not None:
                name = task.get_name() if isinstance(task, asyncio.Task) else task.name
                found.append(f"{name}, at {place(frame)}")
        return sorted(found)

    @property
    def in_thread(self) -> bool:
        """Tell whether the caller is on the event loop's thread."""
        return threading.get_ident() == self.thread

    def call(self, function: Callable[..., object], *args: Any) -> bool:
        """Run ``function`` on the event loop's thread: now when this is it, else soon.

        Gives ``False`` when the event loop has ended and the function will never run.  What it raises
        reaches the caller on this thread, and from another one only the log.
        """
        if threading.get_ident() == self.thread:
            function(*args)
            return True
        try:
            self.backend.call_from_thread(self._contain_call, function, args)
        except RuntimeError:
            return False
        return True

    def _contain_call(self, function: Callable[..., object], args: tuple[object, ...]) -> None:
        try:
            function(*args)
        except BaseException as error:  # nobody is there to get it, and trio would end the whole program
            log_error(logger, error, "call", "a call from another thread failed")

    async def wait(self, parker: Parker, done: Callable[[], bool], timeout: float | None) -> bool:
        """Wait at ``parker`` until ``done()``, at most ``timeout`` seconds; tell whether it is done."""
        if done():
            return True
        deadline = math.inf if timeout is None else self.clock() + timeout
        timer = self.timers.at(deadline, parker.wake)
        try:
            while not done():
                if self.clock() >= deadline:
                    return False
                await parker.park()
            return True
        finally:
            timer.cancel()
