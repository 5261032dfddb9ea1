"""Admission: caps, rates, Origin, trusted proxies, the breaker; by a clock of the test, then over sockets."""

from __future__ import annotations

import logging
import resource
from collections import Counter
from collections.abc import AsyncIterator, Hashable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import chain
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors import ConnectionActor, Refusal, Request
from actors.protocol.opening import HandshakeRefused
from actors.request import Headers
from actors.transports.transport import Transport
from supervisor import Admission
from supervisor.admission import gate as admission_module
from supervisor.admission.gate import LOOK_EVERY, MAX_REFUSED, SPARE_DESCRIPTORS, TELL_AFTER, Gate, Ticket
from supervisor.admission.options import Kind
from tests.raw import RawClient, raw_client
from tests.witness import serving, until

CLIENT = "203.0.113.1:5000"
PROXY = "10.0.0.1:5000"
PROXIES = ("10.0.0.0/8", "2001:db8:ffff::/48")


def request(fields: list[tuple[str, str]]) -> Request:
    return Request("/", headers=Headers(fields), client=CLIENT)


class Door:
    """A gate whose time is the test's."""

    def __init__(self, **options: Any) -> None:
        self.now = 1000.0
        self.gate = Gate(Admission(**options), lambda: self.now)
        self.dropped: list[str] = []

    def come(
        self,
        peer: str = CLIENT,
        *fields: tuple[str, str],
        descriptor: int | None = None,
        http: bool = False,
    ) -> tuple[Ticket, HandshakeRefused | None]:
        """Connect and ask for a WebSocket, or for ``http``; give the place, and the refusal if any."""
        transport = cast(Transport, SimpleNamespace(peer=peer, descriptor=descriptor))
        ticket, refused = self.gate.arrive(transport, lambda: self.dropped.append(peer))
        if refused is not None:
            return ticket, refused
        asked = request(list(fields))
        self.gate.identify(ticket, peer, asked.headers)
        try:
            if http:
                lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
                self.gate.pipe(ticket, peer, f"POST / HTTP/1.1\r\n{lines}\r\n".encode("latin-1"))
            else:
                self.gate.ask(ticket, asked)
        except HandshakeRefused as error:
            return ticket, error
        return ticket, None

    def open(self, peer: str = CLIENT) -> Ticket:
        """Connect and say nothing."""
        transport = cast(Transport, SimpleNamespace(peer=peer, descriptor=None))
        ticket, refused = self.gate.arrive(transport, lambda: self.dropped.append(peer))
        assert refused is None
        return ticket

    def visit(self, peer: str = CLIENT, *fields: tuple[str, str]) -> int:
        """Connect, ask, and go away again; give the status of the answer."""
        ticket, refused = self.come(peer, *fields)
        self.gate.leave(ticket)
        return 101 if refused is None else refused.status


def status_of(refused: HandshakeRefused | None) -> int:
    return 101 if refused is None else refused.status


# -- options -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"per_address": 0}, ValueError, "^per_address: .*at least 1"),
        ({"max_connections": True}, TypeError, "^max_connections: a whole number"),
        ({"handshakes_per_minute": 1.5}, TypeError, "^handshakes_per_minute: a whole number"),
        ({"breaker": -1}, ValueError, "^breaker: .*at least 1"),
        ({"max_http": 0}, ValueError, "^max_http: .*at least 1"),
        ({"http_per_address": "3"}, TypeError, "^http_per_address: a whole number"),
        ({"max_opening": -1}, ValueError, "^max_opening: .*at least 1"),
        ({"opening_per_address": 2.0}, TypeError, "^opening_per_address: a whole number"),
        ({"breaker_pause": None}, TypeError, "^breaker_pause: seconds"),
        ({"breaker_pause": 0}, ValueError, "^breaker_pause: seconds"),
        ({"per_key": 3}, ValueError, "^per_key, key: one needs the other"),
        ({"key": hash}, ValueError, "^per_key, key: one needs the other"),
        ({"origins": "https://example.com"}, ValueError, "^origins: 'same host'"),
        ({"trusted_proxies": "10.0.0.1"}, TypeError, "^trusted_proxies: .*not '10.0.0.1'"),
        ({"trusted_proxies": ["10.0.0.1/8"]}, ValueError, "^trusted_proxies: .*host bits"),
        ({"exempt": ["localhost"]}, ValueError, "^exempt: "),
        *(
            ({"origins": [origin]}, ValueError, "^origins: .* is no origin")
            for origin in (
                "example.com",
                "null",
                "*",
                "https://example.com/",
                "https://example.com?x",
                "https://example.com#x",
                "https://me@example.com",
                "https://example.com:port",
                "https://",
            )
        ),
    ],
)
def test_an_option_that_cannot_work_is_an_error_that_names_it(
    options: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        Admission(**options)


# -- caps --------------------------------------------------------------------------------------


@pytest.fixture
def few_descriptors() -> Iterator[int]:
    """A descriptor limit of 256 for this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    yield 256
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_default_caps_are_parts_of_the_descriptor_limit(few_descriptors: int) -> None:
    opening, http, websockets = Admission().caps

    assert (opening, http, websockets) == ((51, 25), (51, 12), (204, 128))
    assert Admission(max_connections=300, max_http=None, max_opening=7).caps == (
        (7, 3),
        (None, 512),
        (300, 128),
    )
    assert Admission(max_connections=None, per_address=None).caps[2] == (None, None)


def test_the_default_caps_have_an_upper_bound_where_there_are_descriptors_enough() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 20_000:
        pytest.fail(f"this machine allows {hard} descriptors, too few for this test")
    resource.setrlimit(resource.RLIMIT_NOFILE, (20_000, hard))
    try:
        assert Admission().caps == ((4000, 512), (4000, 512), (10_000, 128))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_one_of_the_last_descriptors_is_answered_503_and_logged_once_a_minute(
    few_descriptors: int, caplog: pytest.LogCaptureFixture
) -> None:
    door = Door()

    _, last_but_one = door.come(descriptor=few_descriptors - SPARE_DESCRIPTORS - 1)
    refused = [door.come(descriptor=few_descriptors - SPARE_DESCRIPTORS)[1] for _ in range(3)]
    logged = len(caplog.records)
    door.now += 60
    door.come(descriptor=few_descriptors - 1)

    assert last_but_one is None
    assert [status_of(one) for one in refused] == [503] * 3
    assert door.gate.refused["descriptors"] == 4
    assert (logged, len(caplog.records)) == (1, 2)


def test_one_connection_of_eight_is_asked_for_its_descriptor_and_each_where_the_next_may_be_spare(
    few_descriptors: int,
) -> None:
    door = Door()
    first_spare = few_descriptors - SPARE_DESCRIPTORS

    unseen = [door.come(descriptor=0), *(door.come(descriptor=first_spare) for _ in range(LOOK_EVERY - 1))]
    _, seen = door.come(descriptor=first_spare)
    near = [door.come(descriptor=first_spare - 2), door.come(descriptor=first_spare - 1)]
    _, over = door.come(descriptor=first_spare)

    assert [refused for _, refused in unseen + near] == [None] * 10
    assert (status_of(seen), status_of(over)) == (503, 503)


def test_one_connection_over_the_cap_gets_503_until_another_one_ends() -> None:
    door = Door(max_connections=2)
    first, _ = door.come("203.0.113.1:1")
    door.come("203.0.113.2:1")

    assert door.visit("203.0.113.3:1") == 503
    door.gate.leave(first)
    assert door.visit("203.0.113.3:1") == 101
    assert door.gate.refused == {"max_connections": 1}


def test_one_connection_over_the_cap_of_its_address_gets_429_and_other_addresses_do_not() -> None:
    door = Door(per_address=2)
    first, _ = door.come("203.0.113.1:1")
    door.come("203.0.113.1:2")

    assert door.visit("203.0.113.1:3") == 429
    assert door.visit("203.0.113.2:1") == 101
    door.gate.leave(first)
    assert door.visit("203.0.113.1:4") == 101
    assert door.gate.refused == {"per_address": 1}


def test_a_place_is_given_back_once() -> None:
    door = Door(max_connections=1)
    ticket, _ = door.come()

    door.gate.leave(ticket)
    door.gate.leave(ticket)

    assert len(door.gate) == 0


def test_what_is_refused_on_arrival_takes_no_place_and_its_crowd_is_not_answered() -> None:
    door = Door(opening_per_address=2)
    for port in range(2):
        door.open(f"203.0.113.1:{port}")

    refused = []
    while not door.gate.crowded:
        refused.append(door.come("203.0.113.1:9")[0])

    assert len(refused) == MAX_REFUSED + 1
    assert len(door.gate) == 2
    assert door.visit("203.0.113.2:1") == 101, "one address cannot fill the server"
    door.gate.leave(refused[0])
    assert not door.gate.crowded


# -- kinds -------------------------------------------------------------------------------------


@pytest.mark.parametrize("full_of_http", [False, True])
def test_a_kind_at_its_cap_leaves_the_other_one_alone(full_of_http: bool) -> None:
    door = Door(max_connections=2, max_http=2)
    for number in range(2):
        assert door.come(f"203.0.113.{number}:1", http=full_of_http)[1] is None

    refused = door.come("203.0.113.3:1", http=full_of_http)[1]
    other = door.come("203.0.113.4:1", http=not full_of_http)[1]

    assert (status_of(refused), other) == (503, None)
    assert door.gate.refused == {"max_http" if full_of_http else "max_connections": 1}


@pytest.mark.parametrize("full_of_http", [False, True])
def test_an_address_at_its_cap_of_one_kind_has_its_other_one(full_of_http: bool) -> None:
    door = Door(per_address=2, http_per_address=2)
    for _ in range(2):
        assert door.come(http=full_of_http)[1] is None

    assert status_of(door.come(http=full_of_http)[1]) == 429
    assert door.come(http=not full_of_http)[1] is None
    assert door.come("203.0.113.9:1", http=full_of_http)[1] is None
    assert door.gate.refused == {"http_per_address" if full_of_http else "per_address": 1}


def test_the_kinds_are_counted_and_a_kept_connection_that_asks_for_a_websocket_moves() -> None:
    door = Door()
    ticket, _ = door.come(http=True)
    assert [door.gate.count(kind) for kind in Kind] == [0, 1, 0]

    door.gate.come_back(ticket, lambda: None)
    assert [door.gate.count(kind) for kind in Kind] == [1, 0, 0]
    door.gate.ask(ticket, request([]))

    assert [door.gate.count(kind) for kind in Kind] == [0, 0, 1]
    door.gate.leave(ticket)
    assert [door.gate.count(kind) for kind in Kind] == [0, 0, 0]
    assert door.gate.known_addresses == 1, "its rate"


def test_where_too_many_open_the_oldest_goes_and_whoever_comes_is_let_in() -> None:
    door = Door(max_opening=3)
    for number in range(3):
        door.open(f"203.0.113.{number}:1")

    assert door.visit("198.51.100.7:1") == 101

    assert door.dropped == ["203.0.113.0:1"]
    assert len(door.gate) == 2
    assert door.gate.refused == {"max_opening": 1}


def test_who_is_refused_is_one_of_those_that_open_until_it_goes() -> None:
    door = Door(per_address=1, max_opening=2, opening_per_address=None)
    door.come()
    lingering = [door.come()[0] for _ in range(3)]

    assert door.gate.count(Kind.OPENING) == 2
    assert door.dropped == [CLIENT]
    for ticket in lingering:
        door.gate.leave(ticket)
    assert len(door.gate) == 1


def test_pipes_in_this_process_are_reckoned_with_before_their_descriptors_are_there(
    few_descriptors: int,
) -> None:
    door = Door(http_per_address=None)
    door.come(descriptor=0)

    for _ in range(3):  # nine descriptors, of which eight may be unseen
        assert door.come(descriptor=0, http=True)[1] is None

    assert status_of(door.come(descriptor=few_descriptors - SPARE_DESCRIPTORS)[1]) == 503


def test_a_place_that_was_given_back_or_never_was_there_is_not_asked_for() -> None:
    door = Door(opening_per_address=1, per_key=1, key=user_of)
    gone, _ = door.come()
    door.gate.leave(gone)
    door.open()
    refused, _ = door.come()

    for ticket in (gone, refused):
        with pytest.raises(AssertionError, match="wants nothing"):
            door.gate.come_back(ticket, lambda: None)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("203.0.113.1:1", "203.0.113.1:2", True),
        ("203.0.113.1:1", "[::ffff:203.0.113.1]:2", True),
        ("[2001:db8::1]:1", "[2001:db8::ffff:2]:1", True),
        ("[2001:db8::1]:1", "[2001:db8:0:1::1]:1", False),
        ("[fe80::1%eth0]:1", "[fe80::2%eth0]:1", True),
        ("203.0.113.1:1", "203.0.113.2:1", False),
        ("unix", "unix", False),
        ("", "", False),
        ("127.0.0.1:1", "127.0.0.1:2", False),
        ("[::1]:1", "[::1]:2", False),
        ("[::ffff:127.0.0.1]:1", "[::ffff:127.0.0.1]:2", False),
    ],
)
def test_who_counts_as_one_client(one: str, other: str, same: bool) -> None:
    """An IPv6 network of 64 bits is one; loopback, a Unix socket and who is gone already are not counted."""
    door = Door(per_address=1)
    door.come(one)

    assert door.visit(other) == (429 if same else 101)


def test_loopback_is_counted_when_nothing_is_exempt() -> None:
    door = Door(per_address=1, exempt=())
    door.come("127.0.0.1:1")

    assert door.visit("127.0.0.1:2") == 429


# -- rates -------------------------------------------------------------------------------------


def test_the_handshakes_of_an_address_have_a_rate_and_the_refusal_says_when_to_come_again() -> None:
    door = Door(handshakes_per_minute=6)

    statuses = [door.visit() for _ in range(8)]
    _, refused = door.come()
    elsewhere = door.visit("203.0.113.2:1")
    assert refused is not None
    door.now += int(refused.headers["Retry-After"])

    assert statuses == [101] * 6 + [429] * 2
    assert refused.headers == {"Retry-After": "10"}
    assert elsewhere == 101
    assert [door.visit(), door.visit()] == [101, 429]
    assert door.gate.refused["handshakes"] == 4


def test_whoever_waits_as_long_as_retry_after_says_gets_in() -> None:
    door = Door(handshakes_per_minute=40)  # a token takes 1.5 s, which is no whole number
    while door.visit() == 101:
        pass
    _, refused = door.come()
    assert refused is not None
    door.now += int(refused.headers["Retry-After"])

    assert door.visit() == 101


# -- keys --------------------------------------------------------------------------------------


def user_of(request: Request) -> Hashable:
    return request.headers.get("User")


def test_a_key_has_its_own_cap_whatever_the_address() -> None:
    door = Door(per_key=2, key=user_of)
    first, _ = door.come("203.0.113.1:1", ("User", "ada"))
    door.come("203.0.113.2:1", ("User", "ada"))

    assert door.visit("203.0.113.3:1", ("User", "ada")) == 429
    assert door.visit("203.0.113.3:1", ("User", "bob")) == 101
    door.gate.leave(first)
    assert door.visit("203.0.113.3:1", ("User", "ada")) == 101
    assert door.gate.refused == {"per_key": 1}


def test_a_key_of_none_is_not_counted() -> None:
    door = Door(per_key=1, key=user_of)

    assert [status_of(door.come()[1]) for _ in range(3)] == [101] * 3


class Stop(BaseException):
    pass


def raises(error: BaseException) -> Any:
    def key(request: Request) -> Hashable:
        raise error

    return key


@pytest.mark.parametrize("key", [lambda request: ["no", "hash"], raises(KeyError("x")), raises(Stop())])
def test_a_key_that_fails_is_answered_500_and_logged(key: Any, caplog: pytest.LogCaptureFixture) -> None:
    door = Door(per_key=1, key=key)

    ticket, refused = door.come()
    door.gate.leave(ticket)

    assert status_of(refused) == 500
    assert "the key of the admission failed" in caplog.text
    assert len(door.gate) == 0


# -- Origin ------------------------------------------------------------------------------------

SAME_HOST = {
    "http://example.com": 101,
    "https://example.com": 101,
    "HTTPS://EXAMPLE.COM": 101,
    "https://example.com:443": 101,
    "http://example.com:80": 101,
    "https://example.com:80": 403,
    "https://example.com:8443": 403,
    "https://sub.example.com": 403,
    "https://example.com.evil.test": 403,
    "https://evil.test/example.com": 403,
    "https://example.com@evil.test": 403,
    "https://evil.test@example.com": 403,
    "https://exam\tple.com": 403,
    "example.com": 403,
    "null": 403,
    "": 403,
    "file://": 403,
    "https://[": 403,
    "https://example.com:port": 403,
    "https://example.com https://evil.test": 403,
}


@pytest.mark.parametrize(("origin", "status"), SAME_HOST.items())
def test_by_default_a_page_of_the_same_host_may_connect(origin: str, status: int) -> None:
    assert Door().visit(CLIENT, ("Host", "example.com"), ("Origin", origin)) == status


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("example.com:8080", "http://example.com:8080", 101),
        ("example.com:8080", "http://example.com", 403),
        ("EXAMPLE.com", "https://example.com", 101),
        ("example.com:443", "https://example.com", 101),
        ("[::1]:8080", "http://[::1]:8080", 101),
        ("[2001:DB8::1]", "https://[2001:db8::1]", 101),
        ("[::1]:8080", "http://[::2]:8080", 403),
        ("", "https://example.com", 403),
        ("", "https://", 403),
        ("[", "https://example.com", 403),
    ],
)
def test_the_same_host_is_that_of_the_host_field_with_its_port(host: str, origin: str, status: int) -> None:
    assert Door().visit(CLIENT, ("Host", host), ("Origin", origin)) == status


def test_who_sends_no_origin_is_no_browser_and_may_connect() -> None:
    for origins in ("same host", "*", ["https://example.com"]):
        assert Door(origins=origins).visit(CLIENT, ("Host", "example.com")) == 101


@pytest.mark.parametrize(
    ("origins", "origin", "status"),
    [
        (["https://app.example.com"], "https://app.example.com", 101),
        (["https://app.example.com"], "HTTPS://App.Example.com:443", 101),
        (["https://app.example.com:443"], "https://app.example.com", 101),
        (["https://app.example.com"], "http://app.example.com", 403),
        (["https://app.example.com"], "https://api.example.com", 403),
        (["https://app.example.com"], "null", 403),
        (["http://localhost:3000", "http://[::1]:3000"], "http://[::1]:3000", 101),
        ([], "https://api.example.com", 403),
        ("*", "https://evil.test", 101),
        ("*", "null", 101),
    ],
)
def test_a_list_of_origins_is_what_may_connect(origins: Any, origin: str, status: int) -> None:
    door = Door(origins=origins)

    assert door.visit(CLIENT, ("Host", "api.example.com"), ("Origin", origin)) == status
    assert door.gate.refused["origin"] == (status == 403)


def test_a_403_says_nothing_about_coming_again() -> None:
    _, refused = Door().come(CLIENT, ("Host", "example.com"), ("Origin", "https://evil.test"))

    assert refused is not None
    assert "Retry-After" not in refused.headers


def test_a_403_names_both_sides_and_the_option() -> None:
    _, refused = Door().come(CLIENT, ("Host", "app.example"), ("Origin", "https://evil.test"))

    assert refused is not None
    assert refused.text == (
        "the Origin 'https://evil.test' may not connect to 'app.example': "
        "name it in Admission(origins=[...]) if it may"
    )
    _, refused = Door().come(CLIENT, ("Host", "a" * 5000), ("Origin", "b" * 5000))
    assert refused is not None
    assert len(refused.text) < 600


@pytest.mark.parametrize(
    ("peer", "fields", "status"),
    [
        (PROXY, [("X-Forwarded-Host", "app.example")], 101),
        (PROXY, [("X-Forwarded-Host", "app.example, inner.example")], 101),
        (PROXY, [("Forwarded", 'for=198.51.100.7;host="app.example:443"')], 101),
        (PROXY, [("Host", "app.example")], 101),
        (PROXY, [("X-Forwarded-Host", "app.example.evil.test")], 403),
        (PROXY, [("X-Forwarded-Host", "app.example:8443")], 403),
        (PROXY, [("Forwarded", 'host="app.example')], 403),
        (PROXY, [], 403),
        (CLIENT, [("X-Forwarded-Host", "app.example")], 403),
        (CLIENT, [("Forwarded", "host=app.example")], 403),
    ],
)
def test_the_host_that_a_trusted_proxy_was_asked_for_is_the_same_host(
    peer: str, fields: list[tuple[str, str]], status: int
) -> None:
    door = Door(trusted_proxies=["10.0.0.0/8"])
    origin = ("Origin", "https://app.example")
    inner = [] if any(name == "Host" for name, _ in fields) else [("Host", "inner:8000")]

    assert door.visit(peer, origin, *inner, *fields) == status


# -- trusted proxies ---------------------------------------------------------------------------

FORWARDED = "Forwarded"
FOR = "X-Forwarded-For"
CHAINS: list[tuple[str, list[tuple[str, str]], str]] = [
    # From somebody who is no proxy of ours nothing is believed.
    (CLIENT, [(FOR, "198.51.100.7")], CLIENT),
    (CLIENT, [(FORWARDED, "for=198.51.100.7")], CLIENT),
    ("unix", [(FOR, "198.51.100.7")], "unix"),
    # One proxy.
    (PROXY, [(FOR, "198.51.100.7")], "198.51.100.7"),
    (PROXY, [(FOR, "198.51.100.7:4711")], "198.51.100.7"),
    (PROXY, [(FOR, " 2001:db8::7 ")], "2001:db8::7"),
    (PROXY, [(FOR, "[2001:db8::7]:4711")], "2001:db8::7"),
    (PROXY, [(FOR, "::ffff:198.51.100.7")], "198.51.100.7"),
    (PROXY, [(FORWARDED, "for=198.51.100.7;proto=https;by=10.0.0.1")], "198.51.100.7"),
    (PROXY, [(FORWARDED, 'proto=https; FOR="198.51.100.7:80"')], "198.51.100.7"),
    (PROXY, [(FORWARDED, 'for="[2001:db8::7]:4711"')], "2001:db8::7"),
    ("[2001:db8:ffff::1]:5000", [(FOR, "198.51.100.7")], "198.51.100.7"),
    ("[::ffff:10.0.0.1]:5000", [(FOR, "198.51.100.7")], "198.51.100.7"),
    # What the client wrote itself stands in front of what the proxy wrote.
    (PROXY, [(FOR, "1.1.1.1, 198.51.100.7")], "198.51.100.7"),
    (PROXY, [(FOR, "1.1.1.1"), (FOR, "198.51.100.7")], "198.51.100.7"),
    (PROXY, [(FOR, "garbage, 198.51.100.7")], "198.51.100.7"),
    (PROXY, [(FOR, "127.0.0.1, 10.0.0.9, 198.51.100.7")], "198.51.100.7"),
    (PROXY, [(FORWARDED, "for=1.1.1.1, for=198.51.100.7")], "198.51.100.7"),
    (PROXY, [(FORWARDED, 'for="1.1.1.1'), (FORWARDED, "for=198.51.100.7")], "198.51.100.7"),
    # A chain of proxies.
    (PROXY, [(FOR, "1.1.1.1, 198.51.100.7, 10.0.0.2, 2001:db8:ffff::2")], "198.51.100.7"),
    (PROXY, [(FORWARDED, "for=1.1.1.1, for=198.51.100.7, for=10.0.0.2")], "198.51.100.7"),
    (PROXY, [(FOR, "10.0.0.3, 10.0.0.2")], "10.0.0.3"),
    # Who tells no address is not passed over: what stands in front of it may be anybody's.
    (PROXY, [], PROXY),
    (PROXY, [(FOR, "")], PROXY),
    (PROXY, [(FOR, "1.1.1.1, unknown")], PROXY),
    (PROXY, [(FORWARDED, "for=_hidden")], PROXY),
    (PROXY, [(FORWARDED, "for=1.1.1.1, for=unknown")], PROXY),
    (PROXY, [(FORWARDED, "for=1.1.1.1, proto=https;by=10.0.0.1")], PROXY),
    (PROXY, [(FORWARDED, "for=1.1.1.1, for=_hidden, for=10.0.0.2")], PROXY),
    # A proxy that writes one field passes the other one on.
    (PROXY, [(FORWARDED, "for=1.1.1.1"), (FOR, "198.51.100.7")], PROXY),
    (PROXY, [(FOR, "1.1.1.1"), (FORWARDED, "for=198.51.100.7")], PROXY),
    (PROXY, [(FORWARDED, "for=198.51.100.7"), (FOR, "1.1.1.1, 198.51.100.7")], "198.51.100.7"),
]


@pytest.mark.parametrize(("peer", "fields", "client"), CHAINS)
def test_the_client_is_the_last_address_that_is_no_trusted_proxy(
    peer: str, fields: list[tuple[str, str]], client: str
) -> None:
    door = Door(trusted_proxies=PROXIES)

    assert door.gate.client_of(peer, request(fields).headers) == client


LIES: list[list[tuple[str, str]]] = [
    [],
    [(FORWARDED, "for=unknown")],
    [(FORWARDED, "for=_me")],
    [(FORWARDED, "")],
    [(FORWARDED, 'for="')],
    [(FORWARDED, "garbage")],
    [(FOR, "")],
    [(FOR, "unknown")],
    [(FOR, "127.0.0.9")],
    [(FOR, "127.0.0.1")],
    [(FOR, "::1")],
    [(FOR, "::ffff:127.0.0.9")],
    [(FORWARDED, "for=127.0.0.9")],
    [(FORWARDED, 'for="[::1]"')],
    [(FOR, "127.0.0.9, 127.0.0.1")],
    [(FORWARDED, "for=unknown"), (FOR, "198.51.100.7")],
    [(FORWARDED, "for=127.0.0.9"), (FOR, "198.51.100.7")],
    [(FOR, "127.0.0.9"), (FORWARDED, "for=198.51.100.7")],
]


@pytest.mark.parametrize("http", [False, True])
@pytest.mark.parametrize("proxy", ["127.0.0.1:5000", "[::1]:5000", "10.0.0.1:5000"])
@pytest.mark.parametrize("fields", LIES)
def test_nothing_that_a_client_writes_behind_a_proxy_makes_it_uncounted(
    proxy: str, fields: list[tuple[str, str]], http: bool
) -> None:
    door = Door(trusted_proxies=["127.0.0.1", "::1", "10.0.0.0/8"], per_address=3, http_per_address=3)

    statuses = [status_of(door.come(proxy, *fields, http=http)[1]) for _ in range(10)]

    assert statuses == [101] * 3 + [429] * 7
    assert door.come(proxy, (FOR, "198.51.100.8"), http=http)[1] is None, "nobody else counts with them"


def test_2000_connections_with_an_unknown_client_behind_a_proxy_on_loopback_are_not_all_let_in() -> None:
    door = Door(trusted_proxies=["127.0.0.1"])

    for _ in range(2000):
        door.come("127.0.0.1:5000", (FOR, "198.51.100.7"), (FORWARDED, "for=unknown"))

    assert door.gate.count(Kind.WEBSOCKET) <= 128


def test_a_network_that_is_exempt_is_so_behind_a_proxy_too_unless_it_is_loopback_or_a_proxy() -> None:
    door = Door(
        trusted_proxies=["127.0.0.1", "10.0.0.1"],
        exempt=["127.0.0.0/8", "10.0.0.0/8", "192.0.2.0/24"],
        per_address=1,
    )

    for client, same in {"192.0.2.7": 101, "10.0.0.7": 101, "10.0.0.1": 429, "127.0.0.7": 429}.items():
        door.come("127.0.0.1:5000", (FOR, client))
        assert door.visit("127.0.0.1:5000", (FOR, client)) == same, client


def test_a_loopback_peer_that_is_no_trusted_proxy_is_exempt_as_ever() -> None:
    door = Door(trusted_proxies=["127.0.0.1"], per_address=1)

    assert [status_of(door.come("127.0.0.2:5000")[1]) for _ in range(3)] == [101] * 3


@pytest.mark.parametrize("http", [False, True])
def test_an_address_that_is_refused_with_the_fields_of_a_proxy_is_told_once(
    http: bool, caplog: pytest.LogCaptureFixture
) -> None:
    door = Door(per_address=1, http_per_address=1)
    door.come("203.0.113.9:1", http=http)
    for _ in range(TELL_AFTER):  # without the fields: no sign of a proxy
        door.come("203.0.113.9:1", http=http)
    assert not caplog.records

    for number in range(100):
        door.come("203.0.113.9:1", (FOR, f"198.51.100.{number}"), http=http)

    (line,) = caplog.messages
    assert line == (
        "connections from 203.0.113.9 are refused, as too many of one address, and their requests have "
        "X-Forwarded-For: if that is a proxy or load balancer of yours, give "
        "Admission(trusted_proxies=['203.0.113.9'])"
    )


def test_the_clients_of_a_trusted_proxy_are_no_sign_of_another_one(caplog: pytest.LogCaptureFixture) -> None:
    door = Door(per_address=1, trusted_proxies=PROXIES)

    for _ in range(100):
        door.come(PROXY, (FOR, "198.51.100.7"))

    assert door.gate.refused["per_address"] == 99
    assert not caplog.records


def test_the_clients_behind_a_proxy_are_counted_one_by_one() -> None:
    door = Door(trusted_proxies=PROXIES, per_address=1)
    door.come(PROXY, (FOR, "198.51.100.7"))

    assert door.visit(PROXY, (FOR, "198.51.100.7")) == 429
    assert door.visit(PROXY, (FOR, "1.1.1.1, 198.51.100.7")) == 429
    assert door.visit("198.51.100.7:1", (FOR, "1.1.1.1")) == 429
    assert door.visit(PROXY, (FOR, "198.51.100.8")) == 101


def test_who_forges_the_field_that_the_proxy_does_not_write_is_counted_with_the_others_who_do() -> None:
    door = Door(trusted_proxies=PROXIES, per_address=1)
    door.come(PROXY, (FORWARDED, "for=1.1.1.1"), (FOR, "198.51.100.7"))

    assert door.visit(PROXY, (FORWARDED, "for=1.1.1.2"), (FOR, "198.51.100.7")) == 429
    assert door.visit(PROXY, (FOR, "198.51.100.8")) == 101


@settings(deadline=None)  # timings never decide
@given(st.lists(st.tuples(st.sampled_from([FORWARDED, FOR]), st.text(max_size=40)), max_size=4))
def test_any_forwarding_field_gives_an_address_and_never_an_error(fields: list[tuple[str, str]]) -> None:
    door = Door(trusted_proxies=PROXIES)

    ticket, _ = door.come(PROXY, *fields)
    door.gate.leave(ticket)

    assert len(door.gate) == 0


# -- the breaker -------------------------------------------------------------------------------


def crash(door: Door, *hosts: str) -> None:
    """Connections that are let in and crash before their ``on_connect`` is through."""
    for host in hosts:
        ticket, refused = door.come(f"{host}:1")
        assert refused is None
        door.gate.leave(ticket)
        door.gate.crashed(ticket)


def test_addresses_that_all_crash_get_503_with_the_time_to_wait_and_others_are_let_in(
    caplog: pytest.LogCaptureFixture,
) -> None:
    door = Door(breaker=3, breaker_pause=4.5)
    hosts = [f"203.0.113.{number}" for number in (1, 2, 3)]
    crash(door, *hosts)

    _, refused = door.come("203.0.113.1:1")
    other = door.visit("198.51.100.7:1")
    assert refused is not None
    assert (refused.status, refused.headers) == (503, {"Retry-After": "5"})
    assert other == 101
    assert "3 addresses crashed" in caplog.text

    door.now += 4.5
    crash(door, "203.0.113.1")
    assert door.visit("203.0.113.1:1") == 503, "it crashed as the others did"
    door.gate.got_through()
    assert [door.visit(f"{host}:1") for host in hosts] == [101] * 3
    assert door.gate.refused == {"breaker": 2}


def test_without_a_breaker_crashes_do_not_matter() -> None:
    door = Door(breaker=None)

    crash(door, *(f"203.0.{number >> 8}.{number & 255}" for number in range(1000)))

    assert door.visit("203.0.0.1:1") == 101


# -- the bookkeeping ---------------------------------------------------------------------------


def test_an_address_is_forgotten_when_it_has_left_and_its_rate_has_recovered() -> None:
    door = Door(handshakes_per_minute=60)
    first, _ = door.come()
    second, _ = door.come()
    assert door.gate.known_addresses == 1

    door.gate.leave(first)
    door.now += 2.5
    door.gate.leave(second)

    assert door.gate.known_addresses == 0


def test_a_spray_of_addresses_does_not_grow_the_bookkeeping_nor_free_those_who_are_connected() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(admission_module, "MAX_ADDRESSES", 1000)
        door = Door(per_address=1)
        stays, _ = door.come("198.51.100.7:1")

        for number in range(10_000):
            door.now += 0.001
            assert door.visit(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}:1") == 101

        assert door.gate.known_addresses <= 1000
        assert door.visit("198.51.100.7:2") == 429
        door.gate.leave(stays)
        assert len(door.gate) == 0


steps = st.lists(
    st.tuples(st.integers(0, 39), st.booleans(), st.sampled_from([0.0, 0.5, 30.0])), max_size=150
)


@settings(deadline=None)  # timings never decide
@given(steps)
def test_whoever_comes_and_goes_is_counted_right(steps: list[tuple[int, bool, float]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(admission_module, "MAX_ADDRESSES", 8)
        door = Door(per_address=2, max_connections=20, handshakes_per_minute=8)
        tickets: dict[int, list[Ticket]] = {}
        most = 0
        for number, leaves, pause in steps:
            door.now += pause
            here = tickets.setdefault(number, [])
            if leaves and here:
                door.gate.leave(here.pop())
                continue
            total = sum(map(len, tickets.values()))
            ticket, refused = door.come(f"203.0.113.{number}:1")
            status = 503 if total >= 20 else 429 if len(here) >= 2 else None
            if status is not None:
                assert status_of(refused) == status
            else:
                assert refused is None or door.gate.refused["handshakes"]
            if refused is None:
                here.append(ticket)
            else:
                door.gate.leave(ticket)
            most = max(most, sum(map(bool, tickets.values())))
            assert door.gate.known_addresses <= 8 + 2 * most
        assert len(door.gate) == sum(map(len, tickets.values()))
        for ticket in chain.from_iterable(tickets.values()):
            door.gate.leave(ticket)
        assert len(door.gate) == 0


class Books:
    """What a gate has to have counted, kept in the simplest way."""

    def __init__(self) -> None:
        self.door = Door(
            per_address=2,
            http_per_address=2,
            opening_per_address=3,
            max_connections=4,
            max_http=4,
            max_opening=5,
            handshakes_per_minute=None,
            per_key=2,
            key=user_of,
            trusted_proxies=["10.0.0.1"],
        )
        self.open: list[Ticket] = []

    def arrive(self, peer: str) -> None:
        transport = cast(Transport, SimpleNamespace(peer=peer, descriptor=None))
        ticket: Ticket

        def drop() -> None:
            assert ticket.kind == Kind.OPENING
            self.open.remove(ticket)

        ticket, _ = self.door.gate.arrive(transport, drop)
        self.open.append(ticket)

    def step(self, what: str, which: int, client: int) -> None:
        gate, peer = self.door.gate, f"203.0.113.{client}:1" if client else "10.0.0.1:1"
        if what == "arrive":
            self.arrive(peer)
        if not self.open:
            return
        ticket = self.open[which % len(self.open)]
        fields = [(FOR, f"198.51.100.{client}"), ("User", str(client))][client == 3 :]
        if what == "leave":
            self.open.remove(ticket)
            gate.leave(ticket)
            gate.leave(ticket)
        elif ticket.kind in (Kind.HTTP, Kind.WEBSOCKET) and what == "come back":
            gate.come_back(ticket, lambda: self.open.remove(ticket))
        elif ticket.kind == Kind.OPENING and what in ("ask", "pipe"):
            with suppress(HandshakeRefused):
                gate.identify(ticket, peer, request(fields).headers)
                if what == "ask":
                    gate.ask(ticket, request(fields))
                else:
                    gate.pipe(ticket, peer, b"GET / HTTP/1.1\r\n\r\n")

    def check(self) -> None:
        gate = self.door.gate
        for kind in Kind:
            here = [ticket for ticket in self.open if ticket.kind == kind]
            assert gate.count(kind) == len(here)
            assert Counter(ticket.address for ticket in here if ticket.address) == Counter(
                {name: known.counts[kind] for name, known in gate._addresses.items() if known.counts[kind]}
            )
        assert gate.count(Kind.OPENING) <= 5
        assert gate.count(Kind.HTTP) <= 4
        assert gate.count(Kind.WEBSOCKET) <= 4
        assert set(gate._opening) == {one for one in self.open if one.kind == Kind.OPENING}
        assert gate._refused_now == sum(one.crowd for one in self.open)
        keys = Counter(one.key for one in self.open if one.key is not None)
        assert gate._keys == keys
        assert all(count <= 2 for count in keys.values())


WAYS = st.sampled_from(["arrive", "arrive", "ask", "pipe", "come back", "leave"])


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(WAYS, st.integers(0, 9), st.integers(0, 3)), max_size=80))
def test_every_kind_address_and_key_is_counted_right_whatever_happens(
    steps: list[tuple[str, int, int]],
) -> None:
    books = Books()
    for step in steps:
        books.step(*step)
        books.check()
    for ticket in list(books.open):
        books.door.gate.leave(ticket)
    books.open.clear()
    books.check()
    assert books.door.gate.known_addresses == 0


# -- over sockets ------------------------------------------------------------------------------


class Echo(ConnectionActor):
    async def on_message(self, message: str | bytes) -> None:
        await self.send(message)


class Crashing(ConnectionActor):
    async def on_connect(self) -> None:
        if "well" not in self.query_params:
            raise RuntimeError("no database")

    async def on_message(self, message: str | bytes) -> None:
        raise RuntimeError("a message that the actor does not expect")


@asynccontextmanager
async def dialed(server: Any, source: str) -> AsyncIterator[RawClient]:
    client = await RawClient.dial(server, source=source)
    try:
        yield client
    finally:
        client.close()


async def answer(address: Any, target: str = "/", **headers: str) -> tuple[int, dict[str, str]]:
    """Ask for an upgrade; give status and header fields of the answer, and end the connection."""
    client = await RawClient.dial(address)
    try:
        status = await client.request(
            target, {name.replace("_", "-"): value for name, value in headers.items()}
        )
    finally:
        client.close()
    return status, client.headers


@pytest.mark.every_runtime
async def test_a_full_server_answers_503_and_takes_the_next_one_when_there_is_room() -> None:
    async with serving(Echo, admission=Admission(max_connections=1)) as (server, _):
        async with raw_client(server):
            status, fields = await answer(server)
        await until(lambda: not len(server.site.gate))
        again, _ = await answer(server)

    assert (status, fields["retry-after"], again) == (503, "5", 101)
    assert server.refused == {"max_connections": 1}


@pytest.mark.every_runtime
async def test_the_clients_of_a_proxy_are_counted_and_the_actor_is_told_who_they_are() -> None:
    class Who(ConnectionActor):
        async def on_connect(self) -> None:
            await self.send(self.request.client)

    admission = Admission(per_address=1, trusted_proxies=["127.0.0.1"])
    async with serving(Who, admission=admission) as (server, _):
        ada = {"X-Forwarded-For": "1.1.1.1, 198.51.100.7"}
        async with raw_client(server, headers=ada) as client:
            assert (await client.frame()).text == "198.51.100.7"
            status, fields = await answer(server, X_Forwarded_For="198.51.100.7")
            other, _ = await answer(server, X_Forwarded_For="198.51.100.8")

    assert (status, other) == (429, 101)
    assert int(fields["retry-after"]) >= 1


@pytest.mark.every_runtime
async def test_a_page_of_another_host_gets_403() -> None:
    async with serving(Echo) as (server, _):
        own, _ = await answer(
            server, Host=f"localhost:{server.port}", Origin=f"http://localhost:{server.port}"
        )
        other, _ = await answer(server, Host=f"localhost:{server.port}", Origin="http://evil.test")

    assert (own, other) == (101, 403)
    assert server.refused == {"origin": 1}


@pytest.mark.every_runtime
async def test_a_key_is_free_again_when_its_connection_has_ended() -> None:
    admission = Admission(per_key=1, key=lambda request: request.query_params.get("user"))
    async with serving(Echo, admission=admission) as (server, _):
        async with raw_client(server, "/?user=ada"):
            taken, _ = await answer(server, "/?user=ada")
        await until(lambda: not len(server.connections))
        free, _ = await answer(server, "/?user=ada")

    assert (taken, free) == (429, 101)


@pytest.mark.every_runtime
async def test_connections_that_say_nothing_keep_nobody_out() -> None:
    admission = Admission(max_opening=20, exempt=())
    async with serving(Echo, admission=admission) as (server, _), AsyncExitStack() as stack:
        silent = [
            await stack.enter_async_context(dialed(server, f"127.0.{1 + number // 10}.{1 + number % 10}"))
            for number in range(50)
        ]
        await until(lambda: server.refused["max_opening"] == 30)

        async with dialed(server, "127.0.9.9") as honest:
            assert await honest.request() == 101

        assert [await one.rest_of_bytes() for one in silent[:31]] == [b""] * 31, "the oldest are dropped"
        assert server.site.gate.count(Kind.OPENING) == 19
        assert await silent[-1].request() == 101


@pytest.mark.every_runtime
async def test_a_client_that_on_upgrade_refuses_and_that_does_not_go_takes_nobodys_place() -> None:
    class Choosy(Echo):
        @classmethod
        def on_upgrade(cls, request: Request) -> Refusal | None:
            return Refusal(401) if "bad" in request.query_params else None

    admission = Admission(max_connections=1, per_key=1, key=lambda request: request.query_params.get("user"))
    async with serving(Choosy, admission=admission) as (server, _):
        stays = await RawClient.dial(server)
        assert await stays.request("/?user=ada&bad=1") == 401
        assert [server.site.gate.count(kind) for kind in Kind] == [1, 0, 0]

        async with raw_client(server, "/?user=ada"):
            assert [server.site.gate.count(kind) for kind in Kind] == [1, 0, 1]
        stays.close()
        await until(lambda: not len(server.site.gate))
    assert server.refused == {}


@pytest.mark.every_runtime
async def test_one_address_cannot_keep_the_others_out_with_connections_that_are_refused() -> None:
    admission = Admission(opening_per_address=2, max_connections=8, exempt=())
    async with serving(Echo, admission=admission) as (server, _), AsyncExitStack() as stack:
        flood = [await RawClient.dial(server) for _ in range(2 + MAX_REFUSED + 10)]
        for one in flood:
            stack.callback(one.close)
        await until(lambda: server.refused["opening_per_address"] == len(flood) - 2)
        for one in flood[-10:]:
            assert await one.rest_of_bytes() == b"", "dropped without a word"
        for one in flood[2:-10]:
            assert (await one.read_head())[0] == 429
        honest = await RawClient.dial(server, source="127.0.0.2")
        stack.callback(honest.close)

        assert await honest.request() == 101
        await honest.send("echo")
        assert (await honest.frame()).text == "echo"
        assert len(server.site.gate) == 3


async def crashes(server: Any, source: str) -> int:
    """A connection that crashes its actor; the status of the answer."""
    async with dialed(server, source) as client:
        status = await client.request()
        if status == 101:
            assert (await client.frame()).close == (1011, "")
            await client.send_close(1011)
            await client.rest()
    return status


def crashing(breaker: int = 20) -> Admission:
    """No address is exempt, and none has a rate."""
    return Admission(breaker=breaker, handshakes_per_minute=None, exempt=())


@pytest.mark.every_runtime
async def test_an_application_that_crashes_everybody_is_spared_and_the_open_connections_stay(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL)
    async with (
        serving(Crashing, admission=crashing(breaker=3)) as (server, _),
        dialed(server, "127.0.0.9") as early,
    ):
        assert await early.request("/?well=1") == 101
        await until(lambda: not server.site.upgrades)
        tried = Counter[int]()
        for _ in range(20):
            for number in (1, 2, 3, 4):
                tried[await crashes(server, f"127.0.1.{number}")] += 1
                await until(lambda: len(server.connections) == 1)

    assert tried[101] <= 8, "each address once before and once after, with time to spare"
    assert tried.total() == 80
    assert set(tried) == {101, 503}


@pytest.mark.every_runtime
@pytest.mark.parametrize("attackers", [1, 5, 30])
async def test_clients_whose_request_crashes_on_connect_lock_nobody_else_out(
    attackers: int, caplog: pytest.LogCaptureFixture
) -> None:
    """96 honest clients that stay; behind each eighth of them all attackers come again."""
    caplog.set_level(logging.CRITICAL)
    refused = 0
    async with serving(Crashing, admission=crashing()) as (server, _), AsyncExitStack() as stack:

        async def attack() -> None:
            for number in range(max(attackers, 20)):
                await crashes(server, f"127.0.1.{1 + number % attackers}")

        await attack()
        for number in range(96):
            honest = await stack.enter_async_context(dialed(server, f"127.0.2.{number + 1}"))
            refused += await honest.request("/?well=1") != 101
            if number % 8 == 7:
                await attack()

    assert refused == 0


@pytest.mark.every_runtime
async def test_a_crash_behind_on_connect_keeps_nobody_out(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    async with serving(Crashing, admission=crashing(breaker=2)) as (server, _):
        for number in range(6):
            async with dialed(server, f"127.0.1.{number + 1}") as client:
                assert await client.request("/?well=1") == 101
                await client.send("a bomb")
                assert (await client.frame()).close == (1011, "")
                await client.send_close(1011)
                await client.rest()
        await until(lambda: not len(server.connections))

        assert await crashes(server, "127.0.1.1") == 101
