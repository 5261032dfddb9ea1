"""Admission: who may connect.  Caps, rates, Origin, trusted proxies, and a breaker.

The way of a connection: ``Gate.arrive`` when it is accepted, before a byte is read; ``Gate.ask`` when
its request is there; ``Gate.leave`` when it has ended, whatever ended it.  The bookkeeping is bounded:
an address is forgotten when it has nothing open and its rate has recovered, and at most
``MAX_ADDRESSES`` of them are known; IPv6 clients are known by their /64, which is what one of them has.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import resource
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import final
from urllib.parse import urlsplit

from actors import Request
from actors.rates import TokenBucket
from actors.repeats import log_error
from actors.request import Headers
from actors.transports.opening import HandshakeRefused
from actors.transports.transport import Transport
from supervisor.policies import NOT_GIVEN, NotGiven, check_count, check_seconds

logger = logging.getLogger("supervisor")

MAX_ADDRESSES = 65_536
"""Addresses that are known at the same time, besides those with open connections."""
MAX_REFUSED = 64
"""Connections that are told at the same time why they may not come in; more are dropped without a word."""
SPARE_DESCRIPTORS = 32
"""Descriptors kept free: a connection that takes one of them is answered 503 at once."""
LOOK_EVERY = 8
"""Connections of which one is asked for its descriptor: that costs more than all else that admission does."""
FRESH = 1.0
"""Seconds: a connection that crashes within them after 101 counts for the breaker."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
LOOPBACK = ("127.0.0.0/8", "::1/128")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """Who may connect to a server; ``None`` switches a cap off.

    ``max_connections``: open and opening ones, then 503; by default 10 000 or 80 % of the descriptor
    limit, whichever is less.  ``per_address``: open and opening ones of one client address, then 429.
    ``handshakes_per_minute``: of one client address, then 429.  ``per_key``: open ones of one
    ``key(request)``, then 429; a key of ``None`` is not counted.  ``exempt``: networks whose clients are not
    counted by address; by default loopback, where a proxy may stand for many.

    ``origins``: ``"same host"`` (the default; an upgrade without ``Origin`` comes from no browser and
    passes too), ``"*"``, or the origins that may connect, as ``"https://example.com"``; else 403.

    ``trusted_proxies``: addresses and networks whose ``Forwarded`` or ``X-Forwarded-For`` is believed:
    the client is then the last address in it that is no trusted proxy.  Where there is none to believe
    (no address, or the two fields disagree), the connection counts for the proxy itself.

    ``breaker``: that many fresh connections in a row which crashed before their peer said anything
    stop admission for ``breaker_pause`` seconds (503); then one is let in to try.

    Raises ``TypeError`` and ``ValueError`` naming the option.
    """

    max_connections: int | NotGiven | None = NOT_GIVEN
    per_address: int | None = 128
    handshakes_per_minute: int | None = 64
    per_key: int | None = None
    key: Callable[[Request], Hashable] | None = None
    exempt: Sequence[str] = LOOPBACK
    origins: str | Sequence[str] = "same host"
    trusted_proxies: Sequence[str] = ()
    breaker: int | None = 20
    breaker_pause: float = 5.0

    def __post_init__(self) -> None:
        for option in ("per_address", "handshakes_per_minute", "per_key", "breaker"):
            check_count(option, getattr(self, option))
        if not isinstance(self.max_connections, NotGiven):
            check_count("max_connections", self.max_connections)
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
    def connection_limit(self) -> int | None:
        """The cap on connections, the default filled in."""
        if isinstance(self.max_connections, NotGiven):
            return min(10_000, descriptor_limit() * 8 // 10)
        return self.max_connections


def descriptor_limit() -> int:
    """How many descriptors this process may have."""
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


@final
class _Address:
    """What is known about one client address."""

    __slots__ = ("bucket", "count")

    def __init__(self) -> None:
        self.count = 0
        self.bucket: TokenBucket | None = None


@final
class Ticket:
    """One accepted connection's place; given back exactly once."""

    __slots__ = ("address", "key", "left", "refused")

    def __init__(self, address: str | None) -> None:
        self.address = address
        self.key: Hashable = None
        self.left = False
        self.refused = False
        """Whether it was refused on arrival: it takes no place but one of ``MAX_REFUSED``."""


@final
class Gate:
    """The admission of one server at work."""

    def __init__(self, admission: Admission, clock: Callable[[], float]) -> None:
        self._admission = admission
        self._clock = clock
        self._limit = admission.connection_limit
        self._exempt = networks("exempt", admission.exempt)
        self._proxies = networks("trusted_proxies", admission.trusted_proxies)
        self._origins = (
            admission.origins
            if isinstance(admission.origins, str)
            else frozenset(map(_origin_of, admission.origins))
        )
        self._counted_as = lru_cache(maxsize=1024)(self._find_counted_as)
        self._addresses: dict[str, _Address] = {}
        self._keys: Counter[Hashable] = Counter()
        self._forget_at = MAX_ADDRESSES
        self._count = 0
        self._refused_now = 0
        self._unasked = 0  # connections that may still come before one is asked for its descriptor
        self._crashes = 0
        self._shut_until = 0.0
        self._warned = -1e9
        self.refused: Counter[str] = Counter()
        """How many connections were refused, by reason."""

    def __len__(self) -> int:
        return self._count

    @property
    def known_addresses(self) -> int:
        """How many addresses the bookkeeping has."""
        return len(self._addresses)

    @property
    def crowded(self) -> bool:
        """Whether more connections are refused than there is room to answer."""
        return self._refused_now > MAX_REFUSED

    # -- the way of a connection ---------------------------------------------------------------

    def arrive(self, transport: Transport) -> tuple[Ticket, HandshakeRefused | None]:
        """A connection was accepted; give its place, and the refusal if there is one."""
        address = self._counted_as(transport.peer.rpartition(":")[0])
        ticket = Ticket(address)
        self._count += 1
        if address is not None:
            self._address(address).count += 1
        refused = None
        self._unasked -= 1
        if self._unasked < 0 and self._takes_a_spare_descriptor(transport):
            self._warn("the process has almost no descriptors left: refusing connections with 503")
            refused = self._refuse("descriptors", 503, "the server has no room")
        elif self._limit is not None and self._count > self._limit:
            refused = self._refuse("max_connections", 503, "the server is full")
        elif address is not None and self._over(address):
            refused = self._refuse("per_address", 429, "too many connections from this address")
        if refused is not None:
            self._exit(ticket)  # or one address could fill the server with refused connections
            ticket.refused = True
            self._refused_now += 1
        return ticket, refused

    def client_of(self, peer: str, headers: Headers) -> str:
        """The address of the client: the peer's, or what trusted proxies say."""
        host = _host_of(peer) if self._proxies else None
        if host is None or not _within(host, self._proxies):
            return peer
        chains = [chain for chain in (_forwarded(headers), _x_forwarded_for(headers)) if chain]
        told = {self._believed(chain) for chain in chains}
        # A proxy that knows one of the two fields passes on what the client wrote into the other one.
        client = told.pop() if len(told) == 1 else None
        return peer if client is None else client

    def _believed(self, chain: Sequence[str]) -> str | None:
        """The last address of ``chain`` that is no trusted proxy; ``None`` where that is no address."""
        host: IPAddress | None = None
        for forwarded in reversed(chain):
            host = _parse(forwarded)
            if host is None or not _within(host, self._proxies):
                break
        return None if host is None else str(host)

    def ask(self, ticket: Ticket, client: str, request: Request) -> None:
        """Its request is there: raises ``HandshakeRefused`` when it may not connect."""
        admission, now = self._admission, self._clock()
        if self._proxies:
            self._move(ticket, client)
        if now < self._shut_until:
            raise self._refuse("breaker", 503, "the server has trouble", after=self._shut_until - now)
        if not self._origin_allowed(request):
            raise self._refuse("origin", 403, "this Origin may not connect")
        address = ticket.address
        if address is not None and self._over(address):
            raise self._refuse("per_address", 429, "too many connections from this address")
        if address is not None and admission.handshakes_per_minute is not None:
            bucket = self._bucket(address, admission.handshakes_per_minute, now)
            if not bucket.take(now):
                wait = bucket.wait(1, now)
                raise self._refuse("handshakes", 429, "too many handshakes from this address", after=wait)
        if admission.key is not None and admission.per_key is not None:
            key = _call_key(admission.key, request)
            if key is not None:
                if self._keys[key] >= admission.per_key:
                    raise self._refuse("per_key", 429, "too many connections")
                self._keys[key] += 1
                ticket.key = key

    def leave(self, ticket: Ticket) -> None:
        """It has ended."""
        if ticket.left:
            return
        ticket.left = True
        if ticket.refused:
            self._refused_now -= 1
            return
        self._exit(ticket)
        if ticket.key is not None:
            self._keys[ticket.key] -= 1
            if not self._keys[ticket.key]:
                del self._keys[ticket.key]

    def opened(self, *, crashed: bool, lived: float) -> None:
        """A connection that was admitted has ended: what the breaker counts."""
        if not crashed or lived > FRESH:
            self._crashes = 0
        elif self._admission.breaker is not None:
            self._crashes += 1
            if self._crashes >= self._admission.breaker:
                # One more crash in a row shuts it again: the next connection is let in to try.
                self._crashes = self._admission.breaker - 1
                self._shut_until = self._clock() + self._admission.breaker_pause
                self._warn("fresh connections crash in a row: refusing new ones with 503")

    # ------------------------------------------------------------------------------------------

    def _find_counted_as(self, host: str) -> str | None:
        """Under which address a peer at ``host`` is counted; not at all on a Unix socket."""
        address = _parse(host)
        if address is None or _within(address, self._exempt) or _within(address, self._proxies):
            return None
        return _group(address)

    def _takes_a_spare_descriptor(self, transport: Transport) -> bool:
        descriptor = transport.descriptor
        if descriptor is None:
            return False
        room = descriptor_limit() - SPARE_DESCRIPTORS - descriptor
        self._unasked = min(LOOK_EVERY, room) - 1
        return room <= 0

    def _exit(self, ticket: Ticket) -> None:
        self._count -= 1
        self._exit_address(ticket)

    def _exit_address(self, ticket: Ticket) -> None:
        if ticket.address is None:
            return
        known = self._addresses.get(ticket.address)
        if known is not None:
            known.count -= 1
            if not known.count and (known.bucket is None or known.bucket.full_at() <= self._clock()):
                del self._addresses[ticket.address]

    def _move(self, ticket: Ticket, client: str) -> None:
        """A trusted proxy told the client's address: count the connection there."""
        host = _host_of(client)
        address = None if host is None or _within(host, self._exempt) else _group(host)
        if address != ticket.address:
            self._exit_address(ticket)
            ticket.address = address
            if address is not None:
                self._address(address).count += 1

    def _address(self, address: str) -> _Address:
        known = self._addresses.get(address)
        if known is None:
            if len(self._addresses) >= self._forget_at:
                self._forget_idle()
            known = self._addresses[address] = _Address()
        return known

    def _forget_idle(self) -> None:
        """Make room: drop addresses with nothing open, the recovered ones and at least a quarter."""
        now = self._clock()
        idle = [address for address, known in self._addresses.items() if not known.count]
        recovered = [one for one in idle if (b := self._addresses[one].bucket) is None or b.full_at() <= now]
        enough = len(self._addresses) // 4  # so that a spray does not pay for this at every connection
        for address in recovered if len(recovered) >= enough else idle[:enough]:
            del self._addresses[address]
        self._forget_at = max(MAX_ADDRESSES, len(self._addresses) * 5 // 4)

    def _bucket(self, address: str, per_minute: int, now: float) -> TokenBucket:
        known = self._address(address)
        if known.bucket is None:
            known.bucket = TokenBucket(per_minute / 60, per_minute, now)
        return known.bucket

    def _over(self, address: str) -> bool:
        cap = self._admission.per_address
        return cap is not None and self._addresses[address].count > cap

    def _origin_allowed(self, request: Request) -> bool:
        headers = request.headers
        if self._origins == "*" or "Origin" not in headers:
            return True
        origin = headers["Origin"]
        if isinstance(self._origins, str):
            return _same_host(origin, headers.get("Host", ""))
        return _origin_of(origin) in self._origins

    def _refuse(self, reason: str, status: int, text: str, *, after: float = 5.0) -> HandshakeRefused:
        self.refused[reason] += 1
        headers = {} if status == 403 else {"Retry-After": str(max(1, math.ceil(after)))}
        return HandshakeRefused(status, text, headers)

    def _warn(self, text: str) -> None:
        """Log, at most once a minute."""
        now = self._clock()
        if now - self._warned >= 60:
            self._warned = now
            logger.error("%s", text)


IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def _parse(text: str) -> IPAddress | None:
    """An address out of a forwarding header: with quotes, brackets or a port as they come."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    return _address_of(text)


@lru_cache(maxsize=1024)  # a client comes again and again, and parsing costs as much as a whole echo
def _address_of(text: str) -> IPAddress | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return address if mapped is None else mapped


def _host_of(peer: str) -> IPAddress | None:
    """The address in ``host:port`` or ``[host]:port``; ``None`` for a Unix socket."""
    if peer.startswith("[") or peer.count(":") <= 1:
        return _parse(peer)
    return _parse(f"[{peer}]")


def _group(host: IPAddress) -> str:
    """What stands for a client: its IPv4 address, or its IPv6 /64."""
    if isinstance(host, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((host, 64), strict=False))
    return str(host)


def _within(host: IPAddress, nets: Sequence[Network]) -> bool:
    return any(host.version == net.version and host in net for net in nets)


def _forwarded(headers: Headers) -> list[str]:
    """The addresses of ``Forwarded`` (RFC 7239), the client's first; ``""`` for a hop that tells none."""
    fields = headers.get_all("Forwarded")
    return [_for(element) for element in ",".join(fields).split(",")] if fields else []


def _for(element: str) -> str:
    pairs = (pair.partition("=") for pair in element.split(";"))
    return next((value for name, _, value in pairs if name.strip().lower() == "for"), "")


def _x_forwarded_for(headers: Headers) -> list[str]:
    """The addresses of ``X-Forwarded-For``, the client's first."""
    fields = headers.get_all("X-Forwarded-For")
    return ",".join(fields).split(",") if fields else []


def _call_key(key: Callable[[Request], Hashable], request: Request) -> Hashable:
    """What the program says that ``request`` counts for; raises ``HandshakeRefused`` when it fails."""
    try:
        found = key(request)
        hash(found)
    except BaseException as error:  # also SystemExit: it is the program's, and one connection's
        log_error(logger, error, "admission", "the key of the admission failed")
        raise HandshakeRefused(500, HTTPStatus.INTERNAL_SERVER_ERROR.phrase) from None
    return found


_USUAL_PORTS = {"http": 80, "https": 443}


def _origin_of(text: str) -> tuple[str, str, int | None] | None:
    """Scheme, host and port of a serialized origin (RFC 6454, section 6.2); ``null`` is none."""
    try:
        url = urlsplit(text)
        if not url.hostname or text.partition("://")[2] != url.netloc or "@" in url.netloc:
            return None
        return url.scheme, url.hostname, url.port or _USUAL_PORTS.get(url.scheme)
    except ValueError:
        return None


def _same_host(origin: str, host: str) -> bool:
    """Whether ``origin`` is a page of this ``host``; ``null`` is nobody's."""
    page = _origin_of(origin)
    return page is not None and page == _origin_of(f"{page[0]}://{host}")
