"""Runs a tree around a block of the caller's, shielded from the caller's cancellation.

Structure: the block runs in the caller's task.  Everything else runs in one task group of a host
task that is nobody's child, so that a cancelled program still closes its connections: the block sees
the cancellation, and leaving it, whatever the way, stops the host.

The rules of this file:

* The block may be left in another task than it was entered in, as test fixtures do: nothing of the
  caller's task group or cancel scopes is held meanwhile.
* What runs code of the program is cancelled in the end, and has ``LEAVE_AFTER`` seconds to end.  Code
  that swallows its cancellation is told in the log, with the place where it waits, and left behind.
  The event loop has it from then on: ``asyncio.run`` and ``trio.run`` wait for it at their own end.
* A block that takes long to leave says in the log what it waits for, again and again.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from types import TracebackType
from typing import final

import anyio
import anyio.lowlevel

from actors.backends import Backend, Waiter, current_backend
from actors.runtime import Runtime
from supervisor.stall import StallWatch

logger = logging.getLogger("supervisor")

LEAVE_AFTER = 1.0
"""Seconds that a task which was cancelled at the end has, before it is left behind."""
TELL_EVERY = 15.0
"""Seconds between two log lines about a block that is not left yet; more than a usual end takes."""
_NAMED = 10


@final
class _Block(AbstractContextManager[None]):
    """The cancel scope of the block, for as long as the task that entered it is the one to cancel."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._task = backend.current_task()
        self._scope = anyio.CancelScope()

    def cancel(self) -> None:
        """Cancel the block; one that a fixture keeps open learns of it when it is left."""
        self._scope.cancel()

    def __enter__(self) -> None:
        self._scope.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        if self._backend.current_task() is not self._task:
            return None
        return self._scope.__exit__(kind, error, traceback)


@final
class Host:
    """The surroundings of one tree; made by ``hosted``."""

    __slots__ = ("_block", "error", "runtime")

    runtime: Runtime

    def __init__(self, block: _Block) -> None:
        self._block = block
        self.error: BaseException | None = None

    def end(self, error: BaseException | None = None) -> None:
        """Cancel the block and let ``error`` out of it, or nothing; the first error counts."""
        if self.error is None:
            self.error = error
        self._block.cancel()


@asynccontextmanager
async def hosted(
    start: Callable[[Host], Awaitable[None]], stop: Callable[[], Awaitable[None]]
) -> AsyncIterator[None]:
    """Run ``start`` in the host task, then the block, then ``stop`` in the host task.

    ``start`` is cancelled when the caller is.  ``stop`` runs in any case, also after a ``start`` that
    failed or was cancelled, and ends by itself in bounded time.  An error of ``start`` and one given to
    ``Host.end`` come out of the block, one of the block keeps its type.
    """
    backend = current_backend()
    started, block_over, stopped, host_over = Waiter(), Waiter(), Waiter(), Waiter()
    starting, block = anyio.CancelScope(), _Block(backend)
    block_error: BaseException | None = None
    host = Host(block)

    async def run() -> None:
        try:
            async with anyio.create_task_group() as task_group:
                host.runtime = Runtime(task_group)
                host.runtime.spawn(host.runtime.timers.run, name="timers")
                try:
                    with starting:
                        await start(host)
                except BaseException as error:
                    host.end(error)
                started.wake()
                await block_over.wait()
                await stop()
                stopped.wake()
                task_group.cancel_scope.cancel()
        except BaseException as error:
            if isinstance(error, backend.cancelled):
                raise  # that of the whole event loop
            host.end(error)
        finally:
            for waiter in (started, stopped, host_over):
                waiter.wake()

    backend.start_apart(run, "supervisor")
    try:
        with block:
            await started.wait()
            await anyio.lowlevel.checkpoint_if_cancelled()  # `start` may have failed
            yield
    except BaseException as error:
        block_error = error
    starting.cancel()
    block_over.wake()
    late_error = await _left(backend, host, stopped, host_over)
    if host.error is not None:
        raise host.error
    if block_error is not None or late_error is not None:
        raise block_error or late_error  # type: ignore[misc]  # one of them is there


async def _left(backend: Backend, host: Host, stopped: Waiter, host_over: Waiter) -> BaseException | None:
    """Wait until the host has stopped, and a moment for its last task; give a cancellation that came.

    A native one of asyncio gets through a shield, again and again.
    """
    late_error: BaseException | None = None
    waited = 0.0
    with StallWatch(backend):
        while not host_over.woken:
            seconds = LEAVE_AFTER if stopped.woken else TELL_EVERY
            try:
                with anyio.move_on_after(seconds, shield=True) as patience:
                    await (host_over if stopped.woken else stopped).wait()
            except backend.cancelled as error:
                late_error = error
                continue
            if not patience.cancelled_caught:
                continue
            if stopped.woken:
                logger.error(
                    "what does not end when it is cancelled is left behind, and keeps the event loop from "
                    "its own end: %s",
                    _named(host.runtime.busy()),
                )
                break
            waited += seconds
            logger.warning("not left after %g s; it waits for: %s", waited, _named(host.runtime.busy()))
    return late_error


def _named(tasks: Sequence[str]) -> str:
    more = f" and {len(tasks) - _NAMED} more" if len(tasks) > _NAMED else ""
    return ("; ".join(tasks[:_NAMED]) or "no code of the program") + more
