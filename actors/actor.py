"""``Actor``: an object with a mailbox that handles one message at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Hashable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Generic, ParamSpec, Protocol

from typing_extensions import TypeVar

from actors.cell.incarnation import Incarnation
from actors.cell.misuse import check_class
from actors.errors import ActorMisuse, ActorStopped
from actors.ref import ActorRef
from actors.runtime import Runtime
from actors.seconds import check_seconds

T = TypeVar("T")
P = ParamSpec("P")
M = TypeVar("M", default=Any)
"""What an actor is told, or a connection actor's peer sends; ``Any`` where it is not given."""
A = TypeVar("A", default=Any)
"""What an actor answers an ask with; ``Any`` where it is not given."""


def plain_or_async(hook: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Awaitable[T] | T]:
    """Declare that overrides of ``hook`` may be plain or async functions; it is left as it is."""
    return hook


class Context(Protocol):
    """The cell of an actor, as the actor knows it."""

    id: str
    runtime: Runtime

    @property
    def ref(self) -> ActorRef:
        """The actor's address."""

    @property
    def names(self) -> Mapping[str, ActorRef]:
        """The live actors of the tree by their names; raises ``ActorMisuse`` without a supervisor."""

    @property
    def incarnation(self) -> Incarnation:
        """The life that the actor has now."""

    def stop(self) -> None:
        """End the actor normally; on the event loop's thread."""

    def join(self, topic: str) -> None:
        """Get what is published to ``topic``."""

    def leave(self, topic: str) -> None:
        """Take ``join`` back."""

    def publish(self, topic: str, message: object) -> None:
        """Give ``message`` to every member of ``topic``."""


class Actor(Generic[M, A]):
    """Subclass this for a service, ``ConnectionActor`` for a WebSocket.

    Hooks may be plain or async functions.  They run one at a time, in the actor's own task, on the
    thread of the event loop; what a hook raises ends this actor alone (its supervisor decides what
    follows), and what can be awaited of what it returns is awaited.  A class with a method that looks
    like a hook and would never run (``on_mesage``, a generator) raises ``TypeError`` when it is made.
    ``self.id``, ``self.ref`` and the methods below work from ``on_start`` on, and not yet in
    ``__init__``.

    After a restart the earlier instance's life is over: ``spawn``, ``enter``, ``after``, ``every``,
    ``join``, ``leave`` and ``send`` on it raise ``ActorStopped``, since they would reach the life that
    follows.  What a ref or any other actor could do as well goes on: ``close``, ``stop``, ``publish``.

    For type checkers: ``Actor[Ask]`` is told ``Ask``s, and ``Actor[Ask, int]`` answers them with an ``int``;
    both are ``Any`` where they are not given.
    """

    _cell: Context | None = None
    _former_cell: Context | None = None
    """That of an instance in whose place another one lives."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        check_class(cls, connection=hasattr(cls, "on_upgrade"))

    # -- hooks ---------------------------------------------------------------------------------

    @plain_or_async
    async def on_start(self) -> None:
        """Run once when the actor starts, before any message."""

    @plain_or_async
    async def on_restart(self, error: BaseException, /) -> None:
        """Run instead of ``on_start`` in every incarnation that follows a crash with ``error``."""

    @plain_or_async
    async def on_info(self, message: M, /) -> A:
        """Handle a message told or asked by others, a timer's, ``Down`` or ``Restarted``.

        What it returns answers an ask; what it raises fails the ask and crashes the actor.
        """
        return None  # type: ignore[return-value]  # an actor that has something to answer overrides this

    @plain_or_async
    async def on_stop(self) -> None:
        """Run once at the end of every incarnation, within the teardown timeout.

        The tasks of the incarnation have ended by then, its resources are still there.
        """

    # -- what an actor can do ------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The actor's id, the same through every restart."""
        return self._any_cell.id

    @property
    def ref(self) -> ActorRef[M, A]:
        """The actor's address, to be given to others."""
        return self._any_cell.ref

    def stop(self) -> None:
        """End this actor normally, after the running hook; callable from any thread."""
        cell = self._any_cell
        cell.runtime.call(cell.stop)

    def spawn(self, function: Callable[..., Awaitable[object]], *args: object) -> None:
        """Run ``function(*args)`` as a task of this incarnation.

        It is cancelled and awaited when the incarnation ends.  What it raises crashes the actor.
        From the event loop's thread only.
        """
        self._own_cell.incarnation.spawn(function, args)

    async def enter(self, context_manager: AbstractAsyncContextManager[T] | AbstractContextManager[T]) -> T:
        """Enter a sync or async context manager as a resource of this incarnation; give its value.

        It is left when the incarnation ends, after ``on_close`` or ``on_stop``, in reverse order of
        entering, in the task that entered it, within the teardown timeout.  A task group or nursery is
        cancelled at once then.  Context variables that entering sets (a bound logger, a span) are set for
        the later hooks and tasks of this actor, until the incarnation ends, and for no other actor.
        Raises what entering raises.  A context manager that ends by itself before that crashes the actor with
        ``ResourceLost``.
        """
        return await self._own_cell.incarnation.enter(context_manager)

    def after(self, delay: float, message: object, key: Hashable = None) -> Hashable:
        """Deliver ``message`` to ``on_info`` once, ``delay`` seconds from now.

        One timer is pending per ``key``: a new one replaces it.  Without a key each call is a timer
        of its own.  Gives the key, for ``cancel_timer``.  Timers die with the incarnation.
        """
        return self._own_cell.incarnation.start_timer(delay, None, message, key)

    def every(self, interval: float, message: object, key: Hashable = None) -> Hashable:
        """Deliver ``message`` to ``on_info`` every ``interval`` seconds, first after one interval.

        A firing that is still queued is not doubled: an actor that is behind skips beats.
        """
        check_seconds("interval", interval, off=False)
        return self._own_cell.incarnation.start_timer(interval, interval, message, key)

    def cancel_timer(self, key: Hashable) -> bool:
        """Cancel a timer, a firing that is queued already included; tell whether there was one."""
        return self._cell is not None and self._own_cell.incarnation.cancel_timer(key)

    def join(self, topic: str) -> None:
        """Get what is published to ``topic``: a connection sends it to its peer, a service in ``on_info``.

        The membership ends with the actor, whatever ended it, and lives through its restarts.  From any
        thread, like ``leave`` and ``publish``.  Raises ``ValueError`` for a name of more than 1024
        characters, and ``ActorMisuse`` past ``Limits(topics=)``, which another thread finds in the log.
        """
        self._own_cell.join(topic)

    def leave(self, topic: str) -> None:
        """Take ``join`` back; nothing happens without it."""
        self._own_cell.leave(topic)

    def publish(self, topic: str, message: Any) -> None:
        """Give ``message`` to every member of ``topic``, this actor too if it joined; returns at once.

        For connections it is encoded once for each codec.  A member that does not keep up holds up
        nobody: past its send limit it is closed with 1013.
        """
        self._any_cell.publish(topic, message)

    def find(self, name: str) -> ActorRef | None:
        """Give the live actor of this tree that is called ``name``; ``None`` when there is none.

        A service that crashed has no name until its next life begins, which has a ref of its own: who
        keeps a ref to one monitors it, and looks again after its ``Down``.
        """
        return self._any_cell.names.get(name)

    @property
    def _any_cell(self) -> Context:
        """The cell of this life, or of one that is over: for what is no life's own."""
        return self._former_cell or self._own_cell

    @property
    def _own_cell(self) -> Context:
        cell = self._cell
        if cell is None:
            if self._former_cell is not None:
                raise ActorStopped(
                    f"the life of this {type(self).__name__} is over: another instance has taken its place"
                )
            raise ActorMisuse(
                f"{type(self).__name__} has not been started: its id, ref and methods work from its first "
                "hook on, not in __init__; start it with serve(), a ChildSpec or actors.testing"
            )
        return cell
