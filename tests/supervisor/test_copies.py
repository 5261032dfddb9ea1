"""Options, specs, reports and events are values: they can be copied, pickled and made JSON of."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import asdict
from typing import Any

import pytest

from actors import (
    Actor,
    CloseReport,
    ConnectionClosing,
    Down,
    ExitReason,
    Initiator,
    Refusal,
    Restarted,
)
from actors.testing import started
from supervisor import (
    Admission,
    Backoff,
    ChildSpec,
    DrainReport,
    Heartbeat,
    Limits,
    OnCrash,
    Policy,
    RestartLimit,
    Timeouts,
    events,
)
from supervisor.checks import NOT_GIVEN
from supervisor.connections.drain import Drain


class Service(Actor):
    """A service at module level, as pickle needs it."""


REPORT = CloseReport(
    1000, "bye", Initiator.PEER, True, (1000, "bye"), (1000, "bye"), ExitReason.NORMAL, 1.0, 0.1, 2, 3, 0
)
POLICY = Policy(timeouts=Timeouts(idle=60), heartbeat=None, crash=OnCrash.RESTART)
VALUES = [
    Policy(),
    POLICY,
    Timeouts(idle=1),
    Heartbeat(interval=5),
    Limits(max_message=10),
    RestartLimit(count=1),
    Backoff(initial=1),
    Admission(max_connections=5),
    Drain(within=5),
    DrainReport(1, 1, 0, 0, 0.5),
    ChildSpec(Service, name="service", policy=POLICY),
    Refusal(401, "no", {"A": "b"}),
    REPORT,
    NOT_GIVEN,
    *OnCrash,
    *Initiator,
    *ExitReason,
]
EVENTS = [
    events.ConnectionOpened("1", "/", "127.0.0.1", None),
    events.ConnectionClosed("1", "/", "127.0.0.1", REPORT, 0.1, ("a task",)),
    events.UpgradeRefused("/", "127.0.0.1", 403, "no"),
    events.ServerStarted(("127.0.0.1:80",)),
    events.ServerStopped(),
    events.DrainStarted(1, 2.0, 3.0),
    events.DrainProgress(1, 1, 0.5),
    events.DrainEnded(DrainReport(1, 1, 0, 0, 0.5)),
]


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
@pytest.mark.parametrize("value", [*VALUES, *EVENTS], ids=lambda value: type(value).__name__)
def test_a_value_has_copies_that_are_equal(value: Any, how: Any) -> None:
    made = how(value)

    assert made == value
    assert hasattr(made, "__dict__") or repr(made) == repr(value)


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_a_copied_policy_still_leaves_open_what_was_not_given(how: Any) -> None:
    outer = Policy(limits=Limits(max_message=7), heartbeat=Heartbeat(interval=3))

    made = how(POLICY).over(outer)

    assert made == POLICY.over(outer)
    assert (made.limits.max_message, made.heartbeat, made.timeouts.idle) == (7, None, 60)
    assert made.patience == POLICY.over(outer).patience
    assert hash(how(POLICY)) == hash(POLICY)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_is_json_as_it_is(event: Any) -> None:
    assert json.loads(json.dumps(asdict(event))) is not None


async def test_events_with_refs_are_made_dicts_of_without_copying_the_actor() -> None:
    async with started(Service) as ref:
        error = ConnectionClosing(1000, "bye", REPORT)
        for event in (
            events.ActorCrashed(ref, error),
            events.ActorRestarted(ref, 2),
            Down(ref, ExitReason.CRASH, error),
            Restarted(ref, 2, error),
        ):
            made = asdict(event)
            assert made["ref"] is ref
            assert json.dumps(made, default=repr)
        assert copy.copy(ref) is ref
        with pytest.raises(TypeError, match="belongs to this process and cannot be pickled; pass on its id"):
            pickle.dumps(ref)


def test_a_closed_connections_error_keeps_what_it_carries() -> None:
    error = pickle.loads(pickle.dumps(ConnectionClosing(1008, "no", REPORT)))

    assert (error.code, error.reason, error.report) == (1008, "no", REPORT)
