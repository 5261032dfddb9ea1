"""Drain: graceful maintenance.  Refuse new connections, close the open ones spread over time."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

from actors.cell.connection_cell import ConnectionCell
from actors.codes import CloseCode
from actors.messages import Close
from actors.runtime import Runtime
from actors.timers import Timer
from supervisor.events import DrainEnded, DrainProgress, DrainReport, DrainStarted, Hook, tell
from supervisor.policies import check_seconds

PROGRESS_EVERY = 1.0
"""Seconds between two ``DrainProgress`` events."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """The drain of a server whose program is told to end.

    Raises ``TypeError`` and ``ValueError`` naming the option.
    """

    within: float = 30.0
    """Seconds until what is left is aborted."""
    spread: float = 10.0
    """Seconds over which the closes are spread, so that the clients do not come back all at once."""
    hurry: float = 5.0
    """Seconds that are left when the program is told a second time."""
    code: int = CloseCode.SERVICE_RESTART
    """The code of the closes."""
    reason: str = "service restart"
    """Their reason."""
    notice: object = None
    """A data message that each client gets first; ``None`` sends none."""

    def __post_init__(self) -> None:
        for option in ("within", "spread", "hurry"):
            check_seconds(option, getattr(self, option), zero=True, off=False)
        Close(self.code, self.reason)  # raises for what cannot be sent


def _prepared(close: Close, cells: Sequence[ConnectionCell]) -> list[Close]:
    """The close of each cell; raises for a notice that a codec cannot encode, before anything happens."""
    by_codec: dict[int, Close] = {}
    for cell in cells:
        if id(cell.codec) not in by_codec:
            by_codec[id(cell.codec)] = cell.prepare(close)
    return [by_codec[id(cell.codec)] for cell in cells]


@final
class Draining:
    """One drain at work."""

    __slots__ = (
        "_at_deadline",
        "_began",
        "_cells",
        "_close",
        "_closed",
        "_closes",
        "_closing",
        "_deadline",
        "_hooks",
        "_order",
        "_parker",
        "_progress",
        "_remaining",
        "_runtime",
        "_spread",
        "_times",
        "_within",
    )

    def __init__(
        self,
        runtime: Runtime,
        cells: Sequence[ConnectionCell],
        *,
        close: Close,
        within: float,
        spread: float,
        hooks: Sequence[Hook] = (),
    ) -> None:
        self._runtime = runtime
        self._cells = cells
        self._close = close
        self._closes = _prepared(close, cells)
        self._within = within
        self._spread = min(spread, within)
        self._hooks = hooks
        self._began = runtime.clock()
        self._remaining = len(cells)
        self._at_deadline: list[ConnectionCell] = []
        # Numbers, and one timer for all: whatever is made for each of many connections brings on a full
        # garbage collection, in which none of them is closed.
        self._times = sorted(self._began + random.uniform(0, self._spread) for _ in cells)
        self._order = random.sample(range(len(cells)), len(cells))
        self._closed = 0
        self._closing: Timer | None = None
        self._deadline: Timer | None = None
        self._progress: Timer | None = None
        self._parker = runtime.backend.parker()

    async def run(self) -> DrainReport:
        """Close the cells at uniform times within the spread; abort what is left at the deadline."""
        timers = self._runtime.timers
        tell(self._hooks, DrainStarted(len(self._cells), self._within, self._spread))
        try:
            if self._hooks:
                self._progress = timers.after(PROGRESS_EVERY, self._tell_progress)
            one_less = self._one_less
            for cell in self._cells:
                cell.when_stopped(one_less)
            if self._times:
                self._closing = timers.at(self._times[0], self._close_due)
            self._deadline = timers.at(self._began + self._within, self._abort)
            await self._runtime.wait(self._parker, lambda: not self._remaining, None)
        finally:
            for timer in (self._closing, self._deadline, self._progress):
                if timer is not None:
                    timer.cancel()
        report = self._report()
        tell(self._hooks, DrainEnded(report))
        return report

    def _close_due(self) -> None:
        assert self._closing is not None, "its callback"
        now, times = self._runtime.clock(), self._times
        try:
            while self._closed < len(times) and times[self._closed] <= now:
                number = self._order[self._closed]
                self._closed += 1
                self._cells[number].close(self._closes[number])
        finally:
            if self._closed < len(times):
                self._runtime.timers.move(self._closing, times[self._closed])

    def hurry(self, within: float) -> None:
        """Close everything now, and leave it no more than ``within`` seconds from now."""
        if self._closing is not None:
            self._closing.cancel()
        close = replace(self._close, notice=None)
        for cell in self._cells:
            cell.close(close)
        deadline = self._runtime.clock() + within
        if self._deadline is not None and self._deadline.pending and deadline < self._deadline.deadline:
            self._runtime.timers.move(self._deadline, deadline)

    def _one_less(self) -> None:
        self._remaining -= 1
        if not self._remaining:
            self._parker.wake()

    def _abort(self) -> None:
        self._close_due()  # what is due at the deadline, too
        self._at_deadline = [cell for cell in self._cells if not cell.stopped]
        for cell in self._at_deadline:
            cell.abort()

    def _tell_progress(self) -> None:
        assert self._progress is not None, "its callback"
        seconds = self._runtime.clock() - self._began
        tell(self._hooks, DrainProgress(len(self._cells), self._remaining, seconds))
        self._runtime.timers.move(self._progress, self._runtime.clock() + PROGRESS_EVERY)

    def _report(self) -> DrainReport:
        clean = sum(cell.clean for cell in self._cells)
        aborted = sum(not cell.clean for cell in self._at_deadline)
        return DrainReport(
            total=len(self._cells),
            clean=clean,
            timed_out=len(self._cells) - clean - aborted,
            aborted=aborted,
            seconds=self._runtime.clock() - self._began,
        )
