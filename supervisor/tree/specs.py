"""Child specs: what a supervisor starts, and what it does when that ends (OTP's ``child_spec``)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors import Actor, ConnectionActor
from actors.seconds import check_seconds
from supervisor.checks import NOT_GIVEN, NotGiven
from supervisor.policies import Policy, RestartLimit
from supervisor.tree.strategies import AutoShutdown, Restart, Strategy

DEFAULT_LIMIT = RestartLimit(count=3, within=5.0)


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """The way to start, stop and restart one child: a service or a supervisor.

    ``actor`` is an ``Actor`` subclass, called with ``args`` for every life, or a ``Supervisor``.
    ``name`` registers a service while it lives.  ``restart``: transient by default, permanent for a
    supervisor.  ``shutdown`` are the seconds that its stop may take before its hook is cancelled (0
    cancels at once, ``None`` waits); 5 by default, ``None`` for a supervisor.  ``significant``: its
    end may end the supervisor, see ``auto_shutdown``.  ``policy`` gives handler and teardown
    timeouts, limits, overflow, restarts and backoff.

    Raises ``TypeError`` or ``ValueError`` naming the option.
    """

    actor: type[Actor] | SupervisorSpec
    name: str | None = field(default=None, kw_only=True)
    args: tuple[Any, ...] = field(default=(), kw_only=True)
    restart: Restart | None = field(default=None, kw_only=True)
    shutdown: float | NotGiven | None = field(default=NOT_GIVEN, kw_only=True)
    significant: bool = field(default=False, kw_only=True)
    policy: Policy | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.actor, SupervisorSpec):
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


class SupervisorSpec:
    """A supervisor as it is written down: what its children are and what it does about their ends.

    Raises ``TypeError`` and ``ValueError`` naming the option when it is made.
    """

    __slots__ = ("auto_shutdown", "children", "limit", "name", "policy", "strategy")

    def __init__(
        self,
        children: Sequence[ChildSpec | SupervisorSpec | type[Actor]] = (),
        *,
        strategy: Strategy = Strategy.ONE_FOR_ONE,
        limit: RestartLimit = DEFAULT_LIMIT,
        auto_shutdown: AutoShutdown = AutoShutdown.NEVER,
        policy: Policy | None = None,
        name: str | None = None,
    ) -> None:
        if not isinstance(strategy, Strategy):
            raise TypeError(f"strategy: a supervisor.Strategy, not {strategy!r}")
        if not isinstance(limit, RestartLimit):
            raise TypeError(f"limit: a supervisor.RestartLimit, not {limit!r}")
        if not isinstance(auto_shutdown, AutoShutdown):
            raise TypeError(f"auto_shutdown: a supervisor.AutoShutdown, not {auto_shutdown!r}")
        if policy is not None and not isinstance(policy, Policy):
            raise TypeError(f"policy: a supervisor.Policy, not {policy!r}")
        if not isinstance(children, Iterable):
            raise TypeError(f"children: a sequence, not {children!r}")
        if name is not None and (not isinstance(name, str) or not name):
            raise TypeError(f"name: a str that is not empty, or None, not {name!r}")
        self.children = tuple(
            child if isinstance(child, ChildSpec) else ChildSpec(child) for child in children
        )
        self.strategy = strategy
        self.limit = limit
        self.auto_shutdown = auto_shutdown
        self.policy = policy
        self.name = name
        for spec in self.children:
            self.check_significant(spec)
        for taken in self.names:
            if self.names.count(taken) > 1:
                raise ValueError(f"children: two of them are called {taken!r}; names are unique in a tree")

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the children, and of theirs."""
        return tuple(name for spec in self.children for name in spec.names)

    def check_significant(self, spec: ChildSpec) -> None:
        """Raise ``ValueError`` for a significant child of a supervisor that would not care."""
        if spec.significant and self.auto_shutdown is AutoShutdown.NEVER:
            raise ValueError(
                "significant: a significant child needs a supervisor with auto_shutdown=ANY_SIGNIFICANT or "
                "ALL_SIGNIFICANT"
            )
