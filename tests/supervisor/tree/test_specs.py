"""Child specs: what is filled in, what is refused, and that nothing can be changed afterwards."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

from actors import Actor, ConnectionActor
from supervisor import AutoShutdown, ChildSpec, Policy, Restart, Supervisor


class Clock(Actor):
    pass


class Socket(ConnectionActor):
    pass


BRANCH = Supervisor([ChildSpec(Clock, name="clock")], name="branch")


@pytest.mark.parametrize(
    ("spec", "restart", "shutdown", "name"),
    [
        (ChildSpec(Clock), Restart.TRANSIENT, 5.0, None),
        (ChildSpec(BRANCH), Restart.PERMANENT, None, "branch"),
        (ChildSpec(Clock, restart=Restart.TEMPORARY, shutdown=0), Restart.TEMPORARY, 0, None),
        (ChildSpec(Clock, shutdown=None, name="clock"), Restart.TRANSIENT, None, "clock"),
        (
            ChildSpec(BRANCH, restart=Restart.TRANSIENT, shutdown=2.5, name="other"),
            Restart.TRANSIENT,
            2.5,
            "other",
        ),
    ],
)
def test_what_is_left_open_is_filled_in_for_a_service_and_for_a_branch(
    spec: ChildSpec, restart: Restart, shutdown: float | None, name: str | None
) -> None:
    assert (spec.restart, spec.shutdown_seconds, spec.name) == (restart, shutdown, name)


def test_the_names_of_a_branch_are_its_own_and_those_below_it() -> None:
    assert ChildSpec(BRANCH).names == ("branch", "clock")
    assert ChildSpec(Clock).names == ()


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"name": ""}, TypeError, "^name: "),
        ({"name": 7}, TypeError, "^name: "),
        ({"args": ["a"]}, TypeError, "^args: "),
        ({"args": "ab"}, TypeError, "^args: "),
        ({"restart": "permanent"}, TypeError, "^restart: "),
        ({"restart": True}, TypeError, "^restart: "),
        ({"shutdown": -0.1}, ValueError, "^shutdown: "),
        ({"shutdown": math.nan}, ValueError, "^shutdown: "),
        ({"shutdown": math.inf}, ValueError, "^shutdown: "),
        ({"shutdown": True}, TypeError, "^shutdown: "),
        ({"shutdown": "5"}, TypeError, "^shutdown: "),
        ({"policy": {}}, TypeError, "^policy: "),
        ({"significant": 1}, TypeError, "^significant: "),
        ({"significant": None}, TypeError, "^significant: "),
        ({"restart": Restart.PERMANENT, "significant": True}, ValueError, "^significant: "),
    ],
    ids=str,
)
def test_an_option_that_cannot_work_is_named(
    options: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        ChildSpec(Clock, **options)


@pytest.mark.parametrize("actor", [Clock(), "Clock", None, int, Socket, ChildSpec(Clock)], ids=str)
def test_what_is_neither_an_actor_class_nor_a_supervisor_is_no_child(actor: Any) -> None:
    with pytest.raises(TypeError, match=r"^actor: "):
        ChildSpec(actor)


@pytest.mark.parametrize("options", [{"args": (1,)}, {"policy": Policy()}], ids=str)
def test_a_branch_has_arguments_and_a_policy_of_its_own(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^args, policy: a Supervisor has its own"):
        ChildSpec(BRANCH, **options)


def test_a_branch_is_permanent_and_so_not_significant_unless_it_says_otherwise() -> None:
    with pytest.raises(ValueError, match=r"^significant: a permanent child never ends by itself"):
        ChildSpec(BRANCH, significant=True)

    assert ChildSpec(BRANCH, significant=True, restart=Restart.TRANSIENT).significant


def test_a_significant_child_needs_a_supervisor_that_cares() -> None:
    significant = ChildSpec(Clock, significant=True)

    with pytest.raises(ValueError, match=r"^significant: a significant child needs a supervisor with "):
        Supervisor([significant])
    for auto_shutdown in (AutoShutdown.ANY_SIGNIFICANT, AutoShutdown.ALL_SIGNIFICANT):
        assert Supervisor([significant], auto_shutdown=auto_shutdown).children == (significant,)


def test_a_spec_is_frozen() -> None:
    spec = ChildSpec(Clock)

    for field in fields(spec):
        with pytest.raises(FrozenInstanceError):
            setattr(spec, field.name, None)
