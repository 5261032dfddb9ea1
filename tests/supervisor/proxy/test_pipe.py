"""The pipe for plain HTTP: what is passed on, when, and how each side's end reaches the other."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from functools import partial

import anyio
import anyio.lowlevel
import pytest

from supervisor import Admission, Limits, Policy, Timeouts
from supervisor.admission.gate import MAX_REFUSED
from supervisor.admission.options import Kind
from supervisor.proxy.addresses import Sources
from supervisor.proxy.forwarder import Forwarder
from supervisor.proxy.pipe import PipeState
from tests.raw import BINARY, DEADLINE, RawClient, encode
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
    monkeypatch.setattr("supervisor.proxy.pipe.HIGH_WATER", len(LONG))
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
    monkeypatch.setattr("supervisor.proxy.pipe.HIGH_WATER", len(LONG))
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
            http = Forwarder(server.site, nobody.getsockname())
            server.site.serve_http(http, server.site.ready_path, None)
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
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % BODY
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
            http = Forwarder(server.site, listener.getsockname())
            server.site.serve_http(http, server.site.ready_path, None)
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


@asyncio_only
async def test_a_quiet_connection_is_ended_and_one_with_an_answer_to_come_gets_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("supervisor.proxy.pipe.QUIET", 0.01)
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
    monkeypatch.setattr("supervisor.proxy.addresses.MAX_SOURCES", 3)
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
    return [there.server.site.gate.count(kind) for kind in Kind]


@asyncio_only
@PIPED
async def test_slow_requests_of_one_address_leave_http_and_websockets_to_the_others(pump: bool) -> None:
    admission = Admission(http_per_address=4, max_http=6, exempt=())
    async with site(answer_all, pump=pump, admission=admission) as there, AsyncExitStack() as stack:
        for _ in range(4):
            slow = await stack.enter_async_context(dialed(there.port))
            await slow.send_bytes(SLOW_POST)
        await until(lambda: there.server.site.gate.count(Kind.HTTP) == 4)

        one_more = await stack.enter_async_context(dialed(there.port))
        await one_more.send_bytes(SLOW_POST)
        other = await stack.enter_async_context(dialed(there.port, "127.0.0.2"))
        await other.send_bytes(GET)
        websocket = await stack.enter_async_context(dialed(there.port))

        assert (await one_more.read_head())[0] == 429
        assert (await other.read_head())[0] == 200
        assert await websocket.request("/ws") == 101
        assert there.server.refused == {"http_per_address": 1}
        assert there.server.site.gate.count(Kind.HTTP) == 5


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
        await until(lambda: there.server.site.gate.count(Kind.HTTP) == 1)
        assert there.http.pump is not None
        assert there.http.pump.pid is not None

        os.kill(there.http.pump.pid, signal.SIGKILL)

        await until(lambda: there.server.site.gate.count(Kind.HTTP) == 0)


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
            await until(lambda: there.server.site.gate.count(Kind.HTTP) == 0)
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


# -- whose turn it is ----------------------------------------------------------------------------


@asyncio_only
@pytest.mark.parametrize("turn", [1, 50, 4096])
async def test_what_comes_at_once_is_read_in_turns_and_in_order(
    turn: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisor.proxy.pipe.TURN", turn)
    monkeypatch.setattr("supervisor.proxy.pipe.HIGH_WATER", 1000)
    async with site(answer_gets) as there, dialed(there.port) as client:
        await client.send_bytes(GET * 200 + UPGRADE + encode(BINARY, b"early"))

        while client.wire.count(OK) < 200:
            assert await client.receive()
        client._read = len(OK) * 200
        assert (await client.read_head())[0] == 101
        assert (await client.frame()).payload == b"early"


@asyncio_only
async def test_an_end_behind_what_is_read_in_turns_comes_behind_all_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("supervisor.proxy.pipe.TURN", 10)
    async with site(answer_gets) as there, dialed(there.port) as client:
        await client.send_bytes(GET * 100)
        client.finish()

        assert await client.rest_of_bytes() == OK * 100


@asyncio_only
async def test_between_the_turns_of_one_connection_others_have_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("supervisor.proxy.pipe.TURN", 1)

    async def swallow(client: RawClient) -> None:
        await discard(client)

    async with site(swallow) as there, dialed(there.port) as flood:
        await flood.send_bytes(GET * 1500)

        await until(lambda: [pipe for pipe in there.pipes.open if pipe._rest])


# -- what is refused, and when -----------------------------------------------------------------

MALFORMED = b"GET / HTTP/1.1\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
CHUNKED = b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@asyncio_only
async def test_a_refusal_waits_for_the_answer_before_it_and_never_gets_into_the_middle_of_one() -> None:
    half, rest = anyio.Event(), anyio.Event()

    async def answer_in_halves(client: RawClient) -> None:
        await client.receive()
        await half.wait()
        await client.send_bytes(OK[:-1])
        await rest.wait()
        await client.send_bytes(OK[-1:])

    async with site(answer_in_halves) as there, dialed(there.port) as client:
        await client.send_bytes(GET + MALFORMED)
        await until(lambda: [pipe for pipe in there.pipes.open if pipe._state is PipeState.REFUSING])
        half.set()
        await read(client, OK[:-1])
        rest.set()
        received = await client.rest_of_bytes()

    assert received.startswith(OK[-1:] + b"HTTP/1.1 400 ")


@asyncio_only
async def test_behind_an_answer_that_says_that_it_is_the_last_there_is_no_refusal() -> None:
    last = OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")

    async def answer_once(client: RawClient) -> None:
        await client.receive()
        await client.send_bytes(last)
        await client.rest_of_bytes()  # Robyn goes on waiting when more was sent

    async with site(answer_once) as there, dialed(there.port) as client:
        await client.send_bytes(GET + CHUNKED + b"5\r\nhel")
        await read(client, last)

        assert await client.rest_of_bytes() == b""
        assert client.over == "eof"


@asyncio_only
async def test_an_early_answer_to_what_turns_out_to_be_malformed_is_the_only_one() -> None:
    early = b"HTTP/1.1 413 Too Much\r\nContent-Length: 0\r\n\r\n"

    async def refuse(client: RawClient) -> None:
        await client.receive()
        await client.send_bytes(early)
        await client.rest_of_bytes()

    async with site(refuse) as there, dialed(there.port) as client:
        await client.send_bytes(CHUNKED + b"5\r\nhel")
        await read(client, early)
        await client.send_bytes(b"loX")

        assert await client.rest_of_bytes() == b""
        assert client.over == "eof"


@asyncio_only
async def test_a_client_that_goes_in_the_middle_of_a_body_leaves_a_reset_and_no_end() -> None:
    ends: list[str | None] = []

    async def read_on(client: RawClient) -> None:
        await client.rest_of_bytes()
        ends.append(client.over)

    async with site(read_on) as there:
        for number, end in enumerate((RawClient.finish, RawClient.reset, RawClient.close), 1):
            async with dialed(there.port) as client:
                await client.send_bytes(CHUNKED + b"5\r\nhel")
                await until(lambda: [pipe for pipe in there.pipes.open if pipe._requests.in_part])
                end(client)
            await until(partial(ends.__getitem__, slice(number - 1, number)))
            await until(lambda: not there.pipes.open)

    assert "eof" not in ends


@asyncio_only
async def test_an_upload_that_pauses_is_not_cut_when_the_process_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("supervisor.proxy.pipe.QUIET", 0.01)

    async def answer_whole(client: RawClient) -> None:
        while await client.receive():
            if client.wire.endswith(b"0\r\n\r\n"):
                await client.send_bytes(OK)

    async with site(answer_whole) as there, dialed(there.port) as client:
        await client.send_bytes(CHUNKED + b"5\r\nhel")
        await until(lambda: [pipe for pipe in there.pipes.open if pipe._requests.in_part])
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(there.pipes.finish)
            (pipe,) = there.pipes.open
            for _ in range(3):
                await until(lambda: pipe.quiet)
                pipe.quiet = False
            await client.send_bytes(b"lo\r\n0\r\n\r\n")

            await read(client, OK)
            client.finish()


# -- who is slow ---------------------------------------------------------------------------------


@asyncio_only
async def test_a_client_that_takes_nothing_of_its_answer_is_dropped_and_one_that_takes_it_slowly_is_not() -> (
    None
):
    async def send_long(client: RawClient) -> None:
        await client.receive()
        with suppress(ConnectionError):
            await client.send_bytes(LONG)

    policy = Policy(limits=Limits(send_stall=0.3))
    async with site(send_long, policy) as there:
        async with dialed(there.port) as stalled:
            await stalled.send_bytes(GET)
            await until(lambda: there.pipes.open)
            await until(lambda: not there.pipes.open)
        async with dialed(there.port) as slow:
            await slow.send_bytes(GET)
            while len(slow.wire) < len(LONG):
                assert await slow.receive()
                await anyio.sleep(0.001)


@asyncio_only
async def test_a_body_that_drips_is_refused_and_one_that_robyn_does_not_take_is_not() -> None:
    may_read = anyio.Event()

    async def read_late(client: RawClient) -> None:
        await may_read.wait()
        await discard(client)

    policy = Policy(timeouts=Timeouts(assembly=0.2))
    async with site(read_late, policy) as there:
        async with dialed(there.port) as drips:
            await drips.send_bytes(post(b"x" * 1000)[:-990])
            await until(lambda: there.pipes.open)
            while not drips.wire:
                with suppress(ConnectionError):
                    await drips.send_bytes(b"x")
                with anyio.move_on_after(0.02):
                    await drips.receive()
            assert drips.wire.startswith(b"HTTP/1.1 408 ")
        async with dialed(there.port) as held_up, anyio.create_task_group() as task_group:
            task_group.start_soon(held_up.send_bytes, post(b"x" * (16 * MB)))
            await until(lambda: [pipe for pipe in there.pipes.open if pipe._behind])
            (pipe,) = [pipe for pipe in there.pipes.open if pipe._behind]
            first = pipe._pace
            await until(lambda: pipe._pace is not first)  # it was looked at
            await until(lambda: pipe._pace is not first)
            assert pipe._state is PipeState.OPEN
            may_read.set()


@asyncio_only
async def test_a_head_has_its_time_as_a_whole() -> None:
    policy = Policy(timeouts=Timeouts(handshake=0.2))
    async with site(answer_gets, policy) as there, dialed(there.port) as client:
        await client.send_bytes(GET)
        await read(client, OK)
        while there.pipes.open and len(client.wire) == len(OK):
            with suppress(ConnectionError):
                await client.send_bytes(b"G")
            with anyio.move_on_after(0.02):
                await client.receive()

        assert client.wire.startswith(OK + b"HTTP/1.1 408 ")
