"""The handler timeout of a service: what a connection's watch does besides."""

from __future__ import annotations

from typing import final

from actors.cell.cell import Cell
from actors.errors import HandlerTimeout
from actors.timers import Timer


@final
class HandlerWatch:
    """The handler timeout of a service."""

    __slots__ = ("_cell", "_timeout", "_timer")

    def __init__(self, cell: Cell, timeout: float) -> None:
        self._cell = cell
        self._timeout = timeout
        self._timer: Timer = cell.runtime.timers.after(timeout, self.look)

    def cancel(self) -> None:
        """Look no more: the service has ended."""
        self._timer.cancel()

    def look(self) -> None:
        """Crash the service if its hook has run for too long, and set the time of the next look."""
        cell, timers = self._cell, self._cell.runtime.timers
        now = cell.runtime.clock()
        since = None if cell.hook.interrupted else cell.hook.since
        if since is not None:
            since = max(since, timers.awake_since(now))
        if since is not None and since + self._timeout <= now:
            time_out(cell, self._timeout)
            since = None
        timers.move(self._timer, self._timeout + (now if since is None else since))


def time_out(cell: Cell, timeout: float | None) -> None:
    """Crash the actor for its running hook, saying where that waits."""
    error = HandlerTimeout(f"a hook ran for more than {timeout} s; it waits at {cell.hook.where()}")
    cell.crash(error)
    cell.kill(error)
