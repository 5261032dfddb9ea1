"""``Actor``: an object with a mailbox that handles one message at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar

from actors.errors import ActorMisuse

if TYPE_CHECKING:
    from actors.cell import Cell
    from actors.ref import ActorRef
    from actors.runtime import Topics

T = TypeVar("T")


class Actor:
    """Subclass this for a service, ``ConnectionActor`` for a WebSocket.

    Hooks may be plain or async functions.  They run one at a time, in the actor's own task, on the
    thread of the event loop; what a hook raises ends this actor alone (its supervisor decides what
    follows).  ``self.id``, ``self.ref`` and the methods below work from ``on_start`` on, and not yet
    in ``__init__``.
    """

    _cell: Cell | None = None

    # -- hooks ---------------------------------------------------------------------------------

    async def on_start(self) -> None:
        """Run once when the actor starts, before any message."""

    async def on_restart(self, error: BaseException) -> None:
        """Run instead of ``on_start`` in every incarnation that follows a crash with ``error``."""

    async def on_info(self, message: Any) -> Any:
        """Handle a message told or asked by others, a timer's, ``Down`` or ``Restarted``.

        What it returns answers an ask; what it raises fails the ask and crashes the actor.
        """

    async def on_stop(self) -> None:
        """Run once at the end of every incarnation, within the teardown timeout.

        The tasks of the incarnation have ended by then, its resources are still there.
        """

    # -- what an actor can do ------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The actor's id, the same through every restart."""
        return self._own_cell.id

    @property
    def ref(self) -> ActorRef:
        """The actor's address, to be given to others."""
        return self._own_cell.ref

    def stop(self) -> None:
        """End this actor normally, after the running hook; callable from any thread."""
        cell = self._own_cell
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
        return self._own_cell.incarnation.start_timer(interval, interval, message, key)

    def cancel_timer(self, key: Hashable) -> bool:
        """Cancel a timer, a firing that is queued already included; tell whether there was one."""
        return self._own_cell.incarnation.cancel_timer(key)

    def join(self, topic: str) -> None:
        """Get what is published to ``topic``: a connection sends it to its peer, a service in ``on_info``.

        The membership ends with the actor, whatever ended it, and lives through its restarts.  From any
        thread, like ``leave`` and ``publish``.
        """
        self._topics.join(topic, self._own_cell)

    def leave(self, topic: str) -> None:
        """Take ``join`` back; nothing happens without it."""
        self._topics.leave(topic, self._own_cell)

    def publish(self, topic: str, message: Any) -> None:
        """Give ``message`` to every member of ``topic``, this actor too if it joined; returns at once.

        For connections it is encoded once for each codec.  A member that does not keep up holds up
        nobody: past its send limit it is closed with 1013.
        """
        self._topics.publish(topic, message)

    def find(self, name: str) -> ActorRef | None:
        """Give the live actor of this tree that is called ``name``; ``None`` when there is none.

        A service that crashed has no name until its next life begins, which has a ref of its own: who
        keeps a ref to one monitors it, and looks again after its ``Down``.
        """
        names = self._own_cell.runtime.names
        if names is None:
            raise ActorMisuse("names need a supervisor: serve(), supervise() or Supervisor")
        return names.get(name)

    @property
    def _topics(self) -> Topics:
        topics = self._own_cell.runtime.topics
        if topics is None:
            raise ActorMisuse("topics need a supervisor: serve(), supervise() or Supervisor")
        return topics

    @property
    def _own_cell(self) -> Cell:
        cell = self._cell
        if cell is None:
            raise ActorMisuse(
                f"{type(self).__name__} has not been started: its id, ref and methods work from its first "
                "hook on, not in __init__; start it with serve(), a ChildSpec or actors.testing"
            )
        return cell
