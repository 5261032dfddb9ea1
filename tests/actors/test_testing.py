"""The public test kit: what its client sees is what a real one sees, and its clock moves as told."""

from __future__ import annotations

import struct
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from websockets.exceptions import InvalidStatus

from actors import Actor, CloseReport, ConnectionActor, ConnectionClosing, Initiator, Refusal, Request
from actors.cell.cell import Reaction
from actors.testing import ManualClock, connected, settled, started
from tests.raw import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, encode

pytestmark = pytest.mark.every_runtime


class Echo(ConnectionActor):
    async def on_message(self, message: Any) -> None:
        await self.send(message)


class Json(Echo):
    codec = {"json": "json"}  # noqa: RUF012  # as users write it


class Guarded(Echo):
    @classmethod
    async def on_upgrade(cls, request: Request) -> Refusal | None:
        if "token" not in request.query_params:
            return Refusal(401, "token required", {"X-Why": "none given"})
        request.state["user"] = request.query_params["token"]
        return None


class Ticker(Actor):
    def on_start(self) -> None:
        self.ticks: list[float] = []
        self.every(1.0, "tick")

    def on_info(self, message: Any) -> Any:
        if message == "tick":
            self.ticks.append(self._own_cell.runtime.clock())
        return list(self.ticks)


# -- the client --------------------------------------------------------------------------------


async def test_a_message_goes_there_and_back() -> None:
    async with connected(Echo) as client:
        for message in ("text é€😀", b"\x00\xff", "", "x" * 70_000):
            await client.send(message)
            assert await client.receive() == message


async def test_the_actor_gets_the_request() -> None:
    async with connected(
        Json,
        path="/rooms/blue%20one",
        query={"token": "a&b", "name": "é"},
        path_params={"room": "blue one"},
        headers={"X-Tag": "1"},
        subprotocols=["other", "json"],
    ) as client:
        await client.send('{"a": [1]}')
        assert await client.receive() == '{"a":[1]}'
        request = client.actor.request

    assert (request.path, request.subprotocol) == ("/rooms/blue one", "json")
    assert dict(request.query_params) == {"token": "a&b", "name": "é"}
    assert request.path_params == {"room": "blue one"}
    assert request.headers["x-tag"] == "1"


async def test_a_refused_upgrade_raises_what_a_client_gets() -> None:
    with pytest.raises(InvalidStatus) as raised:
        async with connected(Guarded):
            pytest.fail("the upgrade was not refused")

    response = raised.value.response
    assert (response.status_code, response.body) == (401, b"token required\n")
    assert response.headers["X-Why"] == "none given"

    async with connected(Guarded, query={"token": "ann"}) as client:
        assert client.cell.request.state == {"user": "ann"}


async def test_a_close_of_the_actor_is_seen_by_both_sides() -> None:
    async with connected(Echo) as client:
        client.ref.close(1008, "Session expired")

        closed = await client.closed()

        assert closed == (1008, "Session expired", True)
        assert (closed.code, closed.reason, closed.clean) == closed
        assert client.report is not None
        assert (client.report.initiator, client.report.sent) == (Initiator.LOCAL, (1008, "Session expired"))
        with pytest.raises(anyio.EndOfStream):
            await client.receive()
        assert await client.close(4000) == closed, "too late: the first close has won"


async def test_a_close_of_the_client_is_seen_by_both_sides() -> None:
    async with connected(Echo) as client:
        assert await client.close(4000, "bye") == (4000, "bye", True)
        assert client.report is not None
        assert (client.report.initiator, client.report.received) == (Initiator.PEER, (4000, "bye"))


async def test_messages_sent_before_the_close_are_received_after_it() -> None:
    async with connected(Echo) as client:
        for number in range(3):
            await client.send(str(number))
        await settled()
        client.ref.close()
        await client.closed()

        assert [await client.receive() for _ in range(3)] == ["0", "1", "2"]


async def test_leaving_the_block_drops_what_is_open_and_awaits_the_teardown() -> None:
    reports: list[CloseReport] = []

    class Reporting(Echo):
        async def on_close(self, report: CloseReport) -> None:
            await anyio.lowlevel.checkpoint()
            reports.append(report)

    async with connected(Reporting) as client:
        pass

    assert reports == [client.report]
    assert (reports[0].code, reports[0].initiator) == (1006, Initiator.TRANSPORT)


async def test_bytes_can_be_fed_as_they_are() -> None:
    async with connected(Echo) as client:
        client.feed(encode(TEXT, b"fr", fin=False) + encode(PING, b"?"))
        client.feed(encode(CONTINUATION, b"agments") + encode(BINARY, b"whole"))

        assert [await client.receive(), await client.receive()] == ["fragments", b"whole"]
        assert [(frame.opcode, bytes(frame.data)) for frame in client.frames] == [
            (PONG, b"?"),
            (TEXT, b"fragments"),
            (BINARY, b"whole"),
        ]
        client.feed(encode(0x3))
        assert (await client.closed()).code == 1002
        assert client.frames[-1].opcode == CLOSE


async def test_a_client_that_does_not_answer_is_aborted_at_the_close_timeout() -> None:
    clock = ManualClock()
    async with connected(Echo, clock=clock, close=3.0) as client:
        client.answers = False
        client.cell.websocket.ping()
        client.ref.close(1001)
        await clock.advance(2.9)
        assert client.ref.alive
        await clock.advance(0.1)

        assert client.report is not None
        assert (client.report.clean, client.report.sent) == (False, (1001, ""))
        assert client.report.handshake_took == pytest.approx(3.0)
        assert await client.closed() == (1001, "", False)
        assert client.transport.aborted


@pytest.mark.parametrize("clean", [False, True])
async def test_the_end_of_the_clients_stream(clean: bool) -> None:
    async with connected(Echo) as client:
        if clean:
            client.feed(encode(CLOSE, struct.pack("!H", 1001)))
        client.feed(b"")
        await client.ref.wait_closed()

        assert client.report is not None
        assert (client.report.code, client.report.clean) == ((1001, True) if clean else (1006, False))


async def test_a_client_that_reads_no_more_holds_up_send_and_only_send() -> None:
    sent: list[int] = []

    class Flood(ConnectionActor):
        async def on_message(self, message: Any) -> None:
            for number in range(10):
                await self.send(b"x" * 1000)
                sent.append(number)

    async with connected(Flood, high_water=3000) as client:
        client.stall()
        await client.send("go")
        await settled()
        assert sent == [0, 1]
        assert client.transport.buffered > 3000

        client.unstall()
        for _ in range(10):
            assert await client.receive() == b"x" * 1000
        await settled()
        assert sent == list(range(10))


async def test_a_close_ends_the_wait_of_a_held_up_send() -> None:
    errors: list[BaseException] = []
    clock = ManualClock()

    class Flood(ConnectionActor):
        async def on_message(self, message: Any) -> None:
            try:
                while True:
                    await self.send(b"x" * 1000)
            except ConnectionClosing as error:
                errors.append(error)

    async with connected(Flood, high_water=3000, clock=clock) as client:
        client.stall()
        await client.send("go")
        await settled()
        client.ref.close(4000, "enough")
        await settled()
        assert [str(error) for error in errors] == [
            "the connection is closing with 4000 'enough'; nothing more can be sent"
        ]

        await clock.advance(10.0)
        assert client.report is not None
        assert (client.report.code, client.report.clean) == (4000, False)


async def test_what_an_actor_raises_is_kept_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Crashing(Echo):
        async def on_message(self, message: Any) -> None:
            raise ValueError(message)

    async with connected(Crashing) as client:
        await client.send("boom")
        assert await client.closed() == (1011, "", True)
    assert [repr(crash) for crash in client.crashes] == ["ValueError('boom')"]
    assert "boom" in caplog.text

    async with connected(Crashing, crash=Reaction.RESUME) as client:
        await client.send("boom")
        await settled()
        assert await client.close() == (1000, "", True)
    assert len(client.crashes) == 1


async def test_an_error_of_the_block_keeps_its_type() -> None:
    with pytest.raises(ZeroDivisionError):
        async with connected(Echo):
            raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError):
        async with started(Ticker):
            raise ZeroDivisionError


async def test_a_cancelled_block_still_tears_down() -> None:
    async with connected(Echo) as outer:
        with anyio.CancelScope() as scope:
            async with connected(Echo) as client, started(Ticker) as ref:
                scope.cancel()
                await anyio.sleep_forever()

        assert scope.cancelled_caught
        assert not client.ref.alive
        assert not ref.alive
        assert client.report is not None
        assert outer.ref.alive


# -- the clock ---------------------------------------------------------------------------------


async def test_time_stands_still_until_it_is_moved() -> None:
    clock = ManualClock(now=500.0)

    async with started(Ticker, clock=clock) as ref:
        await anyio.sleep(0.01)
        assert clock() == 500.0
        assert await ref.ask("?") == []

        await clock.advance(3.5)

        assert clock() == 503.5
        assert await ref.ask("?") == [501.0, 502.0, 503.0]


async def test_a_jump_lets_what_was_due_meanwhile_come_late() -> None:
    clock = ManualClock(now=500.0)

    async with started(Ticker, clock=clock) as ref:
        await clock.jump(1.75)

        assert clock() == 501.75
        assert await ref.ask("when?") == [501.75]


async def test_one_clock_moves_several_actors_in_the_order_of_their_deadlines() -> None:
    clock, order = ManualClock(now=0.0), []

    class Beat(Actor):
        def __init__(self, name: str, interval: float) -> None:
            self.name, self.interval = name, interval

        def on_start(self) -> None:
            self.every(self.interval, "beat")

        def on_info(self, message: Any) -> None:
            order.append((self.name, clock()))

    async with started(Beat, "slow", 2.0, clock=clock), started(Beat, "fast", 1.5, clock=clock):
        await clock.advance(4.5)

    assert order == [("fast", 1.5), ("slow", 2.0), ("fast", 3.0), ("slow", 4.0), ("fast", 4.5)]
    await clock.advance(10.0)
    assert len(order) == 5, "what has ended is not driven any more"
