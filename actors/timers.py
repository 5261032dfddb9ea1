"""One heap of lazy deadlines per runtime.

The hot paths only store a new deadline in their timer; the heap finds out when it looks: an entry
that is due too early is put back.  So moving a deadline later costs nothing, and cancelling leaves
a dead entry that goes when its time comes.  One task (``Timers.run``) waits for the earliest.
"""

from __future__ import annotations

import heapq
import logging
import math
from collections.abc import Callable
from itertools import count
from typing import final

from anyio.lowlevel import checkpoint

from actors.backends import current_backend
from actors.wakeup import Parker

logger = logging.getLogger("actors")

LATE = 1.0
"""Seconds: what comes later than this after its time says that the process stood still."""
TICK = 1.0
"""Seconds between two looks at the clock while there are deadlines: a standstill shows between them."""


@final
class Timer:
    """One deadline; made by ``Timers.at`` and ``Timers.after``."""

    __slots__ = ("_callback", "_entered", "deadline", "due")

    def __init__(self, deadline: float, callback: Callable[[], None]) -> None:
        self.deadline = deadline
        self.due = deadline
        """While the callback runs: for when it was set, so that it can tell how late it is."""
        self._callback: Callable[[], None] | None = callback
        self._entered = math.inf  # the time under which the heap has it; any other entry is stale

    @property
    def pending(self) -> bool:
        """Tell whether the callback is still to be called."""
        return self.deadline != math.inf

    def cancel(self) -> None:
        """Never call the callback, and let go of it; too late or twice does nothing."""
        self.deadline = math.inf
        self._callback = None


@final
class Timers:
    """The deadlines of one runtime, in seconds of its monotonic clock."""

    __slots__ = (
        "_awake_since",
        "_clock",
        "_compact_at",
        "_heap",
        "_order",
        "_parker",
        "_tick",
        "_waiting_for",
    )

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = count()
        self._compact_at = 64
        self._parker: Parker | None = None
        self._waiting_for = -math.inf
        self._tick = math.inf
        self._awake_since = -math.inf

    def __len__(self) -> int:
        return sum(self._live(entry) for entry in self._heap)

    @property
    def size(self) -> int:
        """About how many deadlines there are, those that were cancelled lately included."""
        return len(self._heap)

    def at(self, deadline: float, callback: Callable[[], None]) -> Timer:
        """Call ``callback`` at ``deadline``, on the event loop's thread, between two tasks' turns."""
        timer = Timer(deadline, callback)
        self._enter(timer)
        return timer

    def after(self, delay: float, callback: Callable[[], None]) -> Timer:
        """Call ``callback`` after ``delay`` seconds."""
        return self.at(self._clock() + delay, callback)

    def move(self, timer: Timer, deadline: float) -> None:
        """Give ``timer`` a new deadline, earlier or later, also from its own callback."""
        timer.deadline = deadline
        if deadline < timer._entered:
            self._enter(timer)

    def pass_on(self, timer: Timer, deadline: float, callback: Callable[[], None]) -> None:
        """Let somebody else have ``timer``, for what comes later: no second entry in the heap."""
        timer._callback = callback
        self.move(timer, deadline)

    def fire(self) -> float:
        """Call what is due, and give the time of the next look (infinity when there is none)."""
        now = self._clock()
        self.awake_since(now)
        while self._heap and self._heap[0][0] <= now:
            entered, _, timer = heapq.heappop(self._heap)
            if entered != timer._entered:
                continue
            timer._entered = math.inf
            callback = timer._callback
            if callback is None:
                continue
            if timer.deadline > now:
                self._enter(timer)
                continue
            timer.due, timer.deadline = timer.deadline, math.inf
            try:
                callback()
            except Exception:
                logger.exception("a timer's callback failed")
        return self.next_look

    @property
    def next_look(self) -> float:
        """The time of the next call of ``fire``: a deadline or earlier; infinity when there is none."""
        return self._heap[0][0] if self._heap else math.inf

    def awake_since(self, now: float) -> float:
        """Give the time at which the process last went on after it had stood still, stopped or busy.

        Nobody was heard meanwhile: no silence began before this.
        """
        if min(self._tick, self.next_look) + LATE < now:
            self._awake_since = now
            self._tick = math.inf
        return self._awake_since

    async def run(self) -> None:
        """Wait for deadlines until cancelled; the one task that does so for the whole runtime."""
        self._parker = current_backend().parker()
        while True:
            next_look = self.fire()
            now = self._clock()
            self._tick = math.inf if next_look == math.inf else now + TICK
            self._waiting_for = next_look = min(next_look, self._tick)
            await self._parker.park_for(next_look - now)
            self._waiting_for = -math.inf
            now = self._clock()
            self.awake_since(now)
            self._tick = now + TICK
            await checkpoint()  # what came before a deadline, and waited for the process, is read before it

    def _enter(self, timer: Timer) -> None:
        if timer.deadline == math.inf:
            return
        if len(self._heap) >= self._compact_at:
            self._heap = [entry for entry in self._heap if self._live(entry)]
            heapq.heapify(self._heap)
            self._compact_at = max(64, 2 * len(self._heap))
        timer._entered = timer.deadline
        heapq.heappush(self._heap, (timer._entered, next(self._order), timer))
        if timer._entered < self._waiting_for and self._parker is not None:
            self._waiting_for = -math.inf
            self._parker.wake()

    @staticmethod
    def _live(entry: tuple[float, int, Timer]) -> bool:
        entered, _, timer = entry
        return entered == timer._entered and timer._callback is not None
