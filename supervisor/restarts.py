"""How often and how soon something is started again: pure, the time is an argument.

The rules of this file:

* The window slides: at most ``count`` restarts within any ``within`` seconds.  A restart exactly
  ``within`` seconds old is outside of the window.
* The first restart after a stable time goes at once; the n-th one after it waits
  ``min(maximum, initial * factor**n)``, with jitter, clamped to ``maximum`` after the jitter.
"""

from __future__ import annotations

import math
from collections import deque
from typing import final

from supervisor.policies import Backoff, RestartLimit


@final
class RestartWindow:
    """Counts the restarts of one child or one supervisor against a limit."""

    __slots__ = ("_times", "limit")

    def __init__(self, limit: RestartLimit) -> None:
        self.limit = limit
        self._times: deque[float] = deque()

    def allow(self, now: float) -> bool:
        """Take note of a restart at ``now``; ``False`` when it is one too many."""
        allowed = self.left(now) > 0
        if allowed:
            self._times.append(now)
        return allowed

    def left(self, now: float) -> int:
        """Give the number of restarts that are left at ``now``."""
        while self._times and now - self._times[0] >= self.limit.within:
            self._times.popleft()
        return self.limit.count - len(self._times)


@final
class BackoffClock:
    """The wait before the next restart of one child."""

    __slots__ = ("_attempts", "_backoff")

    def __init__(self, backoff: Backoff) -> None:
        self._backoff = backoff
        self._attempts = 0

    def next_delay(self, lived: float, chance: float) -> float:
        """Seconds to wait after a life of ``lived`` seconds; ``chance`` from 0 to 1 picks the jitter."""
        if lived >= self._backoff.reset_after:
            self._attempts = 0
        delay = delay_before(self._backoff, self._attempts, chance)
        self._attempts += 1
        return delay


def delay_before(backoff: Backoff, attempt: int, chance: float) -> float:
    """Seconds before restart number ``attempt`` (0 is the first one, which does not wait)."""
    if attempt == 0:
        return 0.0
    growth = math.log(max(1.0, backoff.maximum / backoff.initial))
    if (attempt - 1) * math.log(backoff.factor) >= growth:  # also where the power would overflow
        raw = backoff.maximum
    else:
        raw = backoff.initial * backoff.factor ** (attempt - 1)
    return min(backoff.maximum, raw * (1 + backoff.jitter * (2 * chance - 1)))
