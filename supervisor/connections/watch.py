"""Keeps one open connection to its policy: looks when something may be due, and carries it out.

One timer a connection.  Nothing on the hot path knows about it: it reads the times and counts that the
WebSocket, the transport and the cell keep anyway, and what they were at the look before.
"""

from __future__ import annotations

import math
import random
from typing import final

from actors.cell.connection_cell import ConnectionCell
from actors.progress import Progress
from actors.timers import Timer
from supervisor.connections.verdicts import CLOSE_FOR, Facts, Verdict, examine
from supervisor.handler_watch import time_out
from supervisor.policies import LIFETIME_JITTER, PARTS, PATIENCE, Policy

FEW = 1000
"""Timers: with fewer of them pings are sent twice a second, with more of them eight times."""


@final
class Watch:
    """The policy of one open connection at work."""

    __slots__ = (
        "_active_at",
        "_assembly",
        "_assembly_of",
        "_begun",
        "_busy",
        "_cell",
        "_lifetime_ends",
        "_next_ping",
        "_ping_position",
        "_ping_sent",
        "_policy",
        "_sampled_at",
        "_sends",
        "_settled",
        "_taken",
        "_taken_at",
        "_timer",
    )

    def __init__(self, cell: ConnectionCell, policy: Policy, timer: Timer | None = None) -> None:
        """Take over ``timer``, that of the handshake perhaps, if there is one.

        Many connections end before anything can be due, so this only sets the time of the first look.
        """
        self._cell = cell
        self._policy = policy
        self._begun = False
        opened_at = cell.websocket.opened_at
        first_look = _together(opened_at + policy.patience, opened_at)
        timers = cell.runtime.timers
        if timer is None:
            timer = timers.at(first_look, self._first_look)
        else:
            timers.pass_on(timer, first_look, self._first_look)
        self._timer = timer
        cell.watched(timer, self._congested)

    def _begin(self) -> None:
        """Set what is known before the first look, or before the peer does not keep up for the first time."""
        self._begun = True
        self._next_ping = self._lifetime_ends = math.inf  # until the first look
        self._ping_sent: float | None = None
        self._ping_position = 0  # in what was written
        self._settled = 0  # of what was written; the peer has taken it
        self._taken = 0  # of what was written, at the last look at it
        self._sends: Progress | None = None  # while the peer has something to take
        self._assembly: Progress | None = None  # of the message that began at ``_assembly_of``
        self._busy = False
        self._sampled_at = self._taken_at = self._active_at = self._assembly_of = -math.inf

    def cancel(self) -> None:
        """Look no more: the connection has ended."""
        self._timer.cancel()
        self._cell.watched(None, None)

    def _first_look(self) -> None:
        if not self._begun:
            self._begin()
        opened_at, lifetime = self._cell.websocket.opened_at, self._policy.timeouts.lifetime
        if lifetime is not None:
            self._lifetime_ends = opened_at + lifetime * _spread(LIFETIME_JITTER)
        self._next_ping = self._ping_after(opened_at)
        self._cell.runtime.timers.pass_on(self._timer, math.inf, self._look)
        self._look()

    def _look(self) -> None:
        """Do what is due, and set the time of the next look."""
        cell = self._cell
        now, held = cell.runtime.clock(), cell.held
        if held:
            self._restart_clocks(now)
        awake_since = cell.runtime.timers.awake_since(now)
        while not cell.closing:
            verdict, next_look = examine(self._policy, self._facts(now, awake_since, held), now)
            if verdict is Verdict.PING:
                lost_at = self._ping(now)
                if cell.websocket.transport.congested or self._sends is not None:
                    continue  # its pong waits behind what the peer has to take
                next_look = min(next_look, lost_at, self._next_ping)
            elif verdict is not Verdict.NOTHING:
                self._carry_out(verdict, now)
                continue
            cell.runtime.timers.move(self._timer, _together(next_look, now))
            return

    def _ping(self, now: float) -> float:
        """Send a ping; give the time at which the peer is lost without an answer."""
        websocket, heartbeat = self._cell.websocket, self._policy.heartbeat
        assert heartbeat is not None, "a ping is due"
        transport = websocket.transport
        if transport.written != self._settled:
            self._sample(now)
        self._ping_position = transport.written
        size = websocket.ping()
        if self._settled == self._ping_position:
            self._settled += size  # its pong tells more than the system does
        self._ping_sent = now
        self._next_ping = self._ping_after(now)
        return now + heartbeat.timeout

    def _carry_out(self, verdict: Verdict, now: float) -> None:
        cell = self._cell
        if verdict is Verdict.ANSWERED:
            self._ping_sent = None
        elif verdict is Verdict.HANDLER:
            time_out(cell, self._policy.timeouts.handler)
        else:
            cell.exit_with(*CLOSE_FOR[verdict])

    def _facts(self, now: float, awake_since: float, held: bool) -> Facts:
        cell = self._cell
        websocket, hook = cell.websocket, cell.hook
        transport = websocket.transport
        congested = transport.congested
        look_for_idle = self._policy.timeouts.idle is not None
        if congested or self._sends is not None or (look_for_idle and transport.written != self._settled):
            self._sample(now)
        handling_since = None if hook.interrupted else hook.since
        if handling_since is not None:
            handling_since = max(handling_since, hook.sent_at, self._taken_at if hook.waits_for_peer else 0)
        assembling_since = websocket.assembling_since
        assembled_at = -math.inf if assembling_since is None else self._assembled_at(assembling_since, now)
        return Facts(  # in this order, not by name: two are made for every ping
            awake_since,
            self._lifetime_ends,
            self._next_ping,
            websocket.last_received,
            self._ping_sent,
            congested or (self._sends is not None and self._taken < self._ping_position),
            held,
            self._idle_since(now, assembled_at) if look_for_idle else None,
            handling_since,
            assembling_since,
            assembled_at,
            cell.congested_since,
            None if cell.overrun is None else cell.over_limit_since,
            self._taken_at,
        )

    def _sample(self, now: float) -> None:
        """See how much the peer has taken of what was written."""
        transport = self._cell.websocket.transport
        written, outstanding = transport.written, transport.outstanding
        self._sampled_at = now
        self._taken = written - outstanding
        if outstanding <= 0 and not transport.congested:
            self._settled = written
            if self._sends is not None:
                self._sends = None
                self._taken_at = now
        elif self._sends is None:
            self._sends = Progress(self._taken, now)
        elif self._sends.look(self._taken, now) == now:
            self._taken_at = now

    def _assembled_at(self, since: float, now: float) -> float:
        """Give the time at which more of the message came that has been coming since ``since``."""
        websocket = self._cell.websocket
        count = websocket.assembled
        if self._assembly is None or self._assembly_of != since:
            self._assembly, self._assembly_of = Progress(0, since), since
        if websocket.transport.congested:
            self._assembly.excuse(count, now)  # nothing is read
        return self._assembly.look(count, now)

    def _idle_since(self, now: float, assembled_at: float) -> float:
        """Give the time at which data last flowed, a hook ran, or a message waited for one.

        A hook that waits for the peer to take something is no more at work than the peer is.
        """
        cell = self._cell
        if cell.hook.since is not None or cell.mailbox.data or cell.mailbox.control or self._busy:
            busy = not cell.websocket.transport.congested and (
                cell.hook.since is not None or bool(cell.mailbox)
            )
            if busy or self._busy:
                self._active_at = now
            self._busy = busy
        return max(cell.websocket.last_message, self._active_at, self._taken_at, assembled_at)

    def _restart_clocks(self, now: float) -> None:
        """Blame nobody for what is not read, since this side does not want to."""
        websocket = self._cell.websocket
        if self._ping_sent is not None and websocket.last_received <= self._ping_sent:
            self._ping_sent = now
        websocket.restart_assembly(now)

    def _congested(self) -> None:
        """The peer does not keep up: its time to go on may end before the next look."""
        if not self._begun:
            self._begin()
        now = self._cell.runtime.clock()
        next_look = now + PATIENCE / PARTS
        if now - self._sampled_at > PATIENCE / PARTS:  # one who sends without end calls this all the time
            awake_since = self._cell.runtime.timers.awake_since(now)
            _, next_look = examine(self._policy, self._facts(now, awake_since, self._cell.held), now)
        if next_look < self._timer.deadline:
            self._cell.runtime.timers.move(self._timer, next_look)

    def _ping_after(self, now: float) -> float:
        """Give the time of the next ping: the same as others', as far as the jitter leaves that open.

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


def _together(look: float, now: float) -> float:
    """Let a look that is far away come with others, an eighth of a second later at most: waking up costs."""
    return math.ceil(look * 8) / 8 if 4 < look - now < math.inf else look


def _spread(jitter: float) -> float:
    """A factor around 1, so that what began together does not end together."""
    return 1 + jitter * (2 * random.random() - 1)
