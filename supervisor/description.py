"""The tree as plain data, for people and for monitoring."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from actors.cell.cell import Cell


@dataclass(frozen=True, slots=True)
class Description:
    """One supervisor, service or connection at one moment; ``str()`` gives it and all below as text.

    ``uptime`` are seconds since this life began, ``mailbox`` the messages that wait.  ``handling_for``
    are the seconds that the running hook has taken, ``waits_at`` says where it waits.
    """

    name: str
    kind: str
    state: str
    incarnation: int = 1
    uptime: float = 0.0
    mailbox: int = 0
    restarts_left: int | None = None
    handling_for: float | None = None
    waits_at: str | None = None
    children: tuple[Description, ...] = ()

    def __str__(self) -> str:
        return "\n".join(self._lines(""))

    def _lines(self, indent: str) -> Iterator[str]:
        parts = [f"{indent}{self.name} ({self.kind}): {self.state}, {self.uptime:.1f} s"]
        parts.append(f"incarnation {self.incarnation}")
        if self.kind != "supervisor":
            parts.append(f"{self.mailbox} waiting")
        if self.restarts_left is not None:
            parts.append(f"{self.restarts_left} restart{'s' * (self.restarts_left != 1)} left")
        if self.handling_for is not None:
            parts.append(f"in a hook for {self.handling_for:.1f} s at {self.waits_at}")
        yield ", ".join(parts)
        for child in self.children:
            yield from child._lines(indent + "  ")


def describe_cell(
    cell: Cell, name: str, born_at: float, incarnation: int, restarts_left: int | None, kind: str = "service"
) -> Description:
    """Describe one actor."""
    now = cell.runtime.clock()
    since = cell.hook.since
    return Description(
        name,
        kind,
        cell.state.name.lower().replace("_", " "),
        incarnation=incarnation,
        uptime=max(0.0, now - born_at),  # a restart may wait for its time
        mailbox=len(cell.mailbox),
        restarts_left=restarts_left,
        handling_for=None if since is None else now - since,
        waits_at=cell.hook.where(),
    )
