"""The options of the admission: who may connect, how many and how fast."""

from __future__ import annotations

import ipaddress
import resource
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, final

from actors import Request
from supervisor.admission.origins import _origin_of
from supervisor.checks import NOT_GIVEN, NotGiven, check_count
from supervisor.policies import check_seconds

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
LOOPBACK = ("127.0.0.0/8", "::1/128")
_WITH_DEFAULTS = ("max_connections", "max_http", "max_opening", "http_per_address", "opening_per_address")


class Kind(IntEnum):
    """The kind of a connection, which says what caps it meets; an index."""

    OPENING = 0
    """Not known yet, or it was refused: from accept on, until it ends or becomes one of the others."""
    HTTP = 1
    WEBSOCKET = 2


# Plain numbers: as the index of a list, a member of an enum costs several times as much.
OPENING, HTTP, WEBSOCKET = map(int, Kind)


class Cap(NamedTuple):
    """The cap of one kind of connection; ``None``: any number."""

    total: int | None
    each: int | None
    """Of one address."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """The rules for who may connect to a server; ``None`` switches a cap off.

    Raises ``TypeError`` and ``ValueError`` naming the option.
    """

    max_connections: int | NotGiven | None = NOT_GIVEN
    """WebSockets, from their request on, then 503; by default 10 000 or 80 % of the descriptor limit,
    whichever is less."""
    per_address: int | None = 128
    """WebSockets of one client address (an IPv6 /64 is one), then 429."""
    max_http: int | NotGiven | None = NOT_GIVEN
    """Connections for plain HTTP in a Robyn app on one port, kept ones too, then 503; by default 10 000
    or 20 % of the descriptor limit."""
    http_per_address: int | NotGiven | None = NOT_GIVEN
    """Those of one client address, then 429; by default 512 or a quarter of ``max_http``."""
    max_opening: int | NotGiven | None = NOT_GIVEN
    """Connections whose request is not there yet, or was refused, and whose end is waited for; then the
    oldest of them is dropped; by default 4096 or 20 % of the descriptor limit."""
    opening_per_address: int | NotGiven | None = NOT_GIVEN
    """Those of one client address, then 429; by default 512 or half of ``max_opening``."""
    handshakes_per_minute: int | None = 64
    """Upgrades a minute of one client address, then 429."""
    per_key: int | None = None
    """WebSockets of one ``key(request)``, then 429."""
    key: Callable[[Request], Hashable] | None = None
    """What an upgrade counts for, a user say; one of ``None`` is not counted."""
    exempt: Sequence[str] = LOOPBACK
    """Networks whose clients are not counted by address; by default loopback, where a proxy may stand for
    many."""
    origins: str | Sequence[str] = "same host"
    """``"same host"`` (an upgrade without ``Origin`` comes from no browser and passes too), ``"*"``, or
    the origins that may connect, as ``"https://example.com"``; else 403."""
    trusted_proxies: Sequence[str] = ()
    """Addresses and networks whose ``Forwarded`` or ``X-Forwarded-For`` is believed: the client is then
    the last address in it that is no trusted proxy. Where there is none to believe (no field, no address,
    or the two fields disagree), the connection counts for the proxy itself, which is never exempt then;
    nor is a client that is told to be at a loopback address. ``Forwarded: host=`` and
    ``X-Forwarded-Host`` of a trusted proxy are the same host as ``Host``, for ``origins``."""
    breaker: int | None = 20
    """Addresses whose fresh connections crashed before their ``on_connect`` was through, while nobody got
    through: so many get 503 for ``breaker_pause``. Then each may try with one connection. An address is
    never refused for what others did; one that is not counted by address counts for nothing here."""
    breaker_pause: float = 5.0
    """Seconds that such an address waits."""

    def __post_init__(self) -> None:
        for option in ("per_address", "handshakes_per_minute", "per_key", "breaker"):
            check_count(option, getattr(self, option))
        for option in _WITH_DEFAULTS:
            given = getattr(self, option)
            check_count(option, None if isinstance(given, NotGiven) else given)
        if (self.per_key is None) != (self.key is None):
            raise ValueError("per_key, key: one needs the other")
        if self.key is not None and not callable(self.key):
            raise TypeError(f"key: a function of a request, not {self.key!r}")
        if isinstance(self.origins, str) and self.origins not in ("same host", "*"):
            raise ValueError(f"origins: 'same host', '*', or a list of origins, not {self.origins!r}")
        for origin in () if isinstance(self.origins, str) else _texts("origins", self.origins):
            if _origin_of(origin) is None:
                raise ValueError(f"origins: {origin!r} is no origin; write it like 'https://example.com'")
        networks("exempt", self.exempt)
        networks("trusted_proxies", self.trusted_proxies)
        check_seconds("breaker_pause", self.breaker_pause, off=False)

    @property
    def caps(self) -> tuple[Cap, Cap, Cap]:
        """The cap of each ``Kind``, the defaults filled in."""
        limit = descriptor_limit()
        opening = _or(self.max_opening, min(4096, limit // 5))
        http = _or(self.max_http, min(10_000, limit // 5))
        return (
            Cap(opening, _or(self.opening_per_address, _part(opening, 2))),
            Cap(http, _or(self.http_per_address, _part(http, 4))),
            Cap(_or(self.max_connections, min(10_000, limit * 8 // 10)), self.per_address),
        )


def _or(given: int | NotGiven | None, default: int) -> int | None:
    return max(1, default) if isinstance(given, NotGiven) else given


def _part(total: int | None, parts: int) -> int:
    """Give the share of one address in ``total`` connections."""
    return 512 if total is None else min(512, total // parts)


def descriptor_limit() -> int:
    """Give the number of descriptors that this process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 30 if soft == resource.RLIM_INFINITY else soft


def networks(option: str, given: Sequence[str]) -> tuple[Network, ...]:
    """Parse addresses and networks; raises ``TypeError`` or ``ValueError`` naming ``option``."""
    try:
        return tuple(ipaddress.ip_network(one) for one in _texts(option, given))
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from None


def _texts(option: str, given: Sequence[str]) -> Sequence[str]:
    """Give ``given`` back; raises ``TypeError`` naming ``option`` unless it is a collection of str."""
    whole = isinstance(given, Collection) and not isinstance(given, str)
    if not whole or not all(isinstance(one, str) for one in given):
        raise TypeError(f"{option}: a list or tuple of str, not {given!r}")
    return given
