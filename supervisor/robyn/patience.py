"""How long a process of an app may take to end, and what becomes of one that takes longer.

The rules of this file:

* Code that swallows its cancellation, or that blocks, cannot be ended from within the event loop.  So
  a thread ends the process: it logs what is left and where that waits, and exits with status 1.
* Seconds in which the process was stopped do not count.
* Logging may be what is stuck: the exit waits for it only shortly.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from types import FrameType
from typing import final

from actors.frames import waiting_frame
from supervisor.connections.drain import Drain

logger = logging.getLogger("supervisor")

_LOOK_EVERY = 1.0
_LOG_WITHIN = 3.0
_HELD_FOR = 0.2
_MOST_TASKS = 20
_RUNTIME = frozenset({"actors", "anyio", "asyncio", "robyn", "selectors", "supervisor", "threading", "trio"})


@final
class Patience:
    """Seconds for the end of a process; ``None`` waits for ever."""

    def __init__(self, drain: Drain | None, close: float | None, end_within: float | None) -> None:
        self._end_within = end_within
        self._drain = drain
        self.without_drain = self._and_the_end(close)
        """When nothing is drained: every connection has the close timeout."""

    def when_told(self, times: int) -> float | None:
        """Give the seconds that are left when a process was told to end for the first time, and again."""
        if self._drain is None or times > 2:
            return self.without_drain if times == 1 else self._end_within
        return self._and_the_end(self._drain.within if times == 1 else self._drain.hurry)

    def when_retired(self, drain: Drain) -> float | None:
        """Give the seconds of a process that drains like this, since another one has its place."""
        return self._and_the_end(drain.within)

    def _and_the_end(self, seconds: float | None) -> float | None:
        return None if seconds is None or self._end_within is None else seconds + self._end_within


@final
class Overtime:
    """Ends this process at a deadline, unless it has ended by itself; made on its event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = threading.get_ident()
        self._base = set(_frames(sys._getframe()))
        self._left: float | None = None
        self._over = False
        self._changed = threading.Condition()
        # From the begin: at the end there may be no thread to be had.
        threading.Thread(target=self._run, name="supervisor.overtime", daemon=True).start()

    def begin(self, seconds: float | None) -> None:
        """Leave ``seconds`` to this process, or what is left already if that is less."""
        if seconds is None:
            return
        with self._changed:
            self._left = seconds if self._left is None else min(seconds, self._left)
            self._changed.notify()

    def over(self) -> None:
        """Leave the process alone: it goes on with something else."""
        with self._changed:
            self._over, self._left = True, 0.0
            self._changed.notify()

    def _run(self) -> None:
        with self._changed:
            while self._left is None:
                self._changed.wait()
            while left := self._left:
                slice_ = min(left, _LOOK_EVERY)
                if not self._changed.wait(slice_):
                    self._left = max(0.0, left - slice_)
            if self._over:
                return
        with suppress(RuntimeError):  # no thread can be had
            telling = threading.Thread(target=self._tell, daemon=True)
            telling.start()
            telling.join(_LOG_WITHIN)
        os._exit(1)

    def _tell(self) -> None:
        logger.critical(
            "the process has not ended in time (end_within) and is ended; %s", self._what_is_left()
        )
        for handler in logging.getLogger().handlers:
            with suppress(OSError, ValueError):
                handler.flush()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):  # closed, or not there at all
                stream.flush()

    def _what_is_left(self) -> str:
        told = []
        before = self._running()
        time.sleep(_HELD_FOR)
        running = self._running()
        if before and running and running[-1] is before[-1]:  # not one that just passes by
            told.append(f"the event loop is held by {_place(running[0])}")
        waiting = [(task.get_name(), waiting_frame(task)) for task in asyncio.all_tasks(self._loop)]
        told += [
            f"task {name!r} waits at {_place(frame)}"
            for name, frame in waiting
            if frame is not None and not _of_the_runtime(frame)
        ]
        return "; ".join(told[:_MOST_TASKS]) or f"{len(waiting)} tasks are left, none of the app's own"

    def _running(self) -> list[FrameType]:
        """Give the app's own frames that the event loop runs now, the innermost one first."""
        frames = _frames(sys._current_frames().get(self._thread))
        return [one for one in frames if one not in self._base and not _of_the_runtime(one)]


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _of_the_runtime(frame: FrameType) -> bool:
    return frame.f_globals.get("__name__", "").partition(".")[0] in _RUNTIME


def _place(frame: FrameType) -> str:
    return f"{frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})"
