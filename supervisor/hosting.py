"""Runs a tree around a block of the caller's, shielded from the caller's cancellation.

Structure: the block runs in the caller's task.  Everything else runs in one task group of a host
task that the caller's cancellation does not reach, so that a cancelled program still closes its
connections: the block sees the cancellation, and leaving it, whatever the way, stops the host.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import final

import anyio
import anyio.lowlevel

from actors.runtime import Runtime
from actors.wakeup import Waiter


@final
class Host:
    """The surroundings of one tree; made by ``hosted``."""

    __slots__ = ("_block", "error", "runtime")

    runtime: Runtime

    def __init__(self, block: anyio.CancelScope) -> None:
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
    started, block_over, host_over = Waiter(), Waiter(), Waiter()
    starting, block = anyio.CancelScope(), anyio.CancelScope()
    block_error: BaseException | None = None
    async with anyio.create_task_group() as outer:
        host = Host(block)

        async def run() -> None:
            try:
                with anyio.CancelScope(shield=True):  # ends by itself, after block_over
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
                        task_group.cancel_scope.cancel()
            finally:
                started.wake()
                host_over.wake()

        outer.start_soon(run, name="supervisor")
        try:
            with block:
                await started.wait()
                await anyio.lowlevel.checkpoint_if_cancelled()  # `start` may have failed
                yield
        except BaseException as error:
            block_error = error
        starting.cancel()
        block_over.wake()
        with anyio.CancelScope(shield=True):  # bounded: by `stop`
            await host_over.wait()
    if host.error is not None:
        raise host.error
    if block_error is not None:
        raise block_error
