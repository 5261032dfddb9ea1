"""Policies: what a timeout, a silent peer or a crash means for one kind of actor; pure decisions.

The rules of this file:

* Everything is frozen, keyword-only and checked when it is written down; ``None`` switches off.
* A policy is given by the actor's class, by the route, or by the server: the nearest wins, part by
  part.  A part is one argument of ``Policy``.
* ``examine`` decides from facts and the time alone; it touches nothing.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum, auto
from typing import Any, NamedTuple, final

from actors import ExitReason, Overflow

LIFETIME_JITTER = 0.1
"""How far the lifetimes of connections are spread: plus or minus this part of them."""
_MOST = sys.float_info.max
_LEAST_OVER_ZERO = math.ulp(0.0)


def check_seconds(option: str, value: float | None, *, zero: bool = False, off: bool = True) -> None:
    """Check finite seconds over 0; ``zero`` allows 0 too, ``off`` allows ``None``."""
    if zero:
        _check(option, value, "seconds, zero or more", 0, off=off)
    else:
        _check(option, value, "seconds, more than zero", _LEAST_OVER_ZERO, off=off)


def check_rate(option: str, value: float | None) -> None:
    """Check how often in a second something may happen, or ``None``."""
    _check(option, value, "how many a second, more than zero", _LEAST_OVER_ZERO)


def check_count(option: str, value: int | None, *, least: int = 1, off: bool = True) -> None:
    """Check a whole number from ``least`` on; ``off`` allows ``None``."""
    _check(option, value, f"a whole number, at least {least}", least, off=off, whole=True)


def check_factor(option: str, value: float) -> None:
    """Check what something is multiplied with to grow."""
    _check(option, value, "a number, at least 1", 1, off=False)


def check_fraction(option: str, value: float) -> None:
    """Check a fraction from 0 to below 1."""
    wanted = "a fraction from 0 to below 1 (0.1 is plus or minus 10 %)"
    _check(option, value, wanted, 0, math.nextafter(1, 0), off=False)


def _check(
    option: str,
    value: object,
    wanted: str,
    least: float,
    most: float = _MOST,
    *,
    off: bool = True,
    whole: bool = False,
) -> None:
    """Raise ``TypeError`` or ``ValueError`` naming ``option`` unless ``value`` is a number within bounds."""
    if value is None and off:
        return
    problem = f"{option}: {wanted}{', or None to switch it off' if off else ''}, not {value!r}"
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise TypeError(problem)
    if not least <= value <= most:  # so written, NaN is refused too
        raise ValueError(problem)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds; ``None`` switches one off.

    ``handshake``: from accept to 101, and the head of each HTTP request, then 408.  ``idle``: without a
    data message either way, then 1001.  ``lifetime``: of the connection, then 1001, with 10 % jitter.
    ``assembly``: one frame or fragmented message, then 1008; the body of an HTTP request that does not get
    on, then 408.  ``handler``: one hook, then 1011.  ``close``: the whole closing handshake, then TCP is
    dropped.  ``teardown``: each step of it, then what hangs is cancelled and reported as a leak.
    """

    handshake: float | None = 10.0
    idle: float | None = None
    lifetime: float | None = None
    assembly: float | None = 30.0
    handler: float | None = 30.0
    close: float | None = 10.0
    teardown: float | None = 5.0

    def __post_init__(self) -> None:
        for part in fields(self):
            check_seconds(part.name, getattr(self, part.name))


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """Ping frames (RFC 6455, section 5.5.2): every ``interval`` seconds, ``timeout`` for an answer.

    Any byte of the peer is an answer.  No answer closes with 1011.  ``jitter`` spreads the pings of
    many connections: 0.1 is plus or minus 10 % of the interval.
    """

    interval: float = 20.0
    timeout: float = 20.0
    jitter: float = 0.1

    def __post_init__(self) -> None:
        for option, value in (("interval", self.interval), ("timeout", self.timeout)):
            if value is None:
                raise TypeError(f"{option}: seconds; heartbeat=None switches the heartbeat off")
            check_seconds(option, value, off=False)
        check_fraction("jitter", self.jitter)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one connection, in messages and bytes; ``None`` switches one off.

    ``max_message``: bytes of one message, then 1009.  ``inbound_messages``, ``inbound_bytes``: what
    waits in the mailbox before reading pauses.  ``mailbox_messages``, ``mailbox_bytes``: told
    messages, then the overflow rule.  ``send_high_water``: bytes queued for the peer before ``send``
    waits.  ``max_body``: bytes of the body of one HTTP request, then 413; Robyn keeps three times as many
    in memory.
    """

    max_message: int | None = 1024 * 1024
    max_fragments: int | None = 1024
    inbound_messages: int = 32
    inbound_bytes: int = 2 * 1024 * 1024
    mailbox_messages: int = 1024
    mailbox_bytes: int = 1024 * 1024
    send_high_water: int = 64 * 1024
    send_limit: int | None = 1024 * 1024
    send_stall: float | None = 10.0
    control_rate: float | None = 20.0
    control_burst: int = 40
    message_rate: float | None = None
    message_burst: int = 200
    compression: bool = False
    max_body: int | None = 128 * 1024 * 1024

    def __post_init__(self) -> None:
        for option in ("max_message", "max_fragments", "send_limit", "max_body"):
            check_count(option, getattr(self, option))
        for option in (
            "inbound_messages",
            "inbound_bytes",
            "mailbox_messages",
            "mailbox_bytes",
            "send_high_water",
            "control_burst",
        ):
            check_count(option, getattr(self, option), off=False)
        check_count("message_burst", self.message_burst, least=3, off=False)  # see ``InboundRate``
        for option in ("control_rate", "message_rate"):
            check_rate(option, getattr(self, option))
        check_seconds("send_stall", self.send_stall)
        if not isinstance(self.compression, bool):
            raise TypeError(f"compression: True or False, not {self.compression!r}")


class OnCrash(Enum):
    """What a crash of a connection actor means."""

    CLOSE = "close"
    """1011 with an empty reason; no restart."""
    RESUME = "resume"
    """The failing message becomes a dead letter, the state stays."""
    RESTART = "restart"
    """A new instance on the live socket."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RestartLimit:
    """At most ``count`` restarts within any ``within`` seconds (OTP's intensity and period)."""

    count: int = 5
    within: float = 30.0

    def __post_init__(self) -> None:
        check_count("count", self.count, least=0, off=False)
        check_seconds("within", self.within, off=False)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """How long a restart waits: the first not at all, then ``min(maximum, initial * factor**n)``.

    ``jitter`` is a fraction either way, clamped to ``maximum`` afterwards.  A life of ``reset_after``
    seconds makes the next crash the first again.
    """

    initial: float = 0.1
    maximum: float = 10.0
    factor: float = 2.0
    jitter: float = 0.1
    reset_after: float = 30.0

    def __post_init__(self) -> None:
        for option in ("initial", "maximum", "reset_after"):
            check_seconds(option, getattr(self, option), off=False)
        check_factor("factor", self.factor)
        check_fraction("jitter", self.jitter)


class NotGiven(Enum):
    """Says that an option was left open; ``None`` cannot, where ``None`` means something."""

    NOT_GIVEN = auto()


NOT_GIVEN = NotGiven.NOT_GIVEN
_DEFAULTS: Mapping[str, Any] = {
    "timeouts": Timeouts(),
    "heartbeat": Heartbeat(),
    "limits": Limits(),
    "crash": OnCrash.CLOSE,
    "restarts": RestartLimit(),
    "backoff": Backoff(),
    "overflow": Overflow.RAISE,
}


@final
class Policy:
    """Everything that is decided for one kind of actor; keyword-only and frozen.

    A part that is not given is taken from the next policy outwards (class, route, server), and from
    the defaults in the end.  ``heartbeat=None`` sends no pings.
    """

    __slots__ = (
        "_given",
        "backoff",
        "crash",
        "heartbeat",
        "limits",
        "overflow",
        "patience",
        "restarts",
        "timeouts",
    )
    _given: Mapping[str, Any]
    timeouts: Timeouts
    """Handshake, idle, lifetime, assembly, handler, close and teardown timeouts."""
    heartbeat: Heartbeat | None
    """Ping frames, or ``None``."""
    limits: Limits
    """Bounds in messages and bytes."""
    crash: OnCrash
    """What a crash means."""
    restarts: RestartLimit
    """How many restarts one actor may have."""
    backoff: Backoff
    """How long a restart waits."""
    overflow: Overflow
    """What happens to a told message when the mailbox is full."""
    patience: float
    """Seconds after 101 within which nothing can be due, whatever happens; follows from the others."""

    def __init__(
        self,
        *,
        timeouts: Timeouts | NotGiven = NOT_GIVEN,
        heartbeat: Heartbeat | NotGiven | None = NOT_GIVEN,
        limits: Limits | NotGiven = NOT_GIVEN,
        crash: OnCrash | NotGiven = NOT_GIVEN,
        restarts: RestartLimit | NotGiven = NOT_GIVEN,
        backoff: Backoff | NotGiven = NOT_GIVEN,
        overflow: Overflow | NotGiven = NOT_GIVEN,
    ) -> None:
        parts = {
            "timeouts": timeouts,
            "heartbeat": heartbeat,
            "limits": limits,
            "crash": crash,
            "restarts": restarts,
            "backoff": backoff,
            "overflow": overflow,
        }
        given = {part: value for part, value in parts.items() if value is not NOT_GIVEN}
        for part, value in given.items():
            expected = type(_DEFAULTS[part])
            if not isinstance(value, expected) and not (part == "heartbeat" and value is None):
                raise TypeError(f"{part}: a supervisor.{expected.__name__}, not {value!r}")
        object.__setattr__(self, "_given", given)
        for part, default in _DEFAULTS.items():
            object.__setattr__(self, part, given.get(part, default))
        limits_of_time = [self.timeouts.handler, self.timeouts.idle, self.timeouts.assembly]
        if self.timeouts.lifetime is not None:
            limits_of_time.append(self.timeouts.lifetime * (1 - LIFETIME_JITTER))
        if self.heartbeat is not None:
            limits_of_time.append(self.heartbeat.interval * (1 - self.heartbeat.jitter))
        least = min((one for one in limits_of_time if one is not None), default=math.inf)
        object.__setattr__(self, "patience", least)

    def over(self, outer: Policy | None) -> Policy:
        """This policy, with the parts of ``outer`` where this one gives none."""
        return self if outer is None else Policy(**{**outer._given, **self._given})

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name}: a Policy is frozen; make a new one")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Policy) and self._given == other._given

    def __hash__(self) -> int:
        return hash(tuple(sorted(self._given.items(), key=lambda item: item[0])))

    def __repr__(self) -> str:
        return f"Policy({', '.join(f'{part}={value!r}' for part, value in self._given.items())})"


# -- pure decisions about an open connection ---------------------------------------------------


class Facts(NamedTuple):
    """What is known about an open connection; times are seconds of one monotonic clock.

    ``lifetime_ends`` and ``next_ping`` were chosen with jitter by whoever keeps the connection.
    """

    last_received: float
    last_message: float
    lifetime_ends: float
    next_ping: float
    ping_sent: float | None
    handling_since: float | None
    assembling_since: float | None
    congested_since: float | None
    reading: bool


class Verdict(Enum):
    """What is to be done about an open connection now."""

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
    """Say what is to be done now, and when to look again at the latest."""
    timeouts, heartbeat, stall = policy.timeouts, policy.heartbeat, policy.limits.send_stall
    looks = [facts.lifetime_ends]
    if facts.lifetime_ends <= now:
        return Verdict.LIFETIME, now
    if timeouts.handler is not None:
        since = facts.handling_since
        if since is not None and since + timeouts.handler <= now:
            return Verdict.HANDLER, now
        looks.append((now if since is None else since) + timeouts.handler)
    if timeouts.idle is not None:
        if facts.last_message + timeouts.idle <= now:
            return Verdict.IDLE, now
        looks.append(facts.last_message + timeouts.idle)
    if timeouts.assembly is not None:
        since = facts.assembling_since if facts.reading else None
        if since is not None and since + timeouts.assembly <= now:
            return Verdict.ASSEMBLY, now
        looks.append((now if since is None else since) + timeouts.assembly)
    if stall is not None and facts.congested_since is not None:
        if facts.congested_since + stall <= now:
            return Verdict.STALLED, now
        looks.append(facts.congested_since + stall)
    if heartbeat is not None:
        sent = facts.ping_sent
        if sent is not None and facts.last_received > sent:
            if facts.next_ping > now:
                return Verdict.ANSWERED, now
            sent = None
        if sent is None:
            if facts.next_ping <= now:
                return Verdict.PING, now
        elif not facts.reading:
            looks.append(now + heartbeat.timeout)  # no pong can be seen: the clock stands still
        elif sent + heartbeat.timeout <= now:
            return Verdict.HEARTBEAT_LOST, now
        else:
            looks.append(sent + heartbeat.timeout)
        # An answer is only seen by a look, and the next ping follows it.
        looks.append(facts.next_ping if facts.next_ping > now else now + heartbeat.interval)
    return Verdict.NOTHING, min(looks)
