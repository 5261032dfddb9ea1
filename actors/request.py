"""The HTTP request that opened a WebSocket, as hooks see it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, final


@final
class QueryParams(Mapping[str, str]):
    """The parameters behind the ``?`` of a URL; a name given several times counts with its last value.

    ``get_all`` gives every value in order.
    """

    __slots__ = ("_pairs",)

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self._pairs: dict[str, tuple[str, ...]] = {}  # tuples of text are no work for the garbage collector
        for name, value in pairs:
            self._pairs[name] = (*self._pairs.get(name, ()), value)

    def __getitem__(self, name: str) -> str:
        return self._pairs[name][-1]

    def __iter__(self) -> Iterator[str]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def __repr__(self) -> str:
        return f"QueryParams({ {name: self.get_all(name) for name in self} })"

    def get_all(self, name: str) -> list[str]:
        """Every value of ``name`` in the order of the URL; empty when there is none."""
        return list(self._pairs.get(name, ()))


_NONE: dict[str, tuple[str, ...]] = {}


@final
class Headers(Mapping[str, str]):
    """HTTP header fields; names compare without case (RFC 9110, section 5.1).

    A field given several times counts with its first value; ``get_all`` gives every value.
    """

    __slots__ = ("_first", "_others")

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None:
        self._first: dict[str, str] = {}
        self._others: dict[str, tuple[str, ...]] = {}
        for name, value in fields:
            name = name.lower()
            if name in self._first:
                self._others[name] = (*self._others.get(name, ()), value)
            else:
                self._first[name] = value

    @classmethod
    def of(cls, values: dict[str, str]) -> Headers:
        """Fields that were given once each, by their names in small letters."""
        headers = cls.__new__(cls)
        headers._first, headers._others = values, _NONE
        return headers

    def __getitem__(self, name: str) -> str:
        return self._first[name.lower()]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._first

    def __iter__(self) -> Iterator[str]:
        return iter(self._first)

    def __len__(self) -> int:
        return len(self._first)

    def __repr__(self) -> str:
        return f"Headers({ {name: self.get_all(name) for name in self} })"

    def get_all(self, name: str) -> list[str]:
        """Every value of ``name`` in the order of the request; empty when there is none."""
        name = name.lower()
        return [self._first[name], *self._others.get(name, ())] if name in self._first else []


@dataclass(slots=True)  # frozen would make it three times as dear: type checkers know that fields are final
class Request:
    """The upgrade request of one connection; its fields are not to be set.

    ``path`` is without the query; ``path_params`` are the values of the route's ``:names``,
    percent-decoded.  ``client`` is the peer's address, ``"host:port"``, or ``"unix"``.
    ``subprotocol`` is the one agreed upon, ``None`` while ``on_upgrade`` runs.  ``state`` is the
    user's own: what ``on_upgrade`` puts there, the actor finds in ``self.request.state``.
    """

    path: Final[str]
    path_params: Final[Mapping[str, str]] = field(default_factory=dict)
    query_params: Final[QueryParams] = field(default_factory=QueryParams)
    headers: Final[Headers] = field(default_factory=Headers)
    client: Final[str] = ""
    subprotocol: Final[str | None] = None
    state: Final[dict[str, Any]] = field(default_factory=dict)
