"""The verdict on an open connection: pure, from facts and the time."""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

from actors import ExitReason
from actors.progress import LONGEST
from actors.seconds import check_seconds as check_seconds  # for every option, here and elsewhere
from supervisor.policies import (
    PARTS,
    PATIENCE,
    Policy,
)


class Facts(NamedTuple):
    """The facts about an open connection; times are seconds of one monotonic clock.

    ``lifetime_ends`` and ``next_ping`` were chosen with jitter by whoever keeps the connection.
    """

    awake_since: float
    """When the process last went on after it had stood still: no silence began before."""
    lifetime_ends: float
    next_ping: float
    last_received: float
    ping_sent: float | None
    unseen: bool
    """Whether the ping waits behind what the peer has not taken, or its pong behind what we do not read."""
    held: bool
    """Whether this side does not want to read."""
    idle_since: float | None
    """When data flowed last, or a hook ran; ``None``: now."""
    handling_since: float | None
    """When the running hook began, or last got on with sending."""
    assembling_since: float | None
    assembled_at: float
    """When more of the message came last."""
    congested_since: float | None
    over_limit_since: float | None
    taken_at: float
    """When the peer last took some of what waits for it."""


class Verdict(Enum):
    """The verdict on an open connection."""

    NOTHING = auto()
    PING = auto()
    ANSWERED = auto()
    """The outstanding ping counts as answered: bytes came after it."""
    IDLE = auto()
    LIFETIME = auto()
    ASSEMBLY = auto()
    HANDLER = auto()
    HEARTBEAT_LOST = auto()
    STALLED = auto()


CLOSE_FOR: dict[Verdict, tuple[ExitReason, str]] = {
    Verdict.IDLE: (ExitReason.IDLE, "idle timeout"),
    Verdict.LIFETIME: (ExitReason.LIFETIME, "lifetime reached"),
    Verdict.ASSEMBLY: (ExitReason.POLICY_VIOLATION, "message took too long to arrive"),
    Verdict.HEARTBEAT_LOST: (ExitReason.HEARTBEAT_LOST, "heartbeat lost"),
    Verdict.STALLED: (ExitReason.OVERLOAD, "reads too slowly"),
}
"""Exit reason and close reason of the verdicts that close; a handler that takes too long is a crash."""


def examine(policy: Policy, facts: Facts, now: float) -> tuple[Verdict, float]:
    """Say what is to be done now, and when to look again at the latest.

    While something is to be seen that shows by progress alone, looks come several times within its time.
    A ping comes last: when it is due, nothing else is, and the look is for what is not the ping's.
    """
    timeouts, heartbeat, stall = policy.timeouts, policy.heartbeat, policy.limits.send_stall
    awake = facts.awake_since
    look = facts.lifetime_ends
    if look <= now:
        return Verdict.LIFETIME, now
    if timeouts.handler is not None:
        since = facts.handling_since
        due = (now if since is None else max(since, awake)) + timeouts.handler
        if due <= now:
            return Verdict.HANDLER, now
        look = min(look, due)
    if timeouts.idle is not None:
        since = facts.idle_since
        due = (now if since is None else max(since, awake)) + timeouts.idle
        if due <= now:
            return Verdict.IDLE, now
        look = min(look, due, now + timeouts.idle / PARTS)
    if timeouts.assembly is not None:
        due = now + timeouts.assembly
        since = facts.assembling_since
        if since is not None and not facts.held:
            most = max(since, awake) + LONGEST * timeouts.assembly
            due = min(max(since, awake, facts.assembled_at) + timeouts.assembly, most)
            if due <= now:
                return Verdict.ASSEMBLY, now
            due = min(due, now + timeouts.assembly / PARTS)
        look = min(look, due)
    if facts.congested_since is not None and stall is not None:
        due = max(facts.congested_since, facts.taken_at, awake) + stall
        if due <= now:
            return Verdict.STALLED, now
        look = min(look, due, now + stall / PARTS)
    if facts.over_limit_since is not None:
        due = max(facts.over_limit_since, facts.taken_at, awake) + PATIENCE
        if due <= now:
            return Verdict.STALLED, now
        look = min(look, due, now + PATIENCE / PARTS)
    if heartbeat is not None:
        sent = facts.ping_sent
        if sent is not None and facts.last_received > sent:
            if facts.next_ping > now:
                return Verdict.ANSWERED, now
            sent = None
        if sent is None:
            if facts.next_ping <= now:
                return Verdict.PING, look
        elif facts.unseen:
            patience = heartbeat.interval + heartbeat.timeout
            due = max(facts.last_received, facts.taken_at, awake) + patience
            if due <= now:
                return Verdict.HEARTBEAT_LOST, now
            look = min(look, due, now + patience / PARTS)
        elif facts.held:
            look = min(look, now + heartbeat.timeout)  # no pong can be seen: the clock stands still
        else:
            due = max(sent, facts.taken_at, awake) + heartbeat.timeout
            if due <= now:
                return Verdict.HEARTBEAT_LOST, now
            look = min(look, due)
        # An answer is only seen by a look, and the next ping follows it.
        look = min(look, facts.next_ping if facts.next_ping > now else now + heartbeat.interval)
    return Verdict.NOTHING, look
