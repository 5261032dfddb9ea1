"""What a supervisor does about a child that failed: pure, from the list of children to a plan.

The rules of this file (OTP, ``supervisor``, "Supervision Principles"):

* Children are numbered in the order of their specs.  They stop in reverse order and start in order.
* ``ONE_FOR_ONE`` touches the failed child only, ``ONE_FOR_ALL`` all of them, ``REST_FOR_ONE`` the
  failed child and those after it.
* Whether a child is started again is its own restart type; a temporary sibling that had to be
  stopped is gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class Restart(Enum):
    """The rule by which a child that ended is started again (OTP, ``supervisor``, "Child specification")."""

    PERMANENT = "permanent"
    """Always."""
    TRANSIENT = "transient"
    """Only after an abnormal end."""
    TEMPORARY = "temporary"
    """Never."""


class Strategy(Enum):
    """The rule for the siblings of a child that is started again."""

    ONE_FOR_ONE = "one for one"
    """Nothing."""
    ONE_FOR_ALL = "one for all"
    """All are stopped and started with it."""
    REST_FOR_ONE = "rest for one"
    """Those after it are stopped and started with it."""


class AutoShutdown(Enum):
    """The rule by which the end of significant children ends their supervisor (OTP, "Automatic Shutdown")."""

    NEVER = "never"
    ANY_SIGNIFICANT = "any significant"
    """When one significant child ended by itself."""
    ALL_SIGNIFICANT = "all significant"
    """When the last significant child ended by itself."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Numbers of children: those to stop, in this order, and those to start again, in this order."""

    stop: tuple[int, ...]
    start: tuple[int, ...]


def restarts(restart: Restart, *, abnormal: bool) -> bool:
    """Tell whether a child with this restart type is started again after its end."""
    return restart is Restart.PERMANENT or (restart is Restart.TRANSIENT and abnormal)


def plan(strategy: Strategy, children: Sequence[Restart], failed: int) -> Plan:
    """Give what to stop and to start, now that child number ``failed`` is to be started again."""
    if strategy is Strategy.ONE_FOR_ONE:
        touched = range(failed, failed + 1)
    elif strategy is Strategy.ONE_FOR_ALL:
        touched = range(len(children))
    else:
        touched = range(failed, len(children))
    return Plan(
        stop=tuple(number for number in reversed(touched) if number != failed),
        start=tuple(
            number for number in touched if number == failed or children[number] is not Restart.TEMPORARY
        ),
    )
