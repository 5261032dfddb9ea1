"""Policies: what a timeout, a silent peer or a crash means for one kind of actor; pure decisions.

The rules of this file:

* Everything is frozen, keyword-only and checked when it is written down; ``None`` switches off.
* A policy is given by the actor's class, by the route, or by the server: the nearest wins, part by
  part.  A part is one argument of ``Policy``.
* ``examine`` decides from facts and the time alone; it touches nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import Enum
from functools import partial
from typing import Any, final

from actors import Overflow
from actors.seconds import check_seconds as check_seconds  # for every option, here and elsewhere
from supervisor.checks import (
    NOT_GIVEN,
    NotGiven,
    check_count,
    check_factor,
    check_fraction,
    check_rate,
)

LIFETIME_JITTER = 0.1
"""How far the lifetimes of connections are spread: plus or minus this part of them."""
PATIENCE = 1.0
"""Seconds that a peer may take nothing with more queued than ``send_limit``: some long round trips."""
PARTS = 4
"""How often within the time of a verdict somebody looks whether there is progress."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Timeouts in seconds; ``None`` switches one off.

    Less than 1 KiB a second is no progress.  Time in which this process stood still is not counted.
    """

    handshake: float | None = 10.0
    """Seconds from accept to 101, and for the head of each HTTP request, then 408."""
    idle: float | None = None
    """Seconds with no data either way, no hook at work and nothing in the mailbox, then 1001; pings do
    not count."""
    lifetime: float | None = None
    """Seconds of the connection, 10 % more or less, then 1001."""
    assembly: float | None = 30.0
    """Seconds in which nothing comes of a frame or a fragmented message, then 1008, or of the body of an
    HTTP request, then 408; ten times that in all."""
    handler: float | None = 30.0
    """Seconds of one hook that neither ends nor sends anything, then 1011."""
    close: float | None = 10.0
    """Seconds in which a closing handshake does not get on, then TCP is dropped; ten times that in all."""
    teardown: float | None = 5.0
    """Seconds of each step of a teardown, then what hangs is cancelled; what is still there after that is
    left behind and reported as a leak."""

    def __post_init__(self) -> None:
        for part in fields(self):
            check_seconds(part.name, getattr(self, part.name))


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """Ping frames (RFC 6455, section 5.5.2) that find out whether the peer is still there.

    Any byte of the peer is an answer.  A peer that still has to take what was sent before the ping gives a
    sign of life by taking it: it is lost when that stands still for ``interval`` and ``timeout`` together.
    """

    interval: float = 20.0
    """Seconds between two pings."""
    timeout: float = 20.0
    """Seconds for an answer, then 1011."""
    jitter: float = 0.1
    """The part of ``interval`` by which the pings of many connections are spread, more or less."""

    def __post_init__(self) -> None:
        for option, value in (("interval", self.interval), ("timeout", self.timeout)):
            if value is None:
                raise TypeError(f"{option}: seconds; heartbeat=None switches the heartbeat off")
            check_seconds(option, value, off=False)
        check_fraction("jitter", self.jitter)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one connection, in messages and bytes; ``None`` switches one off."""

    max_message: int | None = 1024 * 1024
    """Bytes of one message, unpacked and of all its fragments, then 1009."""
    max_fragments: int | None = 1024
    """Frames of one message, then 1009."""
    inbound_messages: int = 32
    """Messages of the peer that wait in the mailbox before reading pauses."""
    inbound_bytes: int = 2 * 1024 * 1024
    """Bytes of those, before reading pauses."""
    mailbox_messages: int = 1024
    """Told messages that wait in the mailbox, then the overflow rule."""
    mailbox_bytes: int = 1024 * 1024
    """Bytes of those, then the overflow rule."""
    send_high_water: int = 64 * 1024
    """Bytes queued for the peer before ``send`` waits."""
    send_limit: int | None = 1024 * 1024
    """Bytes queued by ``publish``, which does not wait: with more than that a peer that takes nothing
    gets 1013 after one second, and one for which three times as much again is queued at once. A single
    message is queued whatever its size, and so is what one turn of the event loop publishes."""
    send_stall: float | None = 10.0
    """Seconds over ``send_high_water`` in which the peer takes less than 1 KiB a second, then 1013; a
    client of HTTP is dropped."""
    control_rate: float | None = 20.0
    """Control frames a second of the peer on average, then 1008."""
    control_burst: int = 40
    """Control frames that may come at once."""
    message_rate: float | None = None
    """Messages a second of the peer on average; then it is not read for a moment, and 1008 when that does
    not help for 10 s."""
    message_burst: int = 200
    """Messages that may come at once."""
    compression: bool = False
    """Whether permessage-deflate (RFC 7692) is agreed upon."""
    max_body: int | None = 128 * 1024 * 1024
    """Bytes of the body of one HTTP request, then 413; Robyn keeps three times as many in memory."""
    topics: int | None = 1024
    """Topics that a connection may join, then ``join`` raises ``ActorMisuse``."""

    def __post_init__(self) -> None:
        for option in ("max_message", "max_fragments", "send_limit", "max_body", "topics"):
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
    """The reaction to a crash of a connection actor."""

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
    """Restarts."""
    within: float = 30.0
    """Seconds."""

    def __post_init__(self) -> None:
        check_count("count", self.count, least=0, off=False)
        check_seconds("within", self.within, off=False)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """The wait before a restart: none before the first, then ``min(maximum, initial * factor**n)``."""

    initial: float = 0.1
    """Seconds before the second restart."""
    maximum: float = 10.0
    """Seconds, at most."""
    factor: float = 2.0
    """By which each wait is longer than the one before."""
    jitter: float = 0.1
    """The part of a wait by which it is longer or shorter, up to ``maximum``."""
    reset_after: float = 30.0
    """Seconds of a life after which the next crash is the first again."""

    def __post_init__(self) -> None:
        for option in ("initial", "maximum", "reset_after"):
            check_seconds(option, getattr(self, option), off=False)
        check_factor("factor", self.factor)
        check_fraction("jitter", self.jitter)


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
        limits_of_time = [self.timeouts.handler, self.timeouts.assembly]
        if self.timeouts.idle is not None:
            limits_of_time.append(self.timeouts.idle / PARTS)
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

    def __reduce__(self) -> tuple[Callable[[], Policy], tuple[()]]:
        return partial(Policy, **self._given), ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Policy) and self._given == other._given

    def __hash__(self) -> int:
        return hash(tuple(sorted(self._given.items(), key=lambda item: item[0])))

    def __repr__(self) -> str:
        return f"Policy({', '.join(f'{part}={value!r}' for part, value in self._given.items())})"


# -- pure decisions about an open connection ---------------------------------------------------
