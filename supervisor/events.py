"""Frozen lifecycle events, told to hooks; the log is one of them.

A hook is any function of one event.  It runs on the event loop's thread, between two tasks' turns,
and must not block; what it raises is logged and goes no further.

``json.dumps(dataclasses.asdict(event), default=repr)`` makes a line of JSON of any of them; ``default``
is for the refs and errors of ``ActorCrashed`` and ``ActorRestarted`` alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Protocol

from actors import ActorRef, CloseReport
from actors.repeats import Repeats, log_error, others, repeats

logger = logging.getLogger("supervisor")

SHOWN = 256
"""Characters of the peer's text that a line shows."""
NAMED = 10
"""Leaks that a line names."""
refusals = Repeats()
"""Lines about refusals: clients may have many addresses, which must not fill the table of crashes."""


@dataclass(frozen=True, slots=True)
class ConnectionOpened:
    """101 went out."""

    id: str
    path: str
    client: str
    subprotocol: str | None


@dataclass(frozen=True, slots=True)
class ConnectionClosed:
    """A connection ended and is torn down; ``teardown`` are seconds, ``leaks`` what would not end."""

    id: str
    path: str
    client: str
    report: CloseReport
    teardown: float
    leaks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class UpgradeRefused:
    """A request was answered with an HTTP status instead of 101."""

    path: str
    client: str
    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class ActorCrashed:
    """A hook, a task or a resource of an actor raised ``error``."""

    ref: ActorRef
    error: BaseException


@dataclass(frozen=True, slots=True)
class ActorRestarted:
    """A new life follows the crash of ``ref``; a connection keeps its ref, a service gets a new one."""

    ref: ActorRef
    incarnation: int


@dataclass(frozen=True, slots=True)
class ServerStarted:
    """The listeners are open: ``addresses`` as people write them."""

    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ServerStopped:
    """Everything has ended."""


@dataclass(frozen=True, slots=True)
class DrainStarted:
    """The server refuses upgrades from now on, and closes ``connections`` within ``spread`` seconds.

    What is left after ``within`` seconds will be aborted.
    """

    connections: int
    within: float
    spread: float


@dataclass(frozen=True, slots=True)
class DrainProgress:
    """``left`` of ``connections`` are still there after ``seconds``."""

    connections: int
    left: int
    seconds: float


@dataclass(frozen=True, slots=True)
class DrainEnded:
    """No connection is left; ``report`` says how they ended."""

    report: DrainReport


Event = (
    ConnectionOpened
    | ConnectionClosed
    | UpgradeRefused
    | ActorCrashed
    | ActorRestarted
    | ServerStarted
    | ServerStopped
    | DrainStarted
    | DrainProgress
    | DrainEnded
)


class Hook(Protocol):
    """A callable that is told every lifecycle event."""

    def __call__(self, event: Event, /) -> None:
        """Take note of ``event``."""


def log_event(event: Event, /) -> None:
    """The hook that writes the log: logger ``supervisor``, one line an event.

    Text of the peer (path, reason) is written as a Python literal, so that it cannot forge lines, and no
    more than 256 characters of a path.  What a client can bring about again and again is written ten
    times, then once in five minutes with how often it was not: crashes with one type of error at one
    place of one class, restarts of one class, refusals of one address with one status.
    """
    if isinstance(event, ConnectionClosed):
        _log_closed(event)
    elif isinstance(event, ActorCrashed):
        log_error(logger, event.error, event.ref._cell.kind, "%r crashed", event.ref)
    elif isinstance(event, ActorRestarted):
        _log_restarted(event)
    elif isinstance(event, UpgradeRefused):
        _log_refused(event)
    elif isinstance(event, ServerStarted):
        logger.info("listening on %s", ", ".join(event.addresses))
    elif isinstance(event, ConnectionOpened):
        logger.debug("connection %s %r from %s opened", event.id, event.path, event.client)
    elif isinstance(event, DrainStarted):
        logger.info(
            "drain: closing %d connections, spread over %g s, all gone within %g s",
            event.connections,
            event.spread,
            event.within,
        )
    elif isinstance(event, DrainProgress):
        logger.info(
            "drain: %d of %d connections left after %.1f s", event.left, event.connections, event.seconds
        )
    elif isinstance(event, DrainEnded):
        report = event.report
        logger.info(
            "drain: %d connections ended in %.1f s: %d clean, %d timed out, %d aborted",
            report.total,
            report.seconds,
            report.clean,
            report.timed_out,
            report.aborted,
        )
    else:
        logger.info("stopped")


def _log_restarted(event: ActorRestarted) -> None:
    left_out = repeats.due(("restarted", event.ref._cell.kind))
    if left_out is not None:
        logger.info("%r: incarnation %d follows%s", event.ref, event.incarnation, others(left_out))


def _log_refused(event: UpgradeRefused) -> None:
    address = event.client.rpartition(":")[0]
    left_out = refusals.due((event.status, address))
    if left_out is not None:
        logger.info(
            "upgrade of %s from %s refused with %d %s%s",
            _cut(event.path),
            event.client,
            event.status,
            _cut(event.reason),
            others(left_out),
        )


def _cut(text: str) -> str:
    """``text`` of the peer's as a literal, of no more than 256 characters."""
    return repr(text) if len(text) <= SHOWN else f"{text[:SHOWN]!r}..."


def level_of_end(leaks: Sequence[str], *, clean: bool) -> int:
    """Give the log level of the end of a connection."""
    return logging.INFO if clean and not leaks else logging.WARNING


def _log_closed(event: ConnectionClosed) -> None:
    report = event.report
    level = level_of_end(event.leaks, clean=report.clean)
    if not logger.isEnabledFor(level):
        return
    details = {
        "connection_id": event.id,
        "path": event.path[:SHOWN],
        "client": event.client,
        "initiator": report.initiator.value,
        "code": report.code,
        "reason": report.reason,
        "clean": report.clean,
        "exit_reason": report.exit_reason.value,
        "opened_for": report.opened_for,
        "handshake_took": report.handshake_took,
        "messages_in": report.messages_in,
        "messages_out": report.messages_out,
        "undelivered": report.undelivered,
        "teardown": event.teardown,
        "leaks": event.leaks,
    }
    logger.log(
        level,
        "connection %s %s from %s closed by %s with %d %r, %s (%s): "
        "open %.3f s, %d in, %d out, teardown %.3f s%s",
        event.id,
        _cut(event.path),
        event.client,
        report.initiator.value,
        report.code,
        report.reason,
        "clean" if report.clean else "unclean",
        report.exit_reason.value,
        report.opened_for,
        report.messages_in,
        report.messages_out,
        event.teardown,
        f", LEAKED: {_names(event.leaks)}" if event.leaks else "",
        extra=details,
    )


def _names(leaks: Sequence[str]) -> str:
    more = f", and {len(leaks) - NAMED} more" if len(leaks) > NAMED else ""
    return ", ".join(leaks[:NAMED]) + more


def check_hooks(hooks: Sequence[Hook]) -> tuple[Hook, ...]:
    """Raise ``TypeError`` for what is no hook; an async function is none, since nobody would await it."""
    if not isinstance(hooks, Iterable):
        raise TypeError(f"hooks: a list of functions of one event, not {hooks!r}")
    for hook in hooks:
        if not callable(hook) or iscoroutinefunction(hook):
            raise TypeError(f"hooks: plain functions of one event, {hook!r} is none")
    return tuple(hooks)


def heard(hooks: Sequence[Hook], level: int) -> bool:
    """Tell whether anybody takes note of an event that the log writes at ``level``; making one costs."""
    return bool(hooks) and (hooks != _LOG_ALONE or logger.isEnabledFor(level))


_LOG_ALONE = (log_event,)


def tell(hooks: Sequence[Hook], event: Event) -> None:
    """Give ``event`` to every hook."""
    for hook in hooks:
        try:
            hook(event)
        except BaseException as error:  # also SystemExit: it would end the teardown that tells the event
            log_error(logger, error, "hook", "the hook %r failed", hook)


__all__ = [
    "ActorCrashed",
    "ActorRestarted",
    "ConnectionClosed",
    "ConnectionOpened",
    "DrainEnded",
    "DrainProgress",
    "DrainStarted",
    "Event",
    "Hook",
    "ServerStarted",
    "ServerStopped",
    "UpgradeRefused",
    "check_hooks",
    "heard",
    "log_event",
    "tell",
]


@dataclass(frozen=True, slots=True)
class DrainReport:
    """The outcome of a drain: connections at its begin, and how they ended; ``seconds`` it took.

    ``clean``: with both Close frames.  ``timed_out``: without, before the deadline of the drain.
    ``aborted``: dropped at the deadline.
    """

    total: int
    clean: int
    timed_out: int
    aborted: int
    seconds: float
