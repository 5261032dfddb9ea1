"""Child specs: what a supervisor starts, and what it does when that ends (OTP's ``child_spec``)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from actors import Actor, ConnectionActor
from supervisor.policies import NOT_GIVEN, NotGiven, Policy, check_seconds
from supervisor.strategies import Restart

if TYPE_CHECKING:
    from supervisor.tree import Supervisor


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """How to start, stop and restart one child: a service or a supervisor.

    ``actor`` is an ``Actor`` subclass, called with ``args`` for every life, or a ``Supervisor``.
    ``name`` registers a service while it lives.  ``restart``: transient by default, permanent for a
    supervisor.  ``shutdown`` are the seconds that its stop may take before its hook is cancelled (0
    cancels at once, ``None`` waits); 5 by default, ``None`` for a supervisor.  ``significant``: its
    end may end the supervisor, see ``auto_shutdown``.  ``policy`` gives handler and teardown
    timeouts, limits, overflow, restarts and backoff.

    Raises ``TypeError`` or ``ValueError`` naming the option.
    """

    actor: type[Actor] | Supervisor
    name: str | None = field(default=None, kw_only=True)
    args: tuple[Any, ...] = field(default=(), kw_only=True)
    restart: Restart | None = field(default=None, kw_only=True)
    shutdown: float | NotGiven | None = field(default=NOT_GIVEN, kw_only=True)
    significant: bool = field(default=False, kw_only=True)
    policy: Policy | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        from supervisor.tree import Supervisor  # it imports this module

        if not isinstance(self.actor, Supervisor):
            self._check_actor()
            default = Restart.TRANSIENT
        elif self.args or self.policy is not None:
            raise ValueError("args, policy: a Supervisor has its own; give them to the Supervisor")
        else:
            default = Restart.PERMANENT
            if self.name is None:
                object.__setattr__(self, "name", self.actor.name)
        if self.restart is None:
            object.__setattr__(self, "restart", default)
        if not isinstance(self.restart, Restart):
            raise TypeError(f"restart: a supervisor.Restart, not {self.restart!r}")
        if not isinstance(self.args, tuple):
            raise TypeError(f"args: a tuple of arguments, not {self.args!r}")
        if self.name is not None and (not isinstance(self.name, str) or not self.name):
            raise TypeError(f"name: a str that is not empty, or None, not {self.name!r}")
        if self.policy is not None and not isinstance(self.policy, Policy):
            raise TypeError(f"policy: a supervisor.Policy, not {self.policy!r}")
        if not isinstance(self.significant, bool):
            raise TypeError(f"significant: True or False, not {self.significant!r}")
        if self.significant and self.restart is Restart.PERMANENT:
            raise ValueError(
                "significant: a permanent child never ends by itself, so it cannot be significant"
            )
        check_seconds("shutdown", self.shutdown_seconds, zero=True)

    @property
    def shutdown_seconds(self) -> float | None:
        """The seconds that a stop may take, the default filled in."""
        if isinstance(self.shutdown, NotGiven):
            return 5.0 if isinstance(self.actor, type) else None
        return self.shutdown

    @property
    def names(self) -> tuple[str, ...]:
        """Its name, and those of the children below a supervisor."""
        own = () if self.name is None else (self.name,)
        return own if isinstance(self.actor, type) else own + self.actor.names

    def _check_actor(self) -> None:
        if not (isinstance(self.actor, type) and issubclass(self.actor, Actor)):
            raise TypeError(f"actor: a subclass of actors.Actor or a Supervisor, not {self.actor!r}")
        if issubclass(self.actor, ConnectionActor):
            raise TypeError(f"actor: {self.actor.__name__} needs a WebSocket; give it a route instead")
