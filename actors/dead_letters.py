"""Dead letters: messages that no handler will see, kept, counted, told to who wants to know.

Logged are the first ten, and then one line in five minutes at most, so that a flood of them fills
no disk.  A line names the type of a message, never what is in it.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

logger = logging.getLogger("actors")

KEPT = 256
LOGGED_AT_ONCE = 10
LOG_INTERVAL = 300.0
"""Seconds between two lines, after the first ones."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that no handler will see: for whom it was (an actor's id), and why.

    ``reason``: ``"crashed"`` (its handler did), ``"undelivered"`` (queued when its actor ended),
    ``"stopped"`` (sent to an actor that has ended or is closing), ``"overflow"``, ``"refused by the
    codec"``, ``"expired"`` (an ask that was given up before its turn), or ``"late reply"`` (what was
    answered to one that was given up).
    """

    message: object
    recipient: str
    reason: str


@final
class DeadLetters:
    """The last dead letters of one event loop, and how many there were for each reason."""

    __slots__ = ("_clock", "_lock", "_logged_at", "_since", "_subscribers", "counts", "last")

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, keep: int = KEPT) -> None:
        self.last: deque[DeadLetter] = deque(maxlen=keep)
        """The last of them, the newest at the end."""
        self.counts: Counter[str] = Counter()
        """How many there were, by reason."""
        self._clock = clock
        self._lock = threading.Lock()  # a thread may tell an actor whose event loop has ended
        self._logged_at = -math.inf
        self._since = 0  # how many have not been logged
        self._subscribers: dict[object, Callable[[DeadLetter], object]] = {}

    def subscribe(self, callback: Callable[[DeadLetter], object]) -> Callable[[], None]:
        """Call ``callback`` with every dead letter from now on; what this gives back ends it.

        It runs where the message died, mostly on the event loop's thread between two tasks' turns, and
        must not block; what it raises is logged and goes no further.
        """
        key = object()
        with self._lock:
            self._subscribers[key] = callback

        def unsubscribe() -> None:
            with self._lock:
                self._subscribers.pop(key, None)

        return unsubscribe

    def add(self, message: object, recipient: str, reason: str) -> None:
        """Take note of one dead letter."""
        letter = DeadLetter(message, recipient, reason)
        with self._lock:
            self.counts[reason] += 1
            self.last.append(letter)
            self._since += 1
            total = self.counts.total()
            due = total <= LOGGED_AT_ONCE or self._clock() - self._logged_at >= LOG_INTERVAL
            if due:
                silent, self._since, self._logged_at = self._since - 1, 0, self._clock()
            subscribers = list(self._subscribers.values())
        if due:
            self._log(letter, silent)
        for callback in subscribers:
            try:
                callback(letter)
            except BaseException:  # also SystemExit: it would end the teardown that tells it
                logger.exception("the subscriber %r of dead letters failed", callback)

    def _log(self, letter: DeadLetter, silent: int) -> None:
        kind = type(letter.message).__qualname__
        if silent:
            logger.info(
                "dead letter for %s: a %s, %s; %d others before it were not logged, in all: %s",
                letter.recipient,
                kind,
                letter.reason,
                silent,
                ", ".join(f"{count} {reason}" for reason, count in self.counts.items()),
            )
        else:
            logger.info("dead letter for %s: a %s, %s", letter.recipient, kind, letter.reason)
