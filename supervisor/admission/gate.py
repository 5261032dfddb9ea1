"""Admission: who may connect.  Caps, rates, Origin, trusted proxies, and a breaker.

The way of a connection: ``Gate.arrive`` when it is accepted, before a byte is read; ``Gate.identify``
when its head is there, and then ``Gate.ask`` for a WebSocket or ``Gate.pipe`` for plain HTTP;
``Gate.come_back`` when a kept HTTP connection asks for something else, or a WebSocket is refused after
all; ``Gate.leave`` when it has ended, whatever ended it.

Each kind of connection has its own caps, and a connection meets those of what it wants: while that is
not known, or when it is refused, it is one of those that open.  Where they are too many, the one that
has opened for the longest goes, not the one that comes.

The bookkeeping is bounded: an address is forgotten when it has nothing open and its rate has recovered,
and at most ``MAX_ADDRESSES`` of them are known; IPv6 clients are known by their /64, which is what one of
them has.
"""

from __future__ import annotations

import ipaddress
import logging
import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import final

from actors import Request
from actors.protocol.opening import HandshakeRefused, fields_of
from actors.rates import TokenBucket
from actors.repeats import log_error
from actors.request import Headers
from actors.transports.transport import Transport
from supervisor.admission.breaker import Breaker
from supervisor.admission.forwarded import IPAddress, address_of, forwarded_for, forwarded_hosts
from supervisor.admission.options import (
    HTTP,
    OPENING,
    WEBSOCKET,
    Admission,
    Network,
    descriptor_limit,
    networks,
)
from supervisor.admission.origins import _origin_of, _same_host

logger = logging.getLogger("supervisor")

MAX_ADDRESSES = 65_536
"""Addresses that are known at the same time, besides those with open connections."""
MAX_REFUSED = 64
"""Connections that are told at the same time why they may not come in; more are dropped without a word."""
SPARE_DESCRIPTORS = 32
"""Descriptors kept free: a connection that takes one of them is answered 503 at once."""
LOOK_EVERY = 8
"""Connections of which one is asked for its descriptor: that costs more than all else that admission does."""
PIPED_DESCRIPTORS = 2
"""Descriptors that a pipe in this process takes besides its client's: to Robyn, and Robyn's own."""
TELL_AFTER = 8
"""Refusals of one address, for requests that tell of others, before the log says what may be wrong."""


@final
class _Address:
    """The bookkeeping of one client address."""

    __slots__ = ("bucket", "counts")

    def __init__(self) -> None:
        self.counts = [0, 0, 0]
        """Its connections by their ``Kind``."""
        self.bucket: TokenBucket | None = None


@final
class Ticket:
    """One accepted connection's place; given back exactly once."""

    __slots__ = ("address", "counts", "crowd", "key", "kind", "proxied")

    kind: int | None
    """Among which connections it has its place; ``None``: it has none, or none any more."""
    counts: list[int] | None
    """Those of its address; ``None`` where it is not counted by address."""

    def __init__(self, address: str | None) -> None:
        self.address = address
        self.counts = None
        self.kind = OPENING
        self.key: Hashable = None
        self.crowd = False
        """Whether it was refused on arrival: it takes no place but one of ``MAX_REFUSED``."""
        self.proxied = False
        """Whether it comes from a trusted proxy."""


@final
class Gate:
    """The admission of one server at work."""

    def __init__(self, admission: Admission, clock: Callable[[], float]) -> None:
        self._admission = admission
        self._clock = clock
        caps = admission.caps
        self._most = [math.inf if cap.total is None else cap.total for cap in caps]  # by kind
        self._most_each = [math.inf if cap.each is None else cap.each for cap in caps]
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
        self._counts = [0, 0, 0]  # by kind
        self._opening: dict[Ticket, Callable[[], object]] = {}  # the oldest first, with what drops it
        self._refused_now = 0
        self._unasked = 0  # connections that may still come before one is asked for its descriptor
        self._breaker = (
            None if admission.breaker is None else Breaker(admission.breaker, admission.breaker_pause)
        )
        self._warned: dict[str, float] = {}
        self._for_others: Counter[str] | None = Counter()  # None: the log has said it
        self.refused: Counter[str] = Counter()
        """How many connections were refused, by reason."""

    def __len__(self) -> int:
        return sum(self._counts)

    def count(self, kind: int) -> int:
        """Give the number of connections of one kind."""
        return self._counts[kind]

    @property
    def known_addresses(self) -> int:
        """The number of addresses in the bookkeeping."""
        return len(self._addresses)

    @property
    def crowded(self) -> bool:
        """Tell whether more connections are refused than there is room to answer."""
        return self._refused_now > MAX_REFUSED

    # -- the way of a connection ---------------------------------------------------------------

    def arrive(
        self, transport: Transport, drop: Callable[[], object]
    ) -> tuple[Ticket, HandshakeRefused | None]:
        """A connection was accepted; give its place, and the refusal if there is one.

        ``drop`` is called when others need its room before it is known what it wants.
        """
        address = self._counted_as(transport.peer.rpartition(":")[0])
        ticket = Ticket(address)
        self._counts[OPENING] += 1
        if address is not None:
            counts = ticket.counts = self._address(address).counts
            counts[OPENING] += 1
        refused = None
        self._unasked -= 1
        if self._unasked < 0 and self._takes_a_spare_descriptor(transport):
            self._warn("the process has almost no descriptors left: refusing connections with 503")
            refused = self.refuse("descriptors", 503, "the server has no room")
        elif address is not None and counts[OPENING] > self._most_each[OPENING]:
            refused = self.refuse("opening_per_address", 429, "too many connections from this address")
        if refused is not None:
            self._exit(ticket)  # or one address could fill the server with refused connections
            ticket.crowd = True
            self._refused_now += 1
        else:
            self._opening[ticket] = drop
            if self._counts[OPENING] > self._most[OPENING]:
                self._drop_the_oldest()
        return ticket, refused

    def come_back(self, ticket: Ticket, drop: Callable[[], object]) -> None:
        """It is one of those that open again: it asks for something else, or is refused after all."""
        self._move(ticket, OPENING)
        self._give_key_back(ticket)
        self._opening[ticket] = drop
        if self._counts[OPENING] > self._most[OPENING]:
            self._drop_the_oldest()

    def identify(self, ticket: Ticket, peer: str, headers: Headers) -> str:
        """Count the connection where it belongs; give its client's address as hooks see it."""
        proxy = self._proxy_at(peer) if self._proxies else None
        if proxy is None:
            return peer
        ticket.proxied = True
        client = self._told(headers)
        self._count_as(ticket, self._told_counts_as(client or proxy))
        return peer if client is None else str(client)

    def client_of(self, peer: str, headers: Headers) -> str:
        """The address of the client: the peer's, or what trusted proxies say."""
        client = None if self._proxy_at(peer) is None else self._told(headers)
        return peer if client is None else str(client)

    def ask(self, ticket: Ticket, request: Request) -> None:
        """It wants a WebSocket: raises ``HandshakeRefused`` when it may not have one."""
        admission, now = self._admission, self._clock()
        if not self._origin_allowed(ticket, request):
            host, origin = request.headers.get("Host", ""), request.headers["Origin"]
            raise self.refuse(
                "origin",
                403,
                f"the Origin {origin[:200]!r} may not connect to {host[:200]!r}: "
                "name it in Admission(origins=[...]) if it may",
            )
        if self._is_full(ticket, WEBSOCKET):
            self._wonder(ticket, request.headers)
            raise self._too_many(WEBSOCKET, "max_connections", "per_address")
        address = ticket.address
        if address is not None and admission.handshakes_per_minute is not None:
            bucket = self._bucket(address, admission.handshakes_per_minute, now)
            if not bucket.take(now):
                self._wonder(ticket, request.headers)
                wait = bucket.wait(1, now)
                raise self.refuse("handshakes", 429, "too many handshakes from this address", after=wait)
        if self._breaker is not None and self._breaker.votes and (wait := self._breaker.wait(address, now)):
            raise self.refuse("breaker", 503, "the server has trouble", after=wait)
        if admission.key is not None and admission.per_key is not None:
            key = _call_key(admission.key, request)
            if key is not None:
                if self._keys[key] >= admission.per_key:
                    raise self.refuse("per_key", 429, "too many connections")
                self._keys[key] += 1
                ticket.key = key
        self._move(ticket, WEBSOCKET)

    def pipe(self, ticket: Ticket, peer: str, head: bytes) -> None:
        """It wants plain HTTP: raises ``HandshakeRefused`` when there is no room for it.

        A connection that a trusted proxy keeps for many counts for whose request came first.
        """
        if self._proxy_at(peer) is not None:
            self.identify(ticket, peer, Headers(fields_of(head)))
        if self._is_full(ticket, HTTP):
            self._wonder(ticket, Headers(fields_of(head)))
            raise self._too_many(HTTP, "max_http", "http_per_address")
        self._unasked -= PIPED_DESCRIPTORS
        self._move(ticket, HTTP)

    def leave(self, ticket: Ticket) -> None:
        """It has ended."""
        if ticket.crowd:
            ticket.crowd = False
            self._refused_now -= 1
        elif ticket.kind is not None:
            self._exit(ticket)
            if ticket.key is not None:
                self._give_key_back(ticket)

    def got_through(self) -> None:
        """A WebSocket has got through its ``on_connect``."""
        if self._breaker is not None and self._breaker.votes:
            self._breaker.got_through()

    def crashed(self, ticket: Ticket) -> None:
        """A WebSocket has crashed before its ``on_connect`` was through."""
        if self._breaker is not None and self._breaker.crashed(ticket.address, self._clock()):
            self._warn(
                f"the fresh connections of {self._admission.breaker} addresses crashed and nobody's got "
                "through on_connect: refusing new ones of those addresses with 503"
            )

    def refuse(self, reason: str, status: int, text: str, *, after: float = 5.0) -> HandshakeRefused:
        """Count a refusal, and give it."""
        self.refused[reason] += 1
        headers = {} if status == 403 else {"Retry-After": str(max(1, math.ceil(after)))}
        return HandshakeRefused(status, text, headers)

    # ------------------------------------------------------------------------------------------

    def _find_counted_as(self, host: str) -> str | None:
        """Under which address a peer at ``host`` is counted; not at all on a Unix socket."""
        address = _host_of(host)
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

    def _drop_the_oldest(self) -> None:
        """Make room for one that comes: what has been opening for the longest goes."""
        oldest = next(iter(self._opening))
        self.refused["max_opening"] += 1
        self._opening[oldest]()
        self.leave(oldest)

    def _move(self, ticket: Ticket, kind: int) -> None:
        """Let the connection be one of another kind."""
        before = ticket.kind
        assert before is not None, "a connection that has ended, or was refused on arrival, wants nothing"
        if before == OPENING:
            del self._opening[ticket]
        ticket.kind = kind
        self._counts[before] -= 1
        self._counts[kind] += 1
        if (counts := ticket.counts) is not None:
            counts[before] -= 1
            counts[kind] += 1

    def _exit(self, ticket: Ticket) -> None:
        kind, ticket.kind = ticket.kind, None
        assert kind is not None, "it had a place"
        if kind == OPENING:
            self._opening.pop(ticket, None)  # one that is refused on arrival is not there
        self._counts[kind] -= 1
        if ticket.counts is not None:
            self._exit_address(ticket, kind)

    def _exit_address(self, ticket: Ticket, kind: int) -> None:
        counts, address = ticket.counts, ticket.address
        if counts is None or address is None:
            return
        ticket.counts = None
        counts[kind] -= 1
        if not any(counts):
            bucket = self._addresses[address].bucket
            if bucket is None or bucket.full_at() <= self._clock():
                del self._addresses[address]

    def _count_as(self, ticket: Ticket, address: str | None) -> None:
        """Count the connection under another address."""
        kind = ticket.kind
        if address != ticket.address and kind is not None:
            self._exit_address(ticket, kind)
            ticket.address = address
            if address is not None:
                ticket.counts = self._address(address).counts
                ticket.counts[kind] += 1

    def _give_key_back(self, ticket: Ticket) -> None:
        if (key := ticket.key) is not None:
            ticket.key = None
            self._keys[key] -= 1
            if not self._keys[key]:
                del self._keys[key]

    def _is_full(self, ticket: Ticket, kind: int) -> bool:
        """Tell whether one more of a kind is too many, for the server or for its address."""
        counts = ticket.counts
        return self._counts[kind] >= self._most[kind] or (
            counts is not None and counts[kind] >= self._most_each[kind]
        )

    def _too_many(self, kind: int, total: str, each: str) -> HandshakeRefused:
        """Refuse one more of a kind, with the option that says so."""
        if self._counts[kind] >= self._most[kind]:
            return self.refuse(total, 503, "the server is full")
        return self.refuse(each, 429, "too many connections from this address")

    # -- whom trusted proxies tell of ----------------------------------------------------------

    def _proxy_at(self, peer: str) -> IPAddress | None:
        """The trusted proxy that ``peer`` is."""
        host = _host_of(peer) if self._proxies else None
        return host if host is not None and _within(host, self._proxies) else None

    def _told(self, headers: Headers) -> IPAddress | None:
        """The client's address as the trusted proxies tell it; ``None`` where there is none to believe."""
        told = {self._believed(chain) for chain in forwarded_for(headers)}
        # A proxy that knows one of the two fields passes on what the client wrote into the other one.
        return told.pop() if len(told) == 1 else None

    def _believed(self, chain: Sequence[IPAddress | None]) -> IPAddress | None:
        """The last address of ``chain`` that is no trusted proxy; ``None`` where that is no address."""
        host: IPAddress | None = None
        for host in reversed(chain):
            if host is None or not _within(host, self._proxies):
                break
        return host

    def _told_counts_as(self, host: IPAddress) -> str | None:
        """Under which address a client counts that comes through a proxy, or that proxy itself.

        A client must not get exempt by what it writes: behind a proxy nobody is at a loopback address, and
        a trusted proxy stands for those of whom it tells nothing.
        """
        exempt = _within(host, self._exempt) and not host.is_loopback and not _within(host, self._proxies)
        return None if exempt else _group(host)

    def _wonder(self, ticket: Ticket, headers: Headers) -> None:
        """Say once that an address which is refused again and again may be a proxy of the program's."""
        address, suspects = ticket.address, self._for_others
        told = next((name for name in ("Forwarded", "X-Forwarded-For") if name in headers), None)
        if suspects is None or address is None or ticket.proxied or told is None:
            return
        if len(suspects) >= MAX_REFUSED:
            suspects.clear()
        suspects[address] += 1
        if suspects[address] >= TELL_AFTER:
            self._for_others = None
            logger.warning(
                "connections from %s are refused, as too many of one address, and their requests have %s: if "
                "that is a proxy or load balancer of yours, give Admission(trusted_proxies=[%r])",
                address,
                told,
                address,
            )

    # -- addresses -----------------------------------------------------------------------------

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
        idle = [address for address, known in self._addresses.items() if not any(known.counts)]
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

    def _origin_allowed(self, ticket: Ticket, request: Request) -> bool:
        headers = request.headers
        if self._origins == "*" or "Origin" not in headers:
            return True
        origin = headers["Origin"]
        if not isinstance(self._origins, str):
            return _origin_of(origin) in self._origins
        if _same_host(origin, headers.get("Host", "")):
            return True
        return ticket.proxied and any(_same_host(origin, host) for host in forwarded_hosts(headers))

    def _warn(self, text: str) -> None:
        """Log, at most once a minute."""
        now = self._clock()
        if now - self._warned.get(text, -math.inf) >= 60:
            self._warned[text] = now
            logger.error("%s", text)


def _host_of(peer: str) -> IPAddress | None:
    """The address in ``host:port`` or ``[host]:port``, or alone; ``None`` for a Unix socket."""
    if peer.startswith("["):
        return address_of(peer[1:].partition("]")[0])
    return address_of(peer.partition(":")[0] if peer.count(":") == 1 else peer)


def _group(host: IPAddress) -> str:
    """Give what stands for a client: its IPv4 address, or its IPv6 /64."""
    if isinstance(host, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((host, 64), strict=False))
    return str(host)


def _within(host: IPAddress, nets: Sequence[Network]) -> bool:
    return any(host.version == net.version and host in net for net in nets)


def _call_key(key: Callable[[Request], Hashable], request: Request) -> Hashable:
    """Ask the program what ``request`` counts for; raises ``HandshakeRefused`` when it fails."""
    try:
        found = key(request)
        hash(found)
    except BaseException as error:  # also SystemExit: it is the program's, and one connection's
        log_error(logger, error, "admission", "the key of the admission failed")
        raise HandshakeRefused(500, HTTPStatus.INTERNAL_SERVER_ERROR.phrase) from None
    return found
