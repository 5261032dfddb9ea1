"""Child specs: what a supervisor starts, and what it does when that ends (OTP's ``child_spec``)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from actors import Actor, ConnectionActor
from supervisor.policies import Policy, check_seconds


class Restart(Enum):
    """When a child that ended is started again (OTP, ``supervisor``, "Restart")."""

    PERMANENT = "permanent"
    """Always."""
    TRANSIENT = "transient"
    """Only after an abnormal end."""
    TEMPORARY = "temporary"
    """Never."""


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """How to start, stop and restart one service.

    ``actor`` is an ``Actor`` subclass, called with ``args``.  ``name`` registers it.  ``shutdown``
    are the seconds that its stop may take (0 cancels at once, ``None`` waits).  Raises ``TypeError``
    or ``ValueError`` naming the option.
    """

    actor: type[Actor]
    name: str | None = field(default=None, kw_only=True)
    args: tuple[Any, ...] = field(default=(), kw_only=True)
    restart: Restart = field(default=Restart.TRANSIENT, kw_only=True)
    shutdown: float | None = field(default=5.0, kw_only=True)
    significant: bool = field(default=False, kw_only=True)
    policy: Policy | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not (isinstance(self.actor, type) and issubclass(self.actor, Actor)):
            raise TypeError(f"actor: a subclass of actors.Actor, not {self.actor!r}")
        if issubclass(self.actor, ConnectionActor):
            raise TypeError(f"actor: {self.actor.__name__} needs a WebSocket; give it a route instead")
        if not isinstance(self.restart, Restart):
            raise TypeError(f"restart: a supervisor.Restart, not {self.restart!r}")
        if self.significant and self.restart is Restart.PERMANENT:
            raise ValueError("significant: a permanent child never ends, so its end cannot be significant")
        check_seconds("shutdown", self.shutdown, zero=True)
