"""Dead letters: messages that no handler will see, kept, counted, told to who wants to know.

Logged are the first ten, and then one line in five minutes at most, so that a flood of them fills
no disk.  A line names the type of a message, never what is in it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

from actors.repeats import Repeats, log_error
from actors.sizes import is_small

logger = logging.getLogger("actors")

KEPT = 256
KEPT_SIZE = 4096
"""What a message may count to be kept as it is (``actors.sizes``): all together a megabyte."""
BEGIN = 256


@final
@dataclass(frozen=True, slots=True)
class Excerpt:
    """The part that is kept of a large message, or of one of unknown size: its type and its beginning.

    ``size`` is its length, ``begin`` the first 256 of its characters or bytes; both are ``None`` for what
    is neither text nor bytes.
    """

    kind: str
    size: int | None = None
    begin: str | bytes | None = None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that no handler will see: for whom it was (an actor's id), and why.

    ``message`` is what the peer sent, before a codec saw it, or what was told or asked.  Subscribers get
    it as it was; among the last ones an ``Excerpt`` stands for one that counts more than 4 KiB.

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

    __slots__ = ("_lines", "_lock", "_subscribers", "counts", "last")

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, keep: int = KEPT) -> None:
        self.last: deque[DeadLetter] = deque(maxlen=keep)
        """The last of them, the newest at the end."""
        self.counts: Counter[str] = Counter()
        """How many there were, by reason."""
        self._lines = Repeats(clock)
        self._lock = threading.Lock()  # a thread may tell an actor whose event loop has ended
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
        kept = letter if is_small(message, KEPT_SIZE) else replace(letter, message=_excerpt(message))
        with self._lock:
            self.counts[reason] += 1
            self.last.append(kept)
            subscribers = list(self._subscribers.values())
        left_out = self._lines.due("dead letter")
        if left_out is not None:
            self._log(letter, left_out)
        for callback in subscribers:
            try:
                callback(letter)
            except BaseException as error:  # also SystemExit: it would end the teardown that tells it
                log_error(logger, error, "letters", "the subscriber %r of dead letters failed", callback)

    def _log(self, letter: DeadLetter, left_out: int) -> None:
        kind = type(letter.message).__qualname__
        if left_out:
            logger.info(
                "dead letter for %s: a %s, %s; %d others before it were not logged, in all: %s",
                letter.recipient,
                kind,
                letter.reason,
                left_out,
                ", ".join(f"{count} {reason}" for reason, count in self.counts.items()),
            )
        else:
            logger.info("dead letter for %s: a %s, %s", letter.recipient, kind, letter.reason)


def _excerpt(message: object) -> Excerpt:
    kind = type(message).__qualname__
    if isinstance(message, str | bytes):
        return Excerpt(kind, len(message), message[:BEGIN])
    return Excerpt(kind)
