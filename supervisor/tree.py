"""The tree: the root, the services under it, and the supervisor of the connections."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import final

from actors import ActorRef, ExitReason
from actors.cell import Cell
from actors.connection_cell import ConnectionCell
from actors.mailbox import Bounds
from actors.messages import Close
from actors.runtime import Runtime
from supervisor.events import ActorCrashed, ConnectionClosed, ConnectionOpened, Hook, tell
from supervisor.policies import Policy
from supervisor.registry import Registry
from supervisor.specs import ChildSpec
from supervisor.watch import Watch


@final
class Connections(Sized, Iterable[ActorRef]):
    """A view of the refs of all open connections; sized and iterable, from any thread."""

    __slots__ = ("_cells",)

    def __init__(self, cells: dict[ConnectionCell, Watch]) -> None:
        self._cells = cells

    def __len__(self) -> int:
        return len(self._cells)

    def __iter__(self) -> Iterator[ActorRef]:
        return iter([cell.ref for cell in list(self._cells)])


@final
class ConnectionSupervisor:
    """The dynamic supervisor of connections: temporary children, stopped concurrently, no budget.

    No connection's end touches another one (OTP: ``simple_one_for_one``).
    """

    __slots__ = ("_cells", "_emptied", "_hooks", "_registry", "_runtime", "view")

    def __init__(self, runtime: Runtime, registry: Registry, hooks: Sequence[Hook]) -> None:
        self._runtime = runtime
        self._registry = registry
        self._hooks = hooks
        self._cells: dict[ConnectionCell, Watch] = {}
        self._emptied = runtime.backend.parker()
        self.view = Connections(self._cells)

    def start(self, cell: ConnectionCell, policy: Policy) -> None:
        """Take over a cell whose WebSocket is open; the caller runs it."""
        self._cells[cell] = Watch(cell, policy)
        self._registry.register(cell.id, cell.ref)
        request = cell.request
        tell(self._hooks, ConnectionOpened(cell.id, request.path, request.client, request.subprotocol))

    def crashed(self, cell: Cell, error: BaseException) -> None:
        """Called by a cell whose hook, task or resource raised ``error``."""
        tell(self._hooks, ActorCrashed(cell.ref, error))

    def exited(self, cell: Cell) -> None:
        """Called by a cell at the end of its teardown."""
        assert isinstance(cell, ConnectionCell)
        assert cell.report is not None, "the teardown follows the end of the wire"
        assert cell.torn_down_at is not None, "set at the end of the teardown"
        self._cells.pop(cell).cancel()
        self._registry.forget(cell.id, cell.ref)
        began, ended = cell.torn_down_at
        request = cell.request
        tell(
            self._hooks,
            ConnectionClosed(
                cell.id, request.path, request.client, cell.report, ended - began, tuple(cell.leaks)
            ),
        )
        if not self._cells:
            self._emptied.wake()

    def cells(self) -> list[ConnectionCell]:
        """The cells that are alive now."""
        return list(self._cells)

    async def stop(self, close: Close, within: float | None) -> None:
        """Close every connection at once; those still there after ``within`` seconds are aborted."""
        for cell in self.cells():
            cell.close(close)
        if not await self._runtime.wait(self._emptied, lambda: not self._cells, within):
            for cell in self.cells():
                cell.abort()
            await self._runtime.wait(self._emptied, lambda: not self._cells, None)


@final
class ServiceSupervisor:
    """Services started in the order of their specs and stopped in its reverse."""

    __slots__ = ("_cells", "_hooks", "_policy", "_registry", "_runtime", "_specs")

    def __init__(
        self,
        runtime: Runtime,
        registry: Registry,
        hooks: Sequence[Hook],
        specs: Sequence[ChildSpec],
        policy: Policy | None,
    ) -> None:
        self._runtime = runtime
        self._registry = registry
        self._hooks = hooks
        self._policy = policy
        self._specs = specs
        self._cells: list[tuple[ChildSpec, Cell]] = []

    def start(self) -> None:
        """Start every child in order."""
        for spec in self._specs:
            policy = (spec.policy or Policy()).over(self._policy)
            cell = Cell(
                self._runtime,
                lambda spec=spec: spec.actor(*spec.args),  # type: ignore[misc]  # the loop variable bound early
                id=spec.name or f"{spec.actor.__name__}-{secrets.token_hex(4)}",
                bounds=bounds_of(policy),
                overflow=policy.overflow,
                teardown=policy.timeouts.teardown,
                on_crash=lambda cell, error: tell(self._hooks, ActorCrashed(cell.ref, error)),
                on_exit=lambda cell: self._registry.forget(cell.id, cell.ref),
            )
            self._registry.register(cell.id, cell.ref)
            self._cells.append((spec, cell))
            self._runtime.spawn(cell.run, name=f"{spec.actor.__name__} {cell.id}")

    async def stop(self) -> None:
        """Stop every child in reverse order, each with its own ``shutdown`` seconds."""
        while self._cells:
            spec, cell = self._cells.pop()
            cell.exit_with(ExitReason.SHUTDOWN)
            parker = self._runtime.backend.parker()
            if spec.shutdown is not None and not cell.stopped:
                self._runtime.timers.after(spec.shutdown, cell.kill)
            cell.when_stopped(parker.wake)
            await self._runtime.wait(parker, lambda cell=cell: cell.stopped, None)  # type: ignore[misc]  # as above


def bounds_of(policy: Policy) -> Bounds:
    """The bounds of a mailbox under ``policy``."""
    limits = policy.limits
    return Bounds(
        limits.inbound_messages, limits.inbound_bytes, limits.mailbox_messages, limits.mailbox_bytes
    )
