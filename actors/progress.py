"""Progress: whether a count goes on growing; pure, the time is an argument.

Every verdict about a peer is about its absence.  Nobody counts for this on the hot path: somebody looks
now and then at what is known anyway.
"""

from __future__ import annotations

from typing import final

DRIP = 1024
"""Bytes a second: what is slower is no progress, or a byte now and then would hold a connection for ever."""
LONGEST = 10
"""Times its value that a timeout lasts at the most, however often progress starts it anew."""


@final
class Progress:
    """The time at which a count of bytes last grew by more than a drip."""

    __slots__ = ("_count", "at")

    def __init__(self, count: int, at: float) -> None:
        self._count = count
        self.at = at
        """When progress was seen last."""

    def look(self, count: int, now: float) -> float:
        """Take note of the ``count`` at ``now``, and give when progress was seen last."""
        if count - self._count >= DRIP * (now - self.at):
            self._count = count
            self.at = now
        return self.at

    def excuse(self, count: int, now: float) -> None:
        """Start anew: nobody could have seen progress until ``now``."""
        self._count = count
        self.at = now
