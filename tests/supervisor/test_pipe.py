"""The pipe for plain HTTP: what is passed on, when, and how each side's end reaches the other."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from itertools import pairwise

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor import Admission, Policy, Timeouts
from supervisor.admission import MAX_REFUSED, Kind
from supervisor.framing import Part, Requests, framing_of
from supervisor.pipe import PipeState
from supervisor.plain_http import PlainHttp
from supervisor.sources import Sources
from tests.raw import DEADLINE, RawClient
from tests.supervisor.sites import (
    GET,
    MB,
    UPGRADE,
    Echo,
    Site,
    accept,
    answer_gets,
    asyncio_only,
    dialed,
    discard,
    post,
    read,
    resident,
    site,
)
from tests.witness import serving, until

# -- where requests begin ----------------------------------------------------------------------


def chunked(*chunks: bytes, trailer: bytes = b"") -> bytes:
    parts = [b"%x;name=value\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks if chunk]
    head = b"PUT /p HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n"
    return head + b"".join(parts) + b"0\r\n" + trailer + b"\r\n"


bodies = st.one_of(st.binary(max_size=40), st.just(UPGRADE), st.just(GET), st.just(b"0\r\n\r\n"))
requests = st.one_of(
    st.just(GET),
    st.builds(post, bodies),
    st.lists(bodies, max_size=3).map(lambda chunks: chunked(*chunks)),
    bodies.map(lambda chunk: chunked(chunk, trailer=b"X-Sum: 1\r\nX-More: 2\r\n")),
)


@given(
    plain=st.lists(requests, max_size=4).map(b"".join),
    behind=st.binary(max_size=20),
    cuts=st.lists(st.integers(0, 400), max_size=12),
)
def test_an_upgrade_behind_plain_requests_is_found_in_any_split(
    plain: bytes, behind: bytes, cuts: list[int]
) -> None:
    wire = plain + UPGRADE + behind
    edges = [0, *sorted(cuts), len(wire)]
    reader = Requests()
    passed = b""
    held_back = b""

    for start, end in pairwise(edges):
        if reader.upgrade is None:
            passed += reader.feed(wire[start:end])
        else:
            held_back += wire[start:end]

    assert passed == plain
    assert reader.upgrade is not None
    assert reader.upgrade + held_back == UPGRADE + behind


@given(wire=st.lists(requests, max_size=4).map(b"".join), cuts=st.lists(st.integers(0, 400), max_size=12))
def test_whole_requests_are_passed_on_whole_and_unchanged(wire: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(cut for cut in cuts if cut < len(wire)), len(wire)]
    reader = Requests()

    passed = b"".join(reader.feed(wire[start:end]) for start, end in pairwise(edges))

    assert passed == wire
    assert reader.part is Part.HEAD
    assert reader.upgrade is None


def test_the_bytes_of_a_body_are_passed_on_before_the_rest_is_there() -> None:
    reader = Requests()

    passed = reader.feed(post(b"x" * 1000)[:-1])

    assert passed == post(b"x" * 1000)[:-1]


def test_an_incomplete_head_is_kept_until_it_is_known_what_it_asks_for() -> None:
    reader = Requests()

    first = reader.feed(GET + GET[:-1])
    second = reader.feed(GET[-1:])

    assert (first, second) == (GET, GET)


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\n",
        b"CONNECT example.org:443 HTTP/1.1\r\n\r\n",
        b"get / HTTP/1.1\r\n\r\n",
        b"GET /a b HTTP/1.1\r\n\r\n",
        b"\r\nGET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\nContent-Length: 5\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length : 5\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: folded\r\n Content-Length: 5\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: nul\x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nUpgrade: h2c\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: +5\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 0x5\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1000000000000000\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: identity\r\n\r\n",
    ],
)
def test_behind_a_head_that_is_not_plainly_framed_nothing_is_read(head: bytes) -> None:
    reader = Requests()

    passed = reader.feed(head + UPGRADE) + reader.feed(UPGRADE)

    assert framing_of(head) == (Part.UNREAD, 0)
    assert passed == head + UPGRADE + UPGRADE
    assert reader.upgrade is None


@pytest.mark.parametrize(
    "chunk", [b"\r\n", b"-1\r\n", b"5\n", b"0x5\r\n", b"5 5\r\n", b"1" * 16 + b"\r\n", b"1;" + b"x" * 5000]
)
def test_behind_a_malformed_chunk_nothing_is_read(chunk: bytes) -> None:
    reader = Requests()
    wire = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk

    passed = reader.feed(wire) + reader.feed(UPGRADE)

    assert passed == wire + UPGRADE
    assert reader.part is Part.UNREAD


def test_behind_a_head_that_is_too_long_nothing_is_read() -> None:
    reader = Requests()
    wire = b"GET / HTTP/1.1\r\nX: " + b"x" * 40_000

    passed = b"".join(reader.feed(wire[start : start + 1000]) for start in range(0, len(wire), 1000))

    assert passed == wire
    assert reader.feed(UPGRADE) == UPGRADE


# -- the pipe ----------------------------------------------------------------------------------


@asyncio_only
async def test_requests_and_answers_go_through_unchanged_on_one_connection() -> None:
    async with site(answer_gets) as there, dialed(there.port) as client:
        for _ in range(3):
            await client.send_bytes(GET)

            status, fields = await client.read_head()
            assert (status, fields["content-length"]) == (200, "2")
            await read(client, b"hi")
            assert len(there.pipes.open) == 1


@asyncio_only
async def test_a_websocket_may_be_asked_for_on_a_connection_that_was_kept_alive() -> None:
    async with site(answer_gets) as there, dialed(there.port) as client:
        await client.send_bytes(GET)
        await client.read_head()
        await read(client, b"hi")

        status = await client.request("/ws")
        await client.send("over the same connection")

        assert status == 101
        assert (await client.frame()).text == "over the same connection"
        assert not there.pipes.open
        await client.send_close(1000)
        assert (await client.frame()).close == (1000, "")


@asyncio_only
async def test_a_websocket_asked_for_without_waiting_comes_behind_the_answers() -> None:
    async with site(answer_gets) as there, dialed(there.port) as client:
        await client.send_bytes(GET + GET + UPGRADE)

        for _ in range(2):
            assert (await client.read_head())[0] == 200
            client._read += len(b"hi")
        status, _ = await client.read_head()
        assert status == 101
        await client.send_close(1000)
        assert (await client.frame()).close == (1000, "")


@asyncio_only
async def test_frames_sent_behind_the_upgrade_wait_until_the_answers_are_there() -> None:
    may_answer = anyio.Event()

    async def answer_late(client: RawClient) -> None:
        assert await client.rest_of_bytes() == GET
        await may_answer.wait()
        await client.send_bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")

    async with site(answer_late) as there, dialed(there.port) as client:
        await client.send_bytes(GET + UPGRADE)
        await until(lambda: [pipe for pipe in there.pipes.open if pipe._state is PipeState.UPGRADING])
        await client.send("early")
        may_answer.set()

        assert (await client.read_head())[0] == 200
        client._read += len(b"hi")
        assert (await client.read_head())[0] == 101
        assert (await client.frame()).text == "early"


LONG = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (16 * MB) + b"x" * (16 * MB)


async def answer_long(client: RawClient) -> None:
    """Send more than the kernel keeps for a client that does not read."""
    assert await client.rest_of_bytes() == GET
    await client.send_bytes(LONG)


@asyncio_only
async def test_a_websocket_comes_only_when_the_client_has_taken_what_comes_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("supervisor.pipe.HIGH_WATER", len(LONG))
    async with site(answer_long) as there, dialed(there.port) as client:
        await client.send_bytes(GET + UPGRADE)
        await until(lambda: [pipe for pipe in there.pipes.open if pipe._state is PipeState.UPGRADED])

        while len(client.wire) < len(LONG):
            assert await client.receive()
        client._read = len(LONG)

        assert (await client.read_head())[0] == 101
        assert client.wire.startswith(LONG)
        assert not there.pipes.open


@asyncio_only
async def test_a_client_that_takes_no_answer_before_its_websocket_is_dropped_after_the_close_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("supervisor.pipe.HIGH_WATER", len(LONG))
    policy = Policy(timeouts=Timeouts(close=0.2))
    async with site(answer_long, policy) as there, dialed(there.port) as client:
        await client.send_bytes(GET + UPGRADE)
        await until(lambda: [pipe for pipe in there.pipes.open if pipe._state is PipeState.UPGRADED])

        await until(lambda: not there.pipes.open)


@asyncio_only
async def test_the_end_of_the_client_is_passed_on_and_the_answer_still_comes() -> None:
    async def answer_after_the_end(client: RawClient) -> None:
        received = await client.rest_of_bytes()
        await client.send_bytes(b"got %d" % len(received))

    async with site(answer_after_the_end) as there, dialed(there.port) as client:
        await client.send_bytes(GET)
        client.finish()

        assert await client.rest_of_bytes() == b"got %d" % len(GET)
        assert client.over == "eof"
        await until(lambda: not there.pipes.open)


@asyncio_only
async def test_the_end_of_the_other_side_ends_the_client_after_all_that_was_sent() -> None:
    async def send_and_end(client: RawClient) -> None:
        await client.receive()
        await client.send_bytes(b"x" * (4 * MB))

    async with site(send_and_end) as there, dialed(there.port) as client:
        await client.send_bytes(GET)

        assert await client.rest_of_bytes() == b"x" * (4 * MB)
        assert client.over == "eof"
        assert there.pipes.open  # it is the client's turn to end
        client.finish()
        await until(lambda: not there.pipes.open)


@asyncio_only
async def test_a_client_that_goes_on_sending_after_an_early_answer_still_reads_it() -> None:
    async def refuse(client: RawClient) -> None:
        await client.receive()
        await client.send_bytes(b"HTTP/1.1 413 Too Much\r\nContent-Length: 0\r\n\r\n")
        client.finish()
        await client.rest_of_bytes()

    body = b"x" * (8 * MB)
    async with site(refuse) as there, dialed(there.port) as client:
        await client.send_bytes(post(body))

        status, _ = await client.read_head()
        client.finish()

        assert status == 413
        assert await client.rest_of_bytes() == b""
        assert client.over == "eof"


@asyncio_only
async def test_a_client_that_never_ends_its_side_is_dropped_after_the_close_timeout() -> None:
    async def send_and_end(client: RawClient) -> None:
        await client.receive()
        await client.send_bytes(b"bye")

    policy = Policy(timeouts=Timeouts(close=0.05))
    async with site(send_and_end, policy) as there, dialed(there.port) as client:
        await client.send_bytes(GET)

        assert await client.rest_of_bytes() == b"bye"
        await until(lambda: not there.pipes.open)


@asyncio_only
async def test_a_client_that_resets_the_connection_is_missed_on_the_other_side() -> None:
    gone = anyio.Event()

    async def send_for_ever(client: RawClient) -> None:
        with suppress(ConnectionError):
            while True:
                await client.send_bytes(b"x" * 65536)
        gone.set()

    async with site(send_for_ever) as there, dialed(there.port) as client:
        await client.send_bytes(GET)
        assert await client.receive()

        client.reset()

        with anyio.fail_after(DEADLINE):
            await gone.wait()
        await until(lambda: not there.pipes.open)


@asyncio_only
async def test_a_loss_of_the_other_side_ends_the_client_at_once() -> None:
    async def drop(client: RawClient) -> None:
        await read(client, GET)
        await client.send_bytes(b"half of the answ")
        await read(client, GET)  # the client has got the half
        client.reset()

    async with site(drop) as there, dialed(there.port) as client:
        await client.send_bytes(GET)
        await read(client, b"half of the answ")
        await client.send_bytes(GET)

        assert await client.rest_of_bytes() == b""
        assert not there.pipes.open


@asyncio_only
async def test_without_a_listener_to_pipe_to_the_answer_is_502(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        async with serving({"/ws": Echo}) as (server, _), dialed(server.port) as client:
            server.plain_http = http = PlainHttp(server, nobody.getsockname())
            await client.send_bytes(GET)

            status, fields = await client.read_head()
            body = await client.rest_of_bytes()

            assert status == 502
            assert body == b"the application is not reachable\n"
            assert fields["connection"] == "close"
            client.finish()
            await until(lambda: not http.here.open)
    assert "Robyn is not reachable at 127.0.0.1" in caplog.text


# -- backpressure ------------------------------------------------------------------------------

BODY = 64 * MB
HELD = 24 * MB
"""The most bytes that two pairs of sockets and the pipe between them may hold; 4 to 6 MB a socket."""


@asyncio_only
async def test_a_client_that_does_not_read_holds_up_what_answers() -> None:
    sent = 0

    async def send_much(client: RawClient) -> None:
        nonlocal sent
        await client.receive()
        while sent < BODY:
            await client.send_bytes(b"x" * 65536)
            sent += 65536

    async with site(send_much) as there, dialed(there.port) as client:
        await client.send_bytes(GET)

        held = await standstill(lambda: sent)

        assert held < HELD
        assert await discard(client) == BODY


@asyncio_only
async def test_a_listener_that_does_not_read_holds_up_the_client() -> None:
    may_read = anyio.Event()
    head = b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % BODY
    sent, received = 0, 0

    async def read_late(client: RawClient) -> None:
        nonlocal received
        await may_read.wait()
        received = await discard(client)

    async def send_much(client: RawClient) -> None:
        nonlocal sent
        await client.send_bytes(head)
        while sent < BODY:
            await client.send_bytes(b"x" * 65536)
            sent += 65536
        client.finish()

    async with site(read_late) as there, dialed(there.port) as client:
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(send_much, client)
            held = await standstill(lambda: sent)
            may_read.set()
        await client.rest_of_bytes()

    assert held < HELD
    assert received == len(head) + BODY


async def standstill(count: Callable[[], int]) -> int:
    """Wait until a counter has begun to count and then stood still for a while; give its value."""
    await until(count)
    last, looks = -1, 0
    while looks < 50:
        await anyio.sleep(0.005)
        looks = looks + 1 if count() == last else 0
        last = count()
    return last


@asyncio_only
async def test_both_directions_at_once_do_not_hold_up_each_other() -> None:
    async def echo(client: RawClient) -> None:
        while await client.receive():
            data = bytes(client.wire)
            client.wire.clear()
            await client.send_bytes(data)

    wire = post(bytes(range(256)) * (16 * MB // 256))
    async with site(echo) as there, dialed(there.port) as client, anyio.create_task_group() as task_group:
        task_group.start_soon(client.send_bytes, wire)
        with anyio.fail_after(DEADLINE):
            while len(client.wire) < len(wire):
                assert await client.receive()

        assert bytes(client.wire) == wire


@asyncio_only
async def test_memory_stays_flat_while_much_goes_through() -> None:
    block = b"x" * MB

    async def send_much(client: RawClient) -> None:
        await client.receive()
        for _ in range(128):
            await client.send_bytes(block)

    async with site(send_much) as there, dialed(there.port) as client:
        await client.send_bytes(GET)
        sizes, received = [], 0
        while await client.receive():
            received += len(client.wire)
            client.wire.clear()
            sizes.append(resident())

        assert received == 128 * MB
        assert max(sizes) - sizes[len(sizes) // 4] < 8 * MB


# -- what never gets to the other side -------------------------------------------------------------


@asyncio_only
async def test_an_upgrade_on_a_path_of_nobody_is_refused_here_and_never_gets_to_the_other_side() -> None:
    dialed_there = 0

    async def count(client: RawClient) -> None:
        nonlocal dialed_there
        dialed_there += 1
        await answer_gets(client)

    async with site(count) as there:
        async with dialed(there.port) as fresh:
            assert await fresh.request("/nothing") == 404
        assert dialed_there == 0
        async with dialed(there.port) as kept:
            await kept.send_bytes(GET)
            await kept.read_head()
            await read(kept, b"hi")
            assert await kept.request("/nothing") == 404  # `answer_gets` checks that it saw nothing else


@asyncio_only
async def test_when_the_other_side_is_back_so_are_its_answers() -> None:
    with socket.socket() as listener:
        listener.setblocking(False)
        listener.bind(("127.0.0.1", 0))
        async with serving({"/ws": Echo}) as (server, _), anyio.create_task_group() as task_group:
            server.plain_http = http = PlainHttp(server, listener.getsockname())
            statuses = []
            for _ in range(2):
                async with dialed(server.port) as client:
                    await client.send_bytes(GET)
                    statuses.append((await client.read_head())[0])
                if statuses == [502]:
                    listener.listen()
                    task_group.start_soon(accept, listener, answer_gets)
            task_group.cancel_scope.cancel()
            http.abort()

    assert statuses == [502, 200]


# -- the last requests -----------------------------------------------------------------------------


@pytest.mark.parametrize("split", [False, True])
def test_when_the_process_ends_every_head_says_that_its_request_is_the_last(split: bool) -> None:
    reader = Requests()
    assert reader.feed(GET) == GET
    reader.closing = True

    wire = post(b"a body")
    passed = b"".join(reader.feed(bytes([one])) for one in wire) if split else reader.feed(wire)

    assert passed == wire.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert reader.part is Part.HEAD


@asyncio_only
async def test_a_quiet_connection_is_ended_and_one_with_an_answer_to_come_gets_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("supervisor.pipe.QUIET", 0.01)
    may_answer = anyio.Event()

    async def answer_late(client: RawClient) -> None:
        if await client.receive():
            await client.rest_of_bytes()  # it is told that no request comes any more
            await may_answer.wait()
            await client.send_bytes(b"late")

    async with site(answer_late) as there, dialed(there.port) as client:
        await client.send_bytes(GET)
        await until(lambda: there.pipes.open)
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(there.pipes.finish)
            (pipe,) = there.pipes.open
            await until(lambda: pipe._state is PipeState.FINISHING)
            may_answer.set()

            assert await client.rest_of_bytes() == b"late"
            client.finish()


# -- loopback addresses for clients ----------------------------------------------------------------


def test_a_client_keeps_its_address_and_no_other_has_it() -> None:
    sources = Sources()

    first = sources.take("192.0.2.1:1000")
    second = sources.take("[2001:db8::1]:1000")
    again = sources.take("192.0.2.1:1001")

    assert first == again == "127.1.0.1"
    assert second == "127.1.0.2"
    assert [sources.client(one) for one in (first, second, "127.9.9.9")] == ["192.0.2.1", "2001:db8::1", None]


@pytest.mark.parametrize("peer", ["127.0.0.1:1000", "unix"])
def test_who_has_no_other_address_stands_for_itself(peer: str) -> None:
    assert Sources().take(peer) is None
    assert Sources().client("127.0.0.1") == "127.0.0.1"


def test_the_addresses_of_those_who_left_first_are_given_away_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.sources.MAX_SOURCES", 3)
    sources = Sources()
    stays, leaves, left = (sources.take(f"192.0.2.{number}:1") for number in (1, 2, 3))
    sources.give_back(left)
    sources.give_back(leaves)
    sources.take("192.0.2.2:2")  # is back

    assert sources.take("192.0.2.4:1") == left
    assert sources.take("192.0.2.5:1") == "127.1.0.4"  # all are in use: one more
    assert sources.client(stays) == "192.0.2.1"
    assert sources.client(left) == "192.0.2.4"
    assert len(sources) == 4


# -- the places of plain HTTP ------------------------------------------------------------------

PIPED = pytest.mark.parametrize("pump", [False, True], ids=["here", "pump"])
SLOW_POST = b"POST /p HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"


async def answer_all(client: RawClient) -> None:
    """Answer a GET, and nothing else; end when the client does."""
    while await client.receive():
        if client.wire.endswith(b"\r\n\r\n") and client.wire.startswith(b"GET"):
            await client.send_bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
            client.wire.clear()


def counts(there: Site) -> list[int]:
    return [there.server.gate.count(kind) for kind in Kind]


@asyncio_only
@PIPED
async def test_slow_requests_of_one_address_leave_http_and_websockets_to_the_others(pump: bool) -> None:
    admission = Admission(http_per_address=4, max_http=6, exempt=())
    async with site(answer_all, pump=pump, admission=admission) as there, AsyncExitStack() as stack:
        for _ in range(4):
            slow = await stack.enter_async_context(dialed(there.port))
            await slow.send_bytes(SLOW_POST)
        await until(lambda: there.server.gate.count(Kind.HTTP) == 4)

        one_more = await stack.enter_async_context(dialed(there.port))
        await one_more.send_bytes(SLOW_POST)
        other = await stack.enter_async_context(dialed(there.port, "127.0.0.2"))
        await other.send_bytes(GET)
        websocket = await stack.enter_async_context(dialed(there.port))

        assert (await one_more.read_head())[0] == 429
        assert (await other.read_head())[0] == 200
        assert await websocket.request("/ws") == 101
        assert there.server.refused == {"http_per_address": 1}
        assert there.server.gate.count(Kind.HTTP) == 5


@asyncio_only
@PIPED
async def test_a_server_full_of_websockets_still_serves_pages_and_is_ready(pump: bool) -> None:
    admission = Admission(max_connections=1)
    async with site(answer_all, pump=pump, admission=admission) as there, dialed(there.port) as websocket:
        there.server.ready_path = "/-/ready"
        assert await websocket.request("/ws") == 101
        async with dialed(there.port) as page, dialed(there.port) as probe, dialed(there.port) as refused:
            await page.send_bytes(GET)
            await probe.send_bytes(b"GET /-/ready HTTP/1.1\r\nHost: x\r\n\r\n")

            assert (await page.read_head())[0] == 200
            assert (await probe.read_head())[0] == 200
            assert await refused.request("/ws") == 503
            assert there.server.refused == {"max_connections": 1}


@asyncio_only
@PIPED
async def test_a_connection_has_its_place_among_http_until_its_pipe_is_over(pump: bool) -> None:
    async with site(answer_all, pump=pump) as there:
        async with dialed(there.port) as client:
            for _ in range(2):
                await client.send_bytes(GET)
                assert (await client.read_head())[0] == 200
                await read(client, b"hi")
                assert counts(there) == [0, 1, 0]
        await until(lambda: counts(there) == [0, 0, 0])


@asyncio_only
@PIPED
async def test_a_kept_connection_that_upgrades_meets_the_cap_of_websockets_and_moves(pump: bool) -> None:
    async with site(answer_gets, pump=pump, admission=Admission(max_connections=1)) as there:
        async with dialed(there.port) as first, dialed(there.port) as second:
            for client in (first, second):
                await client.send_bytes(GET)
                assert (await client.read_head())[0] == 200
                await read(client, b"hi")
            assert counts(there) == [0, 2, 0]

            assert await first.request("/ws") == 101
            await until(lambda: counts(there) == [0, 1, 1])
            assert await second.request("/ws") == 503
            await second.rest_of_bytes()
            second.finish()
            await until(lambda: counts(there) == [0, 0, 1])
        await until(lambda: counts(there) == [0, 0, 0])


@asyncio_only
@PIPED
async def test_a_kept_connection_of_a_crowd_that_upgrades_gives_its_key_back(pump: bool) -> None:
    """It was asked after it had been refused: its user got 429 until the end of the process."""
    admission = Admission(
        per_key=1, key=lambda request: request.query_params.get("user"), opening_per_address=1, exempt=()
    )
    async with site(answer_gets, pump=pump, admission=admission) as there, AsyncExitStack() as stack:
        kept = await stack.enter_async_context(dialed(there.port))
        await kept.send_bytes(GET)
        assert (await kept.read_head())[0] == 200
        await read(kept, b"hi")
        crowd = [await stack.enter_async_context(dialed(there.port)) for _ in range(MAX_REFUSED + 5)]
        await until(lambda: there.server.refused["opening_per_address"] == len(crowd) - 1)

        status = await kept.request("/ws?user=ada")
        for client in (kept, *crowd):
            client.close()
        await until(lambda: counts(there) == [0, 0, 0])

        assert status == 101
        again = await stack.enter_async_context(dialed(there.port))
        assert await again.request("/ws?user=ada") == 101


@asyncio_only
async def test_when_the_pump_is_killed_the_places_of_its_connections_are_free_again() -> None:
    async with site(answer_all, pump=True) as there, dialed(there.port) as client:
        await client.send_bytes(SLOW_POST)
        await until(lambda: there.server.gate.count(Kind.HTTP) == 1)
        assert there.http.pump is not None
        assert there.http.pump.pid is not None

        os.kill(there.http.pump.pid, signal.SIGKILL)

        await until(lambda: there.server.gate.count(Kind.HTTP) == 0)


@asyncio_only
@pytest.mark.parametrize("turns", [0, 1, 3, 10])
async def test_no_place_is_lost_when_the_pump_is_killed_while_a_connection_comes_back(turns: int) -> None:
    async with site(answer_gets, pump=True) as there:
        async with dialed(there.port) as client:
            await client.send_bytes(GET)
            assert (await client.read_head())[0] == 200
            await client.send_bytes(UPGRADE)
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            assert there.http.pump is not None
            assert there.http.pump.pid is not None
            os.kill(there.http.pump.pid, signal.SIGKILL)
            await until(lambda: there.server.gate.count(Kind.HTTP) == 0)
        await until(lambda: counts(there) == [0, 0, 0])


@asyncio_only
async def test_a_page_behind_a_trusted_proxy_counts_for_its_client() -> None:
    admission = Admission(http_per_address=1, trusted_proxies=["127.0.0.1"])
    async with site(answer_all, admission=admission) as there, AsyncExitStack() as stack:

        async def ask(client: str) -> int:
            page = await stack.enter_async_context(dialed(there.port))
            fields = f"X-Forwarded-For: 6.6.6.6, {client}\r\n\r\n"
            await page.send_bytes(GET[:-2] + fields.encode())
            return (await page.read_head())[0]

        statuses = [await ask(client) for client in ("198.51.100.7", "198.51.100.7", "198.51.100.8")]

        assert statuses == [200, 429, 200]
