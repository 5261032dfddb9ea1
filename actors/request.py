"""The HTTP request that opened a WebSocket, as hooks see it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, final


def _gathered(pairs: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """Put the values of every name together; tuples of text are no work for the garbage collector."""
    gathered: dict[str, tuple[str, ...]] = {}
    for name, value in pairs:
        known = gathered.get(name)
        gathered[name] = (value,) if known is None else (*known, value)
    return gathered


@final
class QueryParams(Mapping[str, str]):
    """The parameters behind the ``?`` of a URL; a name given several times counts with its last value.

    ``get_all`` gives every value in order.
    """

    __slots__ = ("_pairs",)

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self._pairs = _gathered(pairs)

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


@final
class Headers(Mapping[str, str]):
    """HTTP header fields; names compare without case (RFC 9110, section 5.1).

    A field given several times counts with its first value; ``get_all`` gives every value.
    """

    __slots__ = ("_fields",)

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None:
        self._fields = _gathered((name.lower(), value) for name, value in fields)

    def __getitem__(self, name: str) -> str:
        return self._fields[name.lower()][0]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._fields

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __repr__(self) -> str:
        return f"Headers({ {name: self.get_all(name) for name in self} })"

    def get_all(self, name: str) -> list[str]:
        """Every value of ``name`` in the order of the request; empty when there is none."""
        return list(self._fields.get(name.lower(), ()))


@dataclass(frozen=True, slots=True)
class Request:
    """The upgrade request of one connection.

    ``path`` is without the query; ``path_params`` are the values of the route's ``:names``,
    percent-decoded.  ``client`` is the peer's address, ``"host:port"``, or ``"unix"``.
    ``subprotocol`` is the one agreed upon, ``None`` while ``on_upgrade`` runs.  ``state`` is the
    user's own: what ``on_upgrade`` puts there, the actor finds in ``self.request.state``.
    """

    path: str
    path_params: Mapping[str, str] = field(default_factory=dict)
    query_params: QueryParams = field(default_factory=QueryParams)
    headers: Headers = field(default_factory=Headers)
    client: str = ""
    subprotocol: str | None = None
    state: dict[str, Any] = field(default_factory=dict)
