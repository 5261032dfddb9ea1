"""Names of actors; an entry leaves when its actor ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import final

from actors import ActorRef
from actors.cell.cell import Cell


@final
class Registry(Mapping[str, ActorRef]):
    """The live actors by id, and by name where they have one.

    A mapping for reading, from any thread: ``registry["clock"]``, ``registry.get(id)``.
    """

    __slots__ = ("_names",)

    def __init__(self) -> None:
        self._names: dict[str, Cell] = {}

    def __getitem__(self, name: str) -> ActorRef:
        try:
            return self._names[name].ref
        except KeyError:
            raise KeyError(f"no live actor is called {name!r}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._names))

    def __len__(self) -> int:
        return len(self._names)

    def register(self, name: str, cell: Cell) -> None:
        """Enter ``cell`` under ``name``; raises ``ValueError`` when the name is taken."""
        if name in self._names:
            raise ValueError(
                f"name: {name!r} belongs to {self._names[name].ref!r}; names are unique while it lives"
            )
        self._names[name] = cell

    def forget(self, name: str, cell: Cell) -> None:
        """Remove ``name`` if it is ``cell``'s."""
        if self._names.get(name) is cell:
            del self._names[name]
