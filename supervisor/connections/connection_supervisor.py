"""The dynamic supervisor of connections: one child for every open WebSocket, none touches another."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Iterator, Sized
from typing import final

from actors import ActorRef
from actors.cell.cell import Cell, Reaction
from actors.cell.connection_cell import ConnectionCell, ConnectionOptions
from actors.messages import Close
from actors.timers import Timer
from supervisor.admission.gate import Gate, Ticket
from supervisor.cell_options import bounds_of
from supervisor.connections.watch import Watch
from supervisor.description import Description, describe_cell
from supervisor.environment import Environment
from supervisor.events import (
    ActorCrashed,
    ActorRestarted,
    ConnectionClosed,
    ConnectionOpened,
    heard,
    level_of_end,
    tell,
)
from supervisor.policies import OnCrash, Policy
from supervisor.restarts import BackoffClock, RestartWindow


@final
class Connections(Sized, Iterable[ActorRef]):
    """A view of the refs of all open connections; sized and iterable, from any thread."""

    __slots__ = ("_cells",)

    def __init__(self, cells: dict[ConnectionCell, _Child]) -> None:
        self._cells = cells

    def __len__(self) -> int:
        return len(self._cells)

    def __iter__(self) -> Iterator[ActorRef]:
        return iter([cell.ref for cell in list(self._cells)])


@final
class _Child:
    """One connection as the supervisor knows it; parts for restarts are made on demand."""

    __slots__ = ("backoff", "born_at", "policy", "started", "ticket", "watch", "window")

    def __init__(self, policy: Policy, watch: Watch, ticket: Ticket, now: float) -> None:
        self.policy = policy
        self.watch = watch
        self.ticket = ticket
        self.born_at = now
        self.started = False
        """Whether its ``on_connect`` was got through."""
        self.window: RestartWindow | None = None
        self.backoff: BackoffClock | None = None


@final
class ConnectionSupervisor:
    """The supervisor of connections: temporary children, stopped concurrently (OTP: ``simple_one_for_one``).

    It has no budget of its own: no connection's end or restart touches another one.
    """

    __slots__ = ("_cells", "_emptied", "_environment", "_gate", "view")

    def __init__(self, environment: Environment, gate: Gate) -> None:
        self._environment = environment
        self._gate = gate
        self._cells: dict[ConnectionCell, _Child] = {}
        self._emptied = environment.runtime.backend.parker()
        self.view = Connections(self._cells)

    def options(self, policy: Policy) -> ConnectionOptions:
        """Give the options of a cell under ``policy`` that is to become a child of this supervisor."""
        timeouts, limits = policy.timeouts, policy.limits
        return ConnectionOptions(
            bounds=bounds_of(policy),
            overflow=policy.overflow,
            close=timeouts.close,
            teardown=timeouts.teardown,
            names=self._environment.registry,
            topics=self._environment.topics,
            most_topics=limits.topics,
            send_limit=limits.send_limit,
            message_rate=limits.message_rate,
            message_burst=limits.message_burst,
            on_crash=self.crashed,
            on_started=self.started,
            restart_delay=self.restart_delay,
            on_exit=self.exited,
        )

    def start(self, cell: ConnectionCell, policy: Policy, ticket: Ticket, timer: Timer | None) -> None:
        """Take over a cell whose WebSocket is open, its place and its timer; the caller runs it."""
        self._cells[cell] = _Child(policy, Watch(cell, policy, timer), ticket, cell.websocket.opened_at)
        self._environment.registry.register(cell.id, cell)
        hooks, request = self._environment.hooks, cell.request
        if heard(hooks, logging.DEBUG):
            tell(hooks, ConnectionOpened(cell.id, request.path, request.client, request.subprotocol))

    def started(self, cell: Cell) -> None:
        """Called by a cell whose ``on_connect`` is through."""
        self._cells[cell].started = True  # type: ignore[index]  # none but connections
        self._gate.got_through()

    def crashed(self, cell: Cell, error: BaseException) -> Reaction:
        """Called by a cell whose hook, task or resource raised ``error``: say what is done about it."""
        assert isinstance(cell, ConnectionCell)
        tell(self._environment.hooks, ActorCrashed(cell.ref, error))
        child = self._cells.get(cell)
        if child is None or child.policy.crash is OnCrash.CLOSE:
            return Reaction.STOP
        if child.policy.crash is OnCrash.RESUME:
            return Reaction.RESUME
        if not (cell.goes_on and cell.restartable):
            return Reaction.STOP  # no restart follows, so none is counted
        if child.window is None:
            child.window = RestartWindow(child.policy.restarts)
        return Reaction.RESTART if child.window.allow(cell.runtime.clock()) else Reaction.STOP

    def restart_delay(self, cell: Cell) -> float:
        """Called by a cell before its next incarnation: seconds to wait."""
        assert isinstance(cell, ConnectionCell)
        child = self._cells[cell]
        if child.backoff is None:
            child.backoff = BackoffClock(child.policy.backoff)
        now = cell.runtime.clock()
        delay = child.backoff.next_delay(now - child.born_at, random.random())
        child.born_at = now + delay
        tell(self._environment.hooks, ActorRestarted(cell.ref, cell.incarnation_number + 1))
        return delay

    def exited(self, cell: Cell) -> None:
        """Called by a cell at the end of its teardown."""
        assert isinstance(cell, ConnectionCell)
        assert cell.torn_down_at is not None, "set at the end of the teardown"
        child = self._cells.pop(cell)
        child.watch.cancel()
        self._gate.leave(child.ticket)
        if not child.started:  # what crashes later is for its own client, and says nothing about the next one
            if cell.exit_reason.abnormal:
                self._gate.crashed(child.ticket)
            else:
                self._gate.got_through()
        self._environment.registry.forget(cell.id, cell)
        self._environment.topics.forget(cell)
        hooks, request = self._environment.hooks, cell.request
        if heard(hooks, level_of_end(cell.leaks, clean=cell.clean)):
            began, ended = cell.torn_down_at
            report, took = cell.report, ended - began
            assert report is not None, "the teardown follows the end of the wire"
            tell(hooks, ConnectionClosed(cell.id, request.path, request.client, report, took, cell.leaks))
        if not self._cells:
            self._emptied.wake()

    def cells(self) -> list[ConnectionCell]:
        """The cells that are alive now."""
        return list(self._cells)

    def describe(self) -> Description:
        """The connections as plain data."""
        now = self._environment.runtime.clock()
        children = tuple(
            describe_cell(
                cell,
                f"{cell.kind} {cell.id} {cell.request.path}",
                child.born_at,
                cell.incarnation_number,
                None if child.window is None else child.window.left(now),
                "connection",
            )
            for cell, child in self._cells.items()
        )
        return Description("connections", "supervisor", "running", children=children)

    async def stop(self, close: Close, within: float | None) -> None:
        """Close every connection at once; those still there after ``within`` seconds are aborted."""
        for cell in self.cells():
            cell.close(close)
        if not await self._environment.runtime.wait(self._emptied, lambda: not self._cells, within):
            for cell in self.cells():
                cell.abort()
            await self._environment.runtime.wait(self._emptied, lambda: not self._cells, None)
