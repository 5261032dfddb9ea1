"""Routes: which actor class answers which path."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import final
from urllib.parse import unquote

from actors import ConnectionActor
from actors.codecs import Codec, choose_codec, codec_named, offered_subprotocols
from supervisor.policies import Policy

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


@final
@dataclass(frozen=True, slots=True, eq=False)  # a route is itself: what is worked out for it is looked up
class Route:
    """An actor class at a path, with a policy of the route where it has one.

    ``subprotocols`` are those that the class speaks.  Raises ``TypeError`` or ``ValueError`` naming
    the option when the class cannot be served.
    """

    actor: type[ConnectionActor]
    policy: Policy | None = None

    def __post_init__(self) -> None:
        actor = self.actor
        if not (isinstance(actor, type) and issubclass(actor, ConnectionActor)):
            raise TypeError(f"route: a subclass of actors.ConnectionActor, not {actor!r}")
        for owner, policy in ((actor.__name__, actor.policy), ("the route", self.policy)):
            if policy is not None and not isinstance(policy, Policy):
                raise TypeError(f"policy: that of {owner} is {policy!r}, not a supervisor.Policy")
        if isinstance(actor.subprotocols, str):
            raise TypeError(f"subprotocols: a sequence of names, not the str {actor.subprotocols!r}")
        for name in actor.subprotocols:
            if not isinstance(name, str) or not _TOKEN.fullmatch(name):
                raise ValueError(
                    f"subprotocols: {name!r} of {actor.__name__} is no token (RFC 6455, section 4.1)"
                )
        codec = actor.codec
        try:
            for one in codec.values() if isinstance(codec, Mapping) else (codec,):
                codec_named(one)
            for subprotocol in self.subprotocols if isinstance(codec, Mapping) else ():
                choose_codec(codec, subprotocol)
        except (TypeError, ValueError, LookupError) as error:
            raise type(error)(f"{actor.__name__}.{error.args[0]}") from None

    @property
    def subprotocols(self) -> tuple[str, ...]:
        """The subprotocols that the class speaks, the preferred first."""
        return tuple(self.actor.subprotocols) or offered_subprotocols(self.actor.codec)

    def policy_within(self, server: Policy | None) -> Policy:
        """The policy in force: the class's, then the route's, then the server's, part by part."""
        policy: Policy = self.actor.policy or Policy()
        return policy.over(self.policy).over(server)


@final
class Router:
    """Finds the route of a path.

    ``/rooms/:room`` matches one path segment for ``:room``; a fixed segment wins over a parameter.
    A trailing slash makes no difference.
    """

    __slots__ = ("_patterns", "_static")

    def __init__(self, routes: Mapping[str, type[ConnectionActor] | Route] | None = None) -> None:
        self._static: dict[tuple[str, ...], Route] = {}
        self._patterns: dict[tuple[str, ...], tuple[tuple[str, ...], Route]] = {}
        if not isinstance(routes, Mapping | None):
            raise TypeError(
                f"routes: a mapping from paths to actor classes, as {{'/': Echo}}, not {routes!r}"
            )
        for path, route in (routes or {}).items():
            self.add(path, route)

    def __len__(self) -> int:
        return len(self._static) + len(self._patterns)

    def add(self, path: str, route: type[ConnectionActor] | Route) -> None:
        """Add a route; raises ``ValueError`` when the path is malformed or taken."""
        if not isinstance(path, str) or not path.startswith("/"):
            raise ValueError(f"route: a path begins with '/', {path!r} does not")
        if not isinstance(route, Route):
            route = Route(route)
        segments = _split(path)
        names = [segment[1:] for segment in segments if segment.startswith(":")]
        if "" in names or len(set(names)) != len(names):
            raise ValueError(f"route: the parameters of {path!r} need names, each another one")
        shape = tuple(":" if segment.startswith(":") else segment for segment in segments)
        if shape in self._static or shape in self._patterns:
            raise ValueError(f"route: {path!r} is registered twice; a path has one actor class")
        if names:
            self._patterns[shape] = (segments, route)
        else:
            self._static[segments] = route

    def codecs(self) -> Iterator[Codec]:
        """The codecs of all routes."""
        for route in (*self._static.values(), *(route for _, route in self._patterns.values())):
            codec = route.actor.codec
            yield from map(codec_named, codec.values() if isinstance(codec, Mapping) else (codec,))

    def find(self, path: str) -> tuple[Route, dict[str, str]] | None:
        """Give the route of ``path`` (percent-encoded, without query) and its parameters."""
        segments = _split(path)
        route = self._static.get(segments)
        if route is not None:
            return route, {}
        best: tuple[int, Route, dict[str, str]] | None = None
        for shape, (pattern, route) in self._patterns.items():
            if len(shape) != len(segments):
                continue
            if all(want in (":", got) for want, got in zip(shape, segments, strict=True)):
                fixed = sum(want != ":" for want in shape)
                if best is None or fixed > best[0]:
                    best = fixed, route, _parameters(pattern, segments)
        return None if best is None else best[1:]


def _split(path: str) -> tuple[str, ...]:
    return tuple(path.rstrip("/").split("/")[1:])


def _parameters(pattern: tuple[str, ...], segments: tuple[str, ...]) -> dict[str, str]:
    pairs = zip(pattern, segments, strict=True)
    return {name[1:]: unquote(value) for name, value in pairs if name.startswith(":")}
