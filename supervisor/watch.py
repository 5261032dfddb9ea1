"""Keeps one open connection to its policy: looks when something may be due, and carries it out.

One timer a connection.  Nothing on the hot path knows about it: it reads the times that the
WebSocket and the cell store anyway.
"""

from __future__ import annotations

import math
import random
from typing import final

from actors.cell import Cell
from actors.connection_cell import ConnectionCell
from actors.errors import HandlerTimeout
from actors.timers import Timer
from supervisor.policies import CLOSE_FOR, LIFETIME_JITTER, Facts, Policy, Verdict, examine

LATE = 1.0
"""Seconds: a look that comes later than this after its time says that the process stood still."""

FEW = 1000
"""Timers: with fewer of them pings are sent twice a second, with more of them eight times."""


@final
class Watch:
    """The policy of one open connection at work."""

    __slots__ = ("_cell", "_lifetime_ends", "_next_ping", "_ping_sent", "_policy", "_timer")

    def __init__(self, cell: ConnectionCell, policy: Policy, timer: Timer | None = None) -> None:
        """Take over ``timer``, that of the handshake perhaps, if there is one.

        Many connections end before anything can be due, so this only sets the time of the first look.
        """
        self._cell = cell
        self._policy = policy
        self._next_ping = self._lifetime_ends = math.inf  # until the first look
        self._ping_sent: float | None = None
        opened_at = cell.websocket.opened_at
        first_look = _together(opened_at + policy.patience, opened_at)
        timers = cell.runtime.timers
        if timer is None:
            timer = timers.at(first_look, self._first_look)
        else:
            timers.pass_on(timer, first_look, self._first_look)
        self._timer = cell.timer = timer
        cell.on_congested = self._congested

    def cancel(self) -> None:
        """Look no more: the connection has ended."""
        self._timer.cancel()
        self._cell.on_congested = None

    def _first_look(self) -> None:
        opened_at, lifetime = self._cell.websocket.opened_at, self._policy.timeouts.lifetime
        if lifetime is not None:
            self._lifetime_ends = opened_at + lifetime * _spread(LIFETIME_JITTER)
        self._next_ping = self._ping_after(opened_at)
        self._cell.runtime.timers.pass_on(self._timer, math.inf, self._look)
        self._look()

    def _look(self) -> None:
        """Do what is due, and set the time of the next look."""
        cell = self._cell
        now = cell.runtime.clock()
        if not cell.reading or now - self._timer.due > LATE:
            self._restart_clocks(now)
        while not cell.closing:
            verdict, next_look = examine(self._policy, self._facts(), now)
            if verdict is Verdict.NOTHING:
                cell.runtime.timers.move(self._timer, _together(next_look, now))
                return
            self._carry_out(verdict, now)

    def _carry_out(self, verdict: Verdict, now: float) -> None:
        cell = self._cell
        if verdict is Verdict.PING:
            cell.websocket.ping()
            self._ping_sent = now
            self._next_ping = self._ping_after(now)
        elif verdict is Verdict.ANSWERED:
            self._ping_sent = None
        elif verdict is Verdict.HANDLER:
            time_out(cell, self._policy.timeouts.handler)
        else:
            cell.exit_with(*CLOSE_FOR[verdict])

    def _facts(self) -> Facts:
        cell, websocket = self._cell, self._cell.websocket
        return Facts(  # in this order, not by name: two are made for every ping
            websocket.last_received,
            websocket.last_message,
            self._lifetime_ends,
            self._next_ping,
            self._ping_sent,
            None if cell.hook.interrupted else cell.hook.since,
            websocket.assembling_since,
            cell.congested_since,
            cell.reading,
        )

    def _restart_clocks(self, now: float) -> None:
        """What the peer sent could not be read, or no time could be kept: blame nobody for it."""
        cell, websocket = self._cell, self._cell.websocket
        if self._ping_sent is not None and websocket.last_received <= self._ping_sent:
            self._ping_sent = now
        if websocket.assembling_since is not None:
            websocket.assembling_since = now
        if now - self._timer.due > LATE:
            websocket.last_message = now
            if cell.hook.since is not None:
                cell.hook.since = now
            if cell.congested_since is not None:
                cell.congested_since = now

    def _congested(self) -> None:
        """The peer stopped reading: its time to go on may end before the next look."""
        _, next_look = examine(self._policy, self._facts(), self._cell.runtime.clock())
        if next_look < self._timer.deadline:
            self._cell.runtime.timers.move(self._timer, next_look)

    def _ping_after(self, now: float) -> float:
        """When the next ping is due: at the same time as others, as far as the jitter leaves that open.

        A ping that wakes the process costs twice as much as one of fifty; and hundreds at a time would
        hold up whatever else is to be done.
        """
        heartbeat = self._policy.heartbeat
        if heartbeat is None:
            return math.inf
        due = now + heartbeat.interval * _spread(heartbeat.jitter)
        times_a_second = 2 if self._cell.runtime.timers.size < FEW else 8
        if heartbeat.interval * heartbeat.jitter * times_a_second < 1:
            return due
        return round(due * times_a_second) / times_a_second


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
        if since is not None and now - self._timer.due > LATE:
            since = cell.hook.since = now
        if since is not None and since + self._timeout <= now:
            time_out(cell, self._timeout)
            since = None
        timers.move(self._timer, self._timeout + (now if since is None else since))


def time_out(cell: Cell, timeout: float | None) -> None:
    """Crash the actor for its running hook, saying where that waits."""
    error = HandlerTimeout(f"a hook ran for more than {timeout} s; it waits at {cell.hook.where()}")
    cell.crash(error)
    cell.kill(error)


def _together(look: float, now: float) -> float:
    """Let a look that is far away come with others, an eighth of a second later at most: waking up costs."""
    return math.ceil(look * 8) / 8 if 4 < look - now < math.inf else look


def _spread(jitter: float) -> float:
    """A factor around 1, so that what began together does not end together."""
    return 1 + jitter * (2 * random.random() - 1)
