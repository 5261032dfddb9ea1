"""Names of actors; an entry leaves when its actor ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import final

from actors import ActorRef


@final
class Registry(Mapping[str, ActorRef]):
    """The live actors by id, and by name where they have one.

    A mapping for reading, from any thread: ``registry["clock"]``, ``registry.get(id)``.
    """

    __slots__ = ("_names",)

    def __init__(self) -> None:
        self._names: dict[str, ActorRef] = {}

    def __getitem__(self, name: str) -> ActorRef:
        try:
            return self._names[name]
        except KeyError:
            raise KeyError(f"no live actor is called {name!r}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._names))

    def __len__(self) -> int:
        return len(self._names)

    def register(self, name: str, ref: ActorRef) -> None:
        """Enter ``ref`` under ``name``; raises ``ValueError`` when the name is taken."""
        if name in self._names:
            raise ValueError(
                f"name: {name!r} belongs to {self._names[name]!r}; names are unique while it lives"
            )
        self._names[name] = ref

    def forget(self, name: str, ref: ActorRef) -> None:
        """Remove ``name`` if it is ``ref``'s."""
        if self._names.get(name) is ref:
            del self._names[name]
