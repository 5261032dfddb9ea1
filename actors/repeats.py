"""Log lines that repeat: of each kind the first ten, then one in five minutes, with how many were left out.

What a client can cause as often as it likes fills no disk so, and hides nothing else: each kind is
counted by itself.  The kinds are bounded too; those that come when the table is full share a place,
until another one has been silent for five minutes.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Hashable
from typing import final

from actors.tracebacks import place_of

LOGGED_AT_ONCE = 10
LOG_INTERVAL = 300.0
"""Seconds between two lines of one kind, after the first ones."""
KINDS = 256
"""Kinds that are counted by themselves."""
_OTHERS = object()


@final
class _Kind:
    """The count of one kind of line."""

    __slots__ = ("left_out", "logged", "logged_at")

    def __init__(self) -> None:
        self.logged = 0
        self.logged_at = -math.inf
        self.left_out = 0


@final
class Repeats:
    """The number of times that each kind of line was logged or left out; for any thread."""

    __slots__ = ("_clock", "_kinds", "_lock", "_most")

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, kinds: int = KINDS) -> None:
        self._clock = clock
        self._most = kinds
        self._kinds: dict[Hashable, _Kind] = {}
        self._lock = threading.Lock()

    def due(self, kind: Hashable) -> int | None:
        """Give the number of lines of ``kind`` left out since the last; ``None``: leave this one out too."""
        with self._lock:
            now = self._clock()
            known = self._kinds.get(kind) or self._begin(kind, now)
            if known.logged >= LOGGED_AT_ONCE and now - known.logged_at < LOG_INTERVAL:
                known.left_out += 1
                return None
            left_out, known.left_out = known.left_out, 0
            known.logged += 1
            known.logged_at = now
            return left_out

    def forget(self) -> None:
        """Begin anew."""
        with self._lock:
            self._kinds.clear()

    def _begin(self, kind: Hashable, now: float) -> _Kind:
        if len(self._kinds) >= self._most:
            silent = [one for one, it in self._kinds.items() if now - it.logged_at >= LOG_INTERVAL]
            for one in silent:
                del self._kinds[one]
            if not silent:
                kind = _OTHERS
        return self._kinds.setdefault(kind, _Kind())


def others(left_out: int) -> str:
    """Give the words about the lines that were left out."""
    return f"; {left_out} like it before were not logged" if left_out else ""


repeats = Repeats()
"""Those of this process."""


def log_error(logger: logging.Logger, error: BaseException, kind: str, text: str, *args: object) -> None:
    """Log ``text % args`` with the traceback of ``error``, if that is due.

    Errors of one type that were raised at one place are alike, among those of one ``kind``.
    """
    if not logger.isEnabledFor(logging.ERROR):
        return
    left_out = repeats.due((kind, type(error).__qualname__, place_of(error)))
    if left_out is not None:
        logger.error(text + "%s", *args, others(left_out), exc_info=error)
