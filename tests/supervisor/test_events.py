"""Lifecycle events: frozen, told to every hook whatever one of them does, and written to the log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any, get_args

import pytest

from actors import Actor, ActorRef, CloseReport, ExitReason, Initiator
from actors.testing import started
from supervisor import DrainReport
from supervisor.events import (
    ActorCrashed,
    ActorRestarted,
    ConnectionClosed,
    ConnectionOpened,
    DrainEnded,
    DrainProgress,
    DrainStarted,
    Event,
    Hook,
    ServerStarted,
    ServerStopped,
    UpgradeRefused,
    heard,
    log_event,
    tell,
)

REPORT = CloseReport(
    code=1008,
    reason="Session expired",
    initiator=Initiator.LOCAL,
    clean=True,
    sent=(1008, "Session expired"),
    received=(1008, "Session expired"),
    exit_reason=ExitReason.POLICY_VIOLATION,
    opened_for=12.3456,
    handshake_took=0.25,
    messages_in=7,
    messages_out=8,
    undelivered=2,
)
CLOSED = ConnectionClosed("c0ffee", "/chat", "192.0.2.1:5000", REPORT, teardown=0.0125)
EVENTS: list[Event] = [
    ConnectionOpened("c0ffee", "/chat", "192.0.2.1:5000", "chat.json"),
    CLOSED,
    UpgradeRefused("/chat", "192.0.2.1:5000", 401, "token required"),
    ServerStarted(("127.0.0.1:8080", "unix:/run/chat")),
    ServerStopped(),
    DrainStarted(5, 30.0, 10.0),
    DrainProgress(5, 2, 1.5),
    DrainEnded(DrainReport(total=5, clean=3, timed_out=1, aborted=1, seconds=12.3)),
]


@pytest.fixture
async def ref() -> AsyncIterator[ActorRef]:
    async with started(Actor) as ref:
        await ref.ask("are you there?")
        yield ref


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[Event], logging.LogRecord]:
    """Log one event and give its record, the only one."""
    caplog.set_level(logging.DEBUG, "supervisor")

    def log(event: Event) -> logging.LogRecord:
        caplog.clear()
        log_event(event)
        (record,) = caplog.records
        return record

    return log


Logged = Callable[[Event], logging.LogRecord]


async def test_every_event_is_frozen_and_has_no_room_for_anything_else(ref: ActorRef) -> None:
    every = [*EVENTS, ActorCrashed(ref, ValueError()), ActorRestarted(ref, 2)]

    assert {type(event) for event in every} == set(get_args(Event))
    for event in every:
        for field in fields(event):
            with pytest.raises(FrozenInstanceError):
                setattr(event, field.name, None)
        assert not hasattr(event, "__dict__")


# -- the log -----------------------------------------------------------------------------------


def test_the_end_of_a_connection_is_one_line_with_everything(logged: Logged) -> None:
    record = logged(CLOSED)

    assert record.name == "supervisor"
    assert record.levelno == logging.INFO
    assert record.getMessage() == (
        "connection c0ffee '/chat' from 192.0.2.1:5000 closed by local with 1008 'Session expired', "
        "clean (policy violation): open 12.346 s, 7 in, 8 out, teardown 0.013 s"
    )


def test_the_end_of_a_connection_has_structured_fields_of_every_fact(logged: Logged) -> None:
    record = logged(CLOSED)

    plain = logging.LogRecord("supervisor", 0, "", 0, "", None, None)
    assert {name: value for name, value in vars(record).items() if name not in vars(plain)} == {
        "message": record.getMessage(),
        "connection_id": "c0ffee",
        "path": "/chat",
        "client": "192.0.2.1:5000",
        "initiator": "local",
        "code": 1008,
        "reason": "Session expired",
        "clean": True,
        "exit_reason": "policy violation",
        "opened_for": 12.3456,
        "handshake_took": 0.25,
        "messages_in": 7,
        "messages_out": 8,
        "undelivered": 2,
        "teardown": 0.0125,
        "leaks": (),
    }


@pytest.mark.parametrize("initiator", Initiator)
@pytest.mark.parametrize("exit_reason", ExitReason)
def test_every_way_to_end_can_be_logged(
    logged: Logged, initiator: Initiator, exit_reason: ExitReason
) -> None:
    event = replace(CLOSED, report=replace(REPORT, initiator=initiator, exit_reason=exit_reason))

    message = logged(event).getMessage()

    assert f" closed by {initiator.value} with " in message
    assert f"({exit_reason.value})" in message


@pytest.mark.parametrize(
    ("event", "level", "part"),
    [
        (CLOSED, logging.INFO, "clean"),
        (replace(CLOSED, report=replace(REPORT, clean=False)), logging.WARNING, "unclean"),
        (
            replace(CLOSED, leaks=("on_close of Chat", "a task of Chat")),
            logging.WARNING,
            ", LEAKED: on_close of Chat, a task of Chat",
        ),
    ],
)
def test_what_is_unclean_or_leaks_is_a_warning(logged: Logged, event: Event, level: int, part: str) -> None:
    record = logged(event)

    assert record.levelno == level
    assert part in record.getMessage()


async def test_a_crash_is_an_error_with_its_traceback(logged: Logged, ref: ActorRef) -> None:
    error = ValueError("the actor's own fault")

    record = logged(ActorCrashed(ref, error))

    assert record.levelno == logging.ERROR
    assert record.getMessage() == "<ActorRef Actor Actor> crashed"
    assert record.exc_info is not None
    assert record.exc_info[1] is error


@pytest.mark.parametrize(
    ("event", "level", "message"),
    [
        (EVENTS[0], logging.DEBUG, "connection c0ffee '/chat' from 192.0.2.1:5000 opened"),
        (
            EVENTS[2],
            logging.INFO,
            "upgrade of '/chat' from 192.0.2.1:5000 refused with 401 'token required'",
        ),
        (EVENTS[3], logging.INFO, "listening on 127.0.0.1:8080, unix:/run/chat"),
        (EVENTS[4], logging.INFO, "stopped"),
        (EVENTS[5], logging.INFO, "drain: closing 5 connections, spread over 10 s, all gone within 30 s"),
        (EVENTS[6], logging.INFO, "drain: 2 of 5 connections left after 1.5 s"),
        (
            EVENTS[7],
            logging.INFO,
            "drain: 5 connections ended in 12.3 s: 3 clean, 1 timed out, 1 aborted",
        ),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, (int, str)) else "",
)
def test_the_other_events_are_one_line_each(logged: Logged, event: Event, level: int, message: str) -> None:
    record = logged(event)

    assert (record.levelno, record.getMessage()) == (level, message)


async def test_a_restart_says_which_incarnation_follows(logged: Logged, ref: ActorRef) -> None:
    record = logged(ActorRestarted(ref, 2))

    assert record.getMessage() == "<ActorRef Actor Actor>: incarnation 2 follows"


FORGED = "bye\nERROR supervisor: on fire \x1b[31m\u2028\x85\r"


@pytest.mark.parametrize(
    "event",
    [
        replace(CLOSED, path=FORGED, report=replace(REPORT, reason=FORGED)),
        ConnectionOpened("c0ffee", FORGED, "192.0.2.1:5000", FORGED),
        UpgradeRefused(FORGED, "192.0.2.1:5000", 404, FORGED),
    ],
)
def test_text_of_the_peer_cannot_forge_a_line(logged: Logged, event: Event) -> None:
    assert logged(event).getMessage().isprintable()


# -- hooks -------------------------------------------------------------------------------------


class OwnError(BaseException):
    """Not even an Exception."""


@pytest.mark.parametrize(
    "error", [ValueError, OwnError, SystemExit, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit]
)
def test_what_a_hook_raises_is_logged_and_the_others_are_told(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    before: list[Any] = []
    behind: list[Any] = []

    def failing(event: Event) -> None:
        raise error("a hook's own fault")

    tell([before.append, failing, behind.append], CLOSED)

    assert before == behind == [CLOSED]
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "failing" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[0] is error


def test_hooks_are_told_in_their_order() -> None:
    told: list[str] = []

    tell([lambda event: told.append("first"), lambda event: told.append("second")], CLOSED)

    assert told == ["first", "second"]


@pytest.mark.parametrize(
    ("hooks", "level", "wanted"),
    [
        ([log_event], logging.DEBUG, False),
        ([log_event], logging.INFO, True),
        ([], logging.DEBUG, False),
        ([lambda _: None], logging.DEBUG, True),
        ([log_event, lambda _: None], logging.DEBUG, True),
    ],
)
def test_an_event_that_only_a_silent_log_would_get_is_not_made(
    hooks: list[Hook], level: int, wanted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="supervisor")

    assert heard(tuple(hooks), level) is wanted
