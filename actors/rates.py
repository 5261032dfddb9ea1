"""Rates as token buckets: pure, the time is an argument."""

from __future__ import annotations

from typing import final


@final
class TokenBucket:
    """``rate`` tokens a second, ``burst`` at the most; starts full."""

    __slots__ = ("_burst", "_level", "_rate", "_time")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._level = float(burst)
        self._time = now

    def take(self, now: float) -> bool:
        """Take one token; ``False`` when there is none."""
        level = self.level(now)
        if level < 1:
            return False
        self._level = level - 1
        return True

    def level(self, now: float) -> float:
        """Give the number of tokens at ``now``."""
        self._level = min(self._burst, self._level + (now - self._time) * self._rate)
        self._time = now
        return self._level

    def full_at(self) -> float:
        """Give the time at which the bucket is full if nothing is taken."""
        return self._time + (self._burst - self._level) / self._rate

    def wait(self, tokens: float, now: float) -> float:
        """Seconds until there are ``tokens``."""
        return max(0.0, (tokens - self.level(now)) / self._rate)


@final
class InboundRate:
    """The messages of one peer against its rate: first a pause, then no patience.

    ``burst`` is at least 3, or a pause would give back so much that nobody were ever stubborn.
    """

    PATIENCE = 10.0
    """Seconds for which a peer may be over its rate, pauses included."""

    __slots__ = ("_bucket", "_burst", "_over_since", "paused")

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._bucket = TokenBucket(rate, burst, now)
        self._burst = burst
        self._over_since: float | None = None
        self.paused = False

    def message(self, now: float) -> bool:
        """Take note of a message; ``False`` when it is over the rate."""
        if self._over_since is not None and self._bucket.level(now) > self._burst / 2:
            self._over_since = None  # it slowed down by itself: a pause gives less than that
        within = self._bucket.take(now)
        if not within and self._over_since is None:
            self._over_since = now
        return within

    def stubborn(self, now: float) -> bool:
        """Tell whether the peer has been over its rate for too long."""
        return self._over_since is not None and now - self._over_since >= self.PATIENCE

    def pause(self, now: float) -> float:
        """Seconds to read nothing, so that a quarter of the burst is there again."""
        return self._bucket.wait(max(1.0, self._burst / 4), now)
