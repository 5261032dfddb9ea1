"""``Supervisor``: the tree as it is written down, run around a block, and seen from the block.

What a supervisor does at work is in ``node``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import final

from actors import Actor, ActorRef, ExitReason
from actors.errors import ActorMisuse
from supervisor.description import Description
from supervisor.environment import Environment
from supervisor.events import Hook, check_hooks, log_event
from supervisor.policies import Policy, RestartLimit
from supervisor.registry import Registry
from supervisor.tree.lifespan import Host, hosted
from supervisor.tree.node import Node
from supervisor.tree.specs import DEFAULT_LIMIT, ChildSpec, SupervisorSpec
from supervisor.tree.strategies import AutoShutdown, Strategy


@final
class Supervisor(SupervisorSpec):
    """A supervisor: what its children are and what it does about their ends.

    By itself it runs around a block, in any asyncio or trio program::

        async with Supervisor([ChildSpec(Clock, name="clock")]) as tree:
            tree.registry["clock"].tell("tick")

    As a child of another one (``ChildSpec(Supervisor(...))`` or just the ``Supervisor``) it makes a
    branch.  ``children`` are ``ChildSpec``s, ``Supervisor``s, or ``Actor`` subclasses, in start order.
    ``limit`` is its restart budget over all children; a child's own is its policy's.  ``policy`` is
    for what the children's leave open.  ``hooks`` count at the root only.  With ``auto_shutdown`` the
    end of significant children ends it, and at the root the block: cancelled, and left without an error.

    Raises ``TypeError`` and ``ValueError`` naming the option when it is made.  The block raises
    ``ChildStartFailed`` when a child cannot be started, and ``RestartLimitReached`` when the budget
    is spent; an error of the block keeps its type.
    """

    __slots__ = ("_running", "hooks")

    def __init__(
        self,
        children: Sequence[ChildSpec | SupervisorSpec | type[Actor]] = (),
        *,
        strategy: Strategy = Strategy.ONE_FOR_ONE,
        limit: RestartLimit = DEFAULT_LIMIT,
        auto_shutdown: AutoShutdown = AutoShutdown.NEVER,
        policy: Policy | None = None,
        name: str | None = None,
        hooks: Sequence[Hook] = (log_event,),
    ) -> None:
        super().__init__(
            children, strategy=strategy, limit=limit, auto_shutdown=auto_shutdown, policy=policy, name=name
        )
        self.hooks = check_hooks(hooks)
        self._running: AbstractAsyncContextManager[Tree] | None = None

    async def __aenter__(self) -> Tree:
        if self._running is not None:
            raise ActorMisuse("this Supervisor runs already; make another one for another block")
        self._running = self._run()
        return await self._running.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        running, self._running = self._running, None
        assert running is not None, "left without having been entered"
        return await running.__aexit__(kind, error, traceback)

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[Tree]:
        root: Root | None = None

        async def start(host: Host) -> None:
            nonlocal root
            root = Root(Environment(host.runtime, Registry(), self.hooks, None), self, host.end)
            await root.start()

        async def stop() -> None:
            if root is not None:
                await root.stop()

        async with hosted(start, stop):
            assert root is not None, "the block runs after the start"
            yield root.tree


@final
class Root:
    """The root of a tree at work: its fate is the host's."""

    __slots__ = ("_ended", "_environment", "_parker", "node", "tree")

    def __init__(
        self,
        environment: Environment,
        supervisor: SupervisorSpec,
        ended: Callable[[BaseException | None], None],
        describe_beside: Callable[[], Description] | None = None,
    ) -> None:
        self._environment = environment
        self._ended = ended
        self._parker = environment.runtime.backend.parker()
        self.node = Node(
            environment, supervisor, environment.policy, on_started=self._parker.wake, on_exit=self._exited
        )
        self.tree = Tree(environment, self.node, describe_beside)

    async def start(self) -> None:
        """Start the children; raises ``ChildStartFailed``."""
        node = self.node
        node.when_stopped(self._parker.wake)
        self._environment.runtime.spawn(node.run, name="root supervisor")
        await self._environment.runtime.wait(self._parker, lambda: node.started or node.stopped, None)
        if node.stopped and node.error is not None:
            raise node.error

    async def stop(self) -> None:
        """Stop the children in reverse order."""
        node = self.node
        node.exit_with(ExitReason.SHUTDOWN)
        await self._environment.runtime.wait(self._parker, lambda: node.stopped, None)

    def _exited(self, node: Node) -> None:
        self._ended(node.error)


@final
class Tree:
    """A running tree, as a block sees it; made by ``Supervisor`` and ``serve``."""

    __slots__ = ("_describe_beside", "_environment", "_root")

    def __init__(
        self, environment: Environment, root: Node, describe_beside: Callable[[], Description] | None
    ) -> None:
        self._environment = environment
        self._root = root
        self._describe_beside = describe_beside

    @property
    def registry(self) -> Registry:
        """The live actors by name and id."""
        return self._environment.registry

    async def start_child(self, spec: ChildSpec) -> ActorRef:
        """Start a service behind the others, and give its ref once ``on_start`` has run.

        It is stopped, restarted and counted like the static children, and forgotten when it has ended
        for good.  Raises ``ChildStartFailed``, ``ValueError`` for a name that is taken, and
        ``ActorStopped`` when the tree ends.  One that is cancelled leaves no child: an ``on_start`` that
        runs is cancelled.
        """
        if not isinstance(spec, ChildSpec):
            raise TypeError(f"spec: a supervisor.ChildSpec, not {spec!r}")
        if not isinstance(spec.actor, type):
            raise ValueError("spec: only services are started by hand; give a Supervisor in children")
        return await self._root.start_child(spec)

    async def stop_child(self, ref: ActorRef) -> None:
        """Stop a service, or the restart that it waits for, and forget its spec.

        ``ref`` may be that of any of its lives.  Nothing happens when it is forgotten already, and the
        stop goes on when this is cancelled.  Raises ``ValueError`` for an actor that is no child of the root.
        """
        await self._root.stop_child(ref)

    def publish(self, topic: str, message: object) -> None:
        """Give ``message`` to every member of ``topic``; from any thread."""
        self._environment.topics.publish(topic, message)

    def describe(self) -> Description:
        """The tree as plain data; ``str()`` of it is an indented text."""
        root = self._root.describe()
        if self._describe_beside is None:
            return root
        return Description(
            "server", "supervisor", root.state, uptime=root.uptime, children=(root, self._describe_beside())
        )
