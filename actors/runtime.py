"""What the actors of one event loop share: clock, timers, task group, thread hop, dead letters.

A cell gets its runtime when it is made and asks it for everything that reaches outside of the cell.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol, final

import trio
from anyio.abc import TaskGroup
from anyio.lowlevel import current_token
from sniffio import current_async_library_cvar

from actors.dead_letters import DeadLetters
from actors.timers import Timers
from actors.wakeup import Parker, current_backend

if TYPE_CHECKING:
    from actors.cell import Cell

logger = logging.getLogger("actors")


class Topics(Protocol):
    """Groups of actors under names; a supervisor provides them."""

    def join(self, topic: str, cell: Cell) -> None:
        """Let ``cell`` get what is published to ``topic``."""

    def leave(self, topic: str, cell: Cell) -> None:
        """Take ``join`` back."""

    def publish(self, topic: str, message: object) -> None:
        """Give ``message`` to every member; from any thread."""


@final
class Runtime:
    """The surroundings of the actors on one event loop.

    ``task_group`` holds every task of the actors; whoever made it cancels it last.  Made inside the
    running event loop.
    """

    __slots__ = (
        "_task_group",
        "_thread",
        "backend",
        "cancelled",
        "clock",
        "dead_letters",
        "timers",
        "topics",
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
        self.topics: Topics | None = None
        self._task_group = task_group
        self._thread = threading.get_ident()

    def spawn(self, function: Callable[..., Awaitable[object]], *args: object, name: str) -> None:
        """Start a task that lets nothing out: ``function`` handles its own errors.

        Whatever gets out all the same would end every actor of the runtime, so it ends here, with a
        log record.  Cancellation passes.
        """
        self._task_group.start_soon(self._contain, function, args, name=name)

    @property
    def ending(self) -> bool:
        """Whether every task of the runtime is being cancelled: the last resort of a shutdown."""
        return self._task_group.cancel_scope.cancel_called

    @trio.lowlevel.enable_ki_protection  # Ctrl-C is for the program's main task, not for whose hook runs
    async def _contain(self, function: Callable[..., Awaitable[object]], args: tuple[object, ...]) -> None:
        try:
            await function(*args)
        except self.cancelled:
            if self.ending:
                raise
            logger.exception("a task was cancelled by something that does not own it")
        except BaseException:
            logger.exception("a task of the runtime failed")

    @property
    def in_thread(self) -> bool:
        """Whether the caller is on the event loop's thread."""
        return threading.get_ident() == self._thread

    def call(self, function: Callable[..., object], *args: Any) -> bool:
        """Run ``function`` on the event loop's thread: now when this is it, else soon.

        Gives ``False`` when the event loop has ended and the function will never run.
        """
        if threading.get_ident() == self._thread:
            function(*args)
            return True
        try:
            self.backend.call_from_thread(function, *args)
        except RuntimeError:
            return False
        return True

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
