"""Drain: graceful maintenance.  Refuse new connections, close the open ones spread over time."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from actors.connection_cell import ConnectionCell
from actors.messages import Close
from actors.runtime import Runtime


@dataclass(frozen=True, slots=True)
class DrainReport:
    """How a drain went: connections at its begin, and how they ended; ``seconds`` it took.

    ``clean``: with both Close frames.  ``timed_out``: without, before the deadline of the drain.
    ``aborted``: dropped at the deadline.
    """

    total: int
    clean: int
    timed_out: int
    aborted: int
    seconds: float


async def drain(
    runtime: Runtime, cells: Sequence[ConnectionCell], *, close: Close, within: float, spread: float
) -> DrainReport:
    """Close ``cells`` at uniform times within ``spread`` seconds; abort what is left after ``within``."""
    began = runtime.clock()
    parker = runtime.backend.parker()
    remaining = len(cells)

    def one_less() -> None:
        nonlocal remaining
        remaining -= 1
        if not remaining:
            parker.wake()

    prepared = [cell.prepare(close) for cell in cells]  # a notice that cannot be encoded raises here
    timers = []
    for cell, close_of_cell in zip(cells, prepared, strict=True):
        cell.when_stopped(one_less)
        delay = random.uniform(0, min(spread, within))
        timers.append(runtime.timers.after(delay, partial(cell.close, close_of_cell)))
    aborted = 0
    try:
        if not await runtime.wait(parker, lambda: not remaining, within):
            left = [cell for cell in cells if not cell.stopped]
            aborted = len(left)
            for cell in left:
                cell.abort()
            await runtime.wait(parker, lambda: not remaining, None)
    finally:
        for timer in timers:
            timer.cancel()
    clean = sum(cell.report is not None and cell.report.clean for cell in cells)
    return DrainReport(
        total=len(cells),
        clean=clean,
        timed_out=len(cells) - clean - aborted,
        aborted=aborted,
        seconds=runtime.clock() - began,
    )
