"""One life of an actor between two restarts: its tasks, its resources, its timers.

A task and a resource each live in a task of their own, so that any context manager, one with a
cancel scope inside too, is left in the task that entered it, and one that hangs holds up nobody
else.  What entering it does to context variables is done to those of the actor, too.  The cell ends an
incarnation in this order: timers, tasks, the last hook, resources.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Hashable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, suppress
from contextvars import Context, ContextVar, Token, copy_context
from typing import Any, Protocol, TypeVar, final

import anyio
import trio
from anyio.abc import TaskGroup

from actors.cell.hook import ABANDON_AFTER
from actors.errors import ActorMisuse, ActorStopped, ResourceLost
from actors.frames import place, waiting_frame
from actors.mailbox import Marker
from actors.repeats import log_error
from actors.runtime import Runtime
from actors.seconds import check_seconds
from actors.timers import Timer

logger = logging.getLogger("actors")
T = TypeVar("T")


@final
class _Task:
    """A task of the incarnation."""

    __slots__ = ("cancelled", "name", "scope", "task")

    def __init__(self, name: str) -> None:
        self.name = name
        self.scope: anyio.CancelScope | None = None  # made in the task: anyio needs one to know its backend
        self.cancelled = False
        self.task: object = None

    def cancel(self) -> None:
        """Cancel the task, also before its first step."""
        self.cancelled = True
        if self.scope is not None:
            self.scope.cancel()


@final
class _Resource:
    """An entered context manager, held open by a task of its own."""

    __slots__ = (
        "changes",
        "closed",
        "context_manager",
        "error",
        "name",
        "opened",
        "parker",
        "released",
        "scope",
        "task",
        "tokens",
        "value",
    )

    def __init__(self, context_manager: Any, name: str) -> None:
        self.context_manager = context_manager
        self.name = name
        self.scope = anyio.CancelScope()
        self.parker: Any = None
        self.task: object = None
        self.changes: list[tuple[ContextVar[Any], Any]] = []
        """What entering it did to context variables."""
        self.tokens: list[tuple[ContextVar[Any], Token[Any]]] = []
        """How that is undone where it was done once more: in the task that called ``enter``."""
        self.value: Any = None
        self.error: BaseException | None = None
        self.opened = False
        self.released = False
        self.closed = False

    @property
    def is_task_group(self) -> bool:
        """Tell whether leaving it only waits for its tasks, which end by nothing but a cancellation."""
        if isinstance(self.value, trio.Nursery):
            return type(self.context_manager).__module__.startswith("trio.")  # not one around a nursery
        return isinstance(self.context_manager, TaskGroup | asyncio.TaskGroup)

    def share_context(self) -> None:
        """Do to the caller's context variables what entering did to those of the task that entered."""
        self.tokens = [(variable, variable.set(value)) for variable, value in self.changes]
        self.changes = []

    def restore_context(self) -> None:
        """Undo ``share_context``, where the caller is the one that had it."""
        for variable, token in reversed(self.tokens):
            with suppress(ValueError):  # entered in a task of the incarnation, which is gone
                variable.reset(token)


@final
class FiredTimer(Marker):
    """A timer of an actor, and in the data lane its firing; one that was lost would never fire again."""

    __slots__ = ("cancelled", "due", "interval", "key", "timer")

    def __init__(self, message: Any, key: Hashable, interval: float | None, due: float) -> None:
        super().__init__(message)  # without a size: it cannot make room for others
        self.key = key
        self.interval = interval
        self.due = due
        self.cancelled = False
        self.timer: Timer | None = None


class Owner(Protocol):
    """The cell whose life an incarnation is."""

    id: str
    kind: str
    runtime: Runtime

    @property
    def stopped(self) -> bool:
        """Tell whether the actor has ended and is torn down."""

    def lives_in(self, incarnation: Incarnation) -> bool:
        """Tell whether ``incarnation`` is the present life."""

    def harmless(self, error: BaseException) -> bool:
        """Tell whether a task or a resource may raise ``error`` without having failed."""

    def task_failed(self, error: BaseException) -> None:
        """A task or a resource of the present life raised ``error``."""

    def failed_late(self, error: BaseException, name: str) -> None:
        """``name``, of a life that is over, raised ``error``."""

    def timer_fired(self, fired: FiredTimer) -> None:
        """A timer is due: queue its firing."""


@final
class Incarnation:
    """The tasks, resources and timers of one life of an actor."""

    __slots__ = ("_cell", "_parker", "_resources", "_tasks", "_timers", "ended", "number")

    def __init__(self, cell: Owner, number: int, *, ended: bool = False) -> None:
        self._cell = cell
        self.number = number
        self.ended = ended
        self._tasks: set[_Task] = set()
        self._resources: list[_Resource] = []
        self._timers: dict[Hashable, FiredTimer] = {}
        self._parker = cell.runtime.backend.parker()

    # -- tasks ---------------------------------------------------------------------------------

    def spawn(self, function: Callable[..., Awaitable[object]], args: tuple[object, ...]) -> None:
        """Start a task of this incarnation."""
        self._check("spawn")
        name = getattr(function, "__qualname__", repr(function))
        task = _Task(f"{name} of {self._cell.id}")
        self._tasks.add(task)
        self._cell.runtime.spawn(self._run_task, task, function, args, name=task.name)

    def owns(self, task: object) -> bool:
        """Tell whether ``task`` is one of this incarnation's tasks."""
        return any(own.task is task for own in self._tasks)

    async def _run_task(
        self, own: _Task, function: Callable[..., Awaitable[object]], args: tuple[object, ...]
    ) -> None:
        own.task = self._cell.runtime.backend.current_task()
        try:
            with anyio.CancelScope() as own.scope:
                if not own.cancelled:
                    await function(*args)
        except BaseException as error:
            self._failed(error, own.name)
        finally:
            self._tasks.discard(own)
            self._parker.wake()

    def _failed(self, error: BaseException, name: str) -> None:
        if self._cell.stopped or self._cell.lives_in(self):
            self._cell.task_failed(error)
        else:
            self._cell.failed_late(error, name)

    async def end_tasks(self, timeout: float | None) -> tuple[str, ...]:
        """Cancel the tasks and wait for their end; give the names of those still there."""
        self.ended = True
        for own in self._tasks:
            own.cancel()
        await self._cell.runtime.wait(self._parker, lambda: not self._tasks, timeout)
        for own in self._tasks:
            log_left_behind(own.name, own.task)
        return tuple(sorted(own.name for own in self._tasks))

    # -- resources -----------------------------------------------------------------------------

    async def enter(self, context_manager: AbstractAsyncContextManager[T] | AbstractContextManager[T]) -> T:
        """Enter a context manager in a task of its own and give its value."""
        if not hasattr(context_manager, "__aexit__") and not hasattr(context_manager, "__exit__"):
            raise TypeError(f"enter: a context manager is needed, not {type(context_manager).__name__}")
        self._check("enter", also_at_the_end=True)
        backend = self._cell.runtime.backend
        resource = _Resource(context_manager, f"{type(context_manager).__name__} of {self._cell.id}")
        resource.parker = backend.parker()
        opening = backend.parker()
        self._resources.append(resource)
        self._cell.runtime.spawn(self._hold, resource, opening, name=resource.name)
        try:
            while not resource.opened and not resource.closed:
                await opening.park()
        except BaseException:
            resource.released = True  # nobody got its value: it is given up, not lost
            resource.scope.cancel()
            raise
        if resource.error is not None and not resource.opened:
            raise resource.error
        resource.share_context()
        value: T = resource.value
        return value

    async def _hold(self, resource: _Resource, opening: Any) -> None:
        context_manager, before = resource.context_manager, copy_context()
        resource.task = self._cell.runtime.backend.current_task()
        try:
            with resource.scope:
                if hasattr(context_manager, "__aexit__"):
                    async with context_manager as resource.value:
                        await self._until_released(resource, opening, before)
                else:
                    with context_manager as resource.value:
                        await self._until_released(resource, opening, before)
        except BaseException as error:
            resource.error = error
        finally:
            resource.closed = True
            resource.context_manager = None
            if not resource.opened or resource.released:
                self._forget(resource)
            opening.wake()
            self._parker.wake()
        if not resource.opened:
            if resource.error is None:
                resource.error = ActorStopped(f"{resource.name}: entering was cancelled")
        elif resource.error is not None and self._cell.harmless(resource.error):
            pass
        elif not resource.released:
            lost = ResourceLost(f"{resource.name} ended while its actor was alive")
            lost.__cause__ = resource.error
            self._failed(lost, resource.name)
        elif resource.error is not None:
            log_error(logger, resource.error, self._cell.kind, "leaving %s failed", resource.name)

    def _forget(self, resource: _Resource) -> None:
        if resource in self._resources:
            self._resources.remove(resource)

    async def _until_released(self, resource: _Resource, opening: Any, before: Context) -> None:
        resource.changes = changes_since(before)
        resource.opened = True
        opening.wake()
        while not resource.released:
            await resource.parker.park()

    async def release(self, timeout: float | None) -> tuple[str, ...]:
        """Leave the resources in reverse order; give the names of those that would not end."""
        runtime = self._cell.runtime
        deadline = math.inf if timeout is None else runtime.clock() + timeout
        least = 0.0 if timeout is None else min(timeout, ABANDON_AFTER)
        leaked: tuple[str, ...] = ()
        while self._resources:
            resource = self._resources.pop()
            resource.released = True
            at_once = resource.is_task_group
            if at_once:
                resource.scope.cancel()
            else:
                resource.parker.wake()
            left = max(least, deadline - runtime.clock())  # one that hung costs the others no cancellation
            ended = await runtime.wait(self._parker, lambda r=resource: r.closed, left)  # type: ignore[misc]  # the loop variable bound early
            if not (ended or at_once):
                resource.scope.cancel()
                logger.warning("%s takes more than %s s to leave, and is cancelled", resource.name, timeout)
                ended = await runtime.wait(self._parker, lambda r=resource: r.closed, ABANDON_AFTER)  # type: ignore[misc]  # as above
            if not ended:
                log_left_behind(resource.name, resource.task)
                leaked += (resource.name,)
            resource.restore_context()
        return leaked

    # -- timers --------------------------------------------------------------------------------

    def start_timer(self, delay: float, interval: float | None, message: Any, key: Hashable) -> Hashable:
        """Start a keyed timer, in the place of one with the same key."""
        self._check("after" if interval is None else "every")
        check_seconds("delay", delay, zero=True, off=False)
        if key is None:
            key = object()
        self.cancel_timer(key)
        due = self._cell.runtime.clock() + delay
        fired = self._timers[key] = FiredTimer(message, key, interval, due)
        fired.timer = self._cell.runtime.timers.at(due, lambda: self._cell.timer_fired(fired))
        return key

    def cancel_timer(self, key: Hashable) -> bool:
        """Cancel the timer with ``key``, its queued firing too."""
        self._check_thread("cancel_timer")
        fired = self._timers.pop(key, None)
        if fired is None:
            return False
        fired.cancelled = True
        if fired.timer is not None:
            fired.timer.cancel()
        return True

    def timer_handled(self, fired: FiredTimer) -> None:
        """A firing is about to be handled: forget the timer, or start its next round."""
        timer = fired.timer
        if fired.interval is None or timer is None:
            del self._timers[fired.key]
        else:
            fired.due = max(fired.due + fired.interval, self._cell.runtime.clock())
            self._cell.runtime.timers.move(timer, fired.due)

    def cancel_timers(self) -> None:
        """Cancel every timer."""
        for key in list(self._timers):
            self.cancel_timer(key)

    # ------------------------------------------------------------------------------------------

    def _check(self, method: str, *, also_at_the_end: bool = False) -> None:
        self._check_thread(method)
        if self._cell.stopped or (self.ended and not also_at_the_end):
            raise ActorStopped(f"{method}(): incarnation {self.number} of {self._cell.id} has ended")

    def _check_thread(self, method: str) -> None:
        if not self._cell.runtime.in_thread:
            raise ActorMisuse(
                f"{method}() belongs to the event loop's thread; from another one, tell the actor"
            )


def log_left_behind(name: str, task: object) -> None:
    """Say where something waits that swallowed its cancellation; what has it goes on without it."""
    logger.warning(
        "%s does not end when it is cancelled, and is left behind; it waits at %s",
        name,
        place(waiting_frame(task)),
    )


def changes_since(before: Context) -> list[tuple[ContextVar[Any], Any]]:
    """The context variables that were set since ``before`` was the context, and their values now."""
    return [
        (variable, value)
        for variable, value in copy_context().items()
        if variable not in before or before[variable] is not value
    ]
