"""Monitors: who gets the ``Down`` of an actor, and whose ``Down`` it gets.

The rules of this file:

* Two actors may live on different event loops: what a cell knows of the other one is changed on its
  own loop's thread.
* A monitor gets one Down, and at once when the other one has ended already, or its event loop has.
* ``demonitor`` takes back a Down, too, that waits for its hook or is on its way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast, final

from actors.messages import CloseReport, ExitReason
from actors.ref import ActorRef, Target


@dataclass(frozen=True, slots=True)
class Down:
    """Delivered to a monitoring actor's ``on_info``, exactly once, when ``ref`` has ended."""

    ref: ActorRef
    reason: ExitReason
    error: BaseException | None = None
    report: CloseReport | None = None


@dataclass(frozen=True, slots=True)
class Restarted:
    """Delivered to a monitoring actor's ``on_info`` when ``ref`` lives on in a new incarnation."""

    ref: ActorRef
    incarnation: int
    error: BaseException | None = None


class Monitored(Target, Protocol):
    """A cell as its monitors know it, and as it knows those that it monitors."""

    monitors: Monitors | None
    incarnation_number: int
    exit_reason: ExitReason
    error: BaseException | None

    @property
    def ref(self) -> ActorRef:
        """The actor's address."""

    def put_control(self, message: object) -> None:
        """Put ``message`` into the control lane."""


@final
class Monitors:
    """The actors that a cell monitors and those that monitor it; most cells never need one."""

    __slots__ = ("by", "of")

    def __init__(self) -> None:
        self.by: dict[Monitored, None] = {}
        """Who gets the Down of this actor."""
        self.of: dict[Monitored, None] = {}
        """Whose Down this actor gets."""


def monitor(cell: Monitored, other: ActorRef) -> None:
    """Let ``cell`` get one Down when ``other`` ends."""
    if cell.stopped:
        return
    monitored = _cell_of(other)
    _monitors_of(cell).of[monitored] = None
    if not monitored.runtime.call(_add, monitored, cell):
        _take(cell, Down(other, monitored.exit_reason))


def demonitor(cell: Monitored, other: ActorRef) -> None:
    """Take ``monitor`` back."""
    monitored = _cell_of(other)
    if cell.monitors is not None:
        cell.monitors.of.pop(monitored, None)
    if not monitored.runtime.call(_remove, monitored, cell):
        _forget_down(cell, other)


def restarted(cell: Monitored, error: BaseException) -> None:
    """``cell`` has a new incarnation because of ``error``: its monitors are told, and stay."""
    if cell.monitors is not None:
        _tell(cell.monitors, Restarted(cell.ref, cell.incarnation_number, error))


def stopped(cell: Monitored, monitors: Monitors) -> None:
    """``cell`` has ended: its monitors get their Down, and those it monitored need not tell it."""
    cell.monitors = None
    if monitors.by:
        _tell(monitors, _down(cell))
    for monitored in monitors.of:
        monitored.runtime.call(_forget, monitored, cell)


def _monitors_of(cell: Monitored) -> Monitors:
    if cell.monitors is None:
        cell.monitors = Monitors()
    return cell.monitors


def _down(cell: Monitored) -> Down:
    return Down(cell.ref, cell.exit_reason, cell.error, cell.report)


def _tell(monitors: Monitors, message: Down | Restarted) -> None:
    for monitor in monitors.by:
        monitor.runtime.call(_take, monitor, message)


# -- on the thread of the monitored actor ------------------------------------------------------


def _add(cell: Monitored, monitor: Monitored) -> None:
    if cell.stopped:
        monitor.runtime.call(_take, monitor, _down(cell))
    else:
        _monitors_of(cell).by[monitor] = None


def _remove(cell: Monitored, monitor: Monitored) -> None:
    _forget(cell, monitor)
    monitor.runtime.call(_forget_down, monitor, cell.ref)  # behind a Down that is on its way


def _forget(cell: Monitored, monitor: Monitored) -> None:
    if cell.monitors is not None:
        cell.monitors.by.pop(monitor, None)


# -- on the thread of the monitor --------------------------------------------------------------


def _take(cell: Monitored, message: Down | Restarted) -> None:
    if cell.monitors is not None and isinstance(message, Down):
        cell.monitors.of.pop(_cell_of(message.ref), None)
    cell.put_control(message)


def _forget_down(cell: Monitored, ref: ActorRef) -> None:
    control = cell.mailbox.control
    for message in [one for one in control if isinstance(one, Down) and one.ref == ref]:
        control.remove(message)


def _cell_of(ref: ActorRef) -> Monitored:
    return cast(Monitored, ref._cell)  # there is nothing else that a ref reaches
