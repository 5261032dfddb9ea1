"""Lifecycle events: frozen, told to every hook whatever one of them does, and written to the log."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any, get_args

import pytest

from actors import Actor, ActorRef, CloseReport, ConnectionActor, ExitReason, Initiator, Request
from actors.repeats import KINDS, LOG_INTERVAL, LOGGED_AT_ONCE, repeats
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
from tests.raw import RawClient
from tests.witness import serving, until

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


# -- what a client can bring about again and again ---------------------------------------------


class Other(Actor):
    pass


def crashed(text: str) -> ValueError:
    try:
        raise ValueError(text)
    except ValueError as error:
        return error


async def test_one_crash_again_and_again_is_ten_tracebacks_and_hides_no_other(
    ref: ActorRef, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(500):
        log_event(ActorCrashed(ref, crashed(f"number {number}")))
    assert len(caplog.records) == LOGGED_AT_ONCE

    log_event(ActorCrashed(ref, KeyError("another type")))
    try:
        raise ValueError("another place")
    except ValueError as error:
        log_event(ActorCrashed(ref, error))
    async with started(Other) as other:
        log_event(ActorCrashed(other, crashed("another class")))

    assert len(caplog.records) == LOGGED_AT_ONCE + 3


async def test_the_line_that_comes_after_five_minutes_says_how_many_did_not(
    ref: ActorRef, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(500):
        log_event(ActorCrashed(ref, crashed("again")))
    later = time.monotonic() + LOG_INTERVAL
    monkeypatch.setattr(repeats, "_clock", lambda: later)

    log_event(ActorCrashed(ref, crashed("again")))

    assert caplog.records[-1].getMessage() == f"{ref!r} crashed; 490 like it before were not logged"
    assert caplog.records[-1].exc_info


async def test_restarts_of_one_class_are_ten_lines(ref: ActorRef, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "supervisor")

    for number in range(100):
        log_event(ActorRestarted(ref, number))

    assert len(caplog.records) == LOGGED_AT_ONCE


def test_refusals_of_one_address_are_ten_lines_and_hide_no_other(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "supervisor")

    for port in range(5000, 5500):
        log_event(UpgradeRefused("/chat", f"192.0.2.1:{port}", 403, "not from here"))
    log_event(UpgradeRefused("/chat", "192.0.2.2:5000", 403, "not from here"))
    log_event(UpgradeRefused("/chat", "192.0.2.1:5000", 404, "nothing here"))

    assert len(caplog.records) == LOGGED_AT_ONCE + 2


async def test_refusals_of_more_addresses_than_are_counted_hide_no_crash(
    ref: ActorRef, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "supervisor")
    for number in range(2 * KINDS):
        log_event(UpgradeRefused("/chat", f"[2001:db8::{number:x}]:5000", 403, "not from here"))
        log_event(UpgradeRefused("/chat", f"[2001:db8::{number:x}]:5001", 403, "not from here"))
    assert len(caplog.records) == 2 * KINDS + LOGGED_AT_ONCE

    for _ in range(3):
        log_event(ActorCrashed(ref, crashed("seen")))

    assert len(caplog.records) == 2 * KINDS + LOGGED_AT_ONCE + 3


def test_a_line_shows_no_more_than_the_begin_of_a_path(logged: Callable[[Event], logging.LogRecord]) -> None:
    path = "/" + "x" * 8000

    refused = logged(UpgradeRefused(path, "192.0.2.1:5000", 404, "y" * 8000))
    closed = logged(replace(CLOSED, path=path))

    assert len(refused.getMessage()) < 700
    assert "'/xxx" in refused.getMessage()
    assert len(closed.getMessage()) < 500
    assert closed.__dict__["path"] == path[:256]


def test_a_line_names_ten_leaks_and_counts_the_others(logged: Callable[[Event], logging.LogRecord]) -> None:
    record = logged(replace(CLOSED, leaks=tuple(f"task {number}" for number in range(1000))))

    assert record.getMessage().endswith(
        "LEAKED: " + ", ".join(f"task {n}" for n in range(10)) + ", and 990 more"
    )


async def test_a_hook_that_always_fails_is_ten_tracebacks(caplog: pytest.LogCaptureFixture) -> None:
    def failing(event: Event) -> None:
        raise ValueError(event)

    for _ in range(100):
        tell([failing], ServerStopped())

    assert len(caplog.records) == LOGGED_AT_ONCE


class Crashing(ConnectionActor):
    @classmethod
    async def on_upgrade(cls, request: Request) -> None:
        if "no" in request.query_params:
            raise ValueError("no upgrade")

    async def on_message(self, message: str) -> None:
        raise ValueError(message)


async def test_one_client_that_crashes_again_and_again_fills_no_log(caplog: pytest.LogCaptureFixture) -> None:
    async with serving({"/": Crashing}) as (server, witness):
        for _ in range(30):
            client = await RawClient.dial(server)
            await client.request("/")
            await client.send("boom")
            assert await client.answer_close() == (1011, "")
            client.close()
            refused = await RawClient.dial(server)
            assert await refused.request("/?no") == 500
            refused.close()
        await until(lambda: len(witness.crashes) == 30)

    assert sum(record.exc_info is not None for record in caplog.records) == 2 * LOGGED_AT_ONCE
