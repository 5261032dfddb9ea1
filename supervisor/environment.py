"""What the supervisors of one tree share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from actors.runtime import Runtime
from supervisor.events import Hook
from supervisor.policies import Policy
from supervisor.registry import Registry
from supervisor.topics import Topics


@final
class Environment:
    """Runtime, names, topics, hooks and the outermost policy of one tree."""

    __slots__ = ("hooks", "policy", "registry", "runtime", "topics")

    def __init__(
        self, runtime: Runtime, registry: Registry, hooks: Sequence[Hook], policy: Policy | None
    ) -> None:
        self.runtime = runtime
        self.registry = registry
        self.topics = Topics(runtime)
        self.hooks = tuple(hooks)
        self.policy = policy
