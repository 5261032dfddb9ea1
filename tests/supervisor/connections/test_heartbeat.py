"""The heartbeat: real ping frames, any byte is life, and silence is only blamed on who is silent.

In virtual time over the memory transport, and in short real times over sockets.
"""

from __future__ import annotations

import time
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, ClassVar

import anyio
import pytest

import tests.witness
from actors import ConnectionActor, ExitReason, Initiator
from actors.mailbox import Bounds
from actors.testing import Client, ManualClock, settled
from supervisor import Heartbeat, Policy, Timeouts
from tests.raw import PING, PONG, RawClient, encode, encode_close, raw_client
from tests.witness import serving

pytestmark = pytest.mark.every_runtime

NO_OTHER_CLOCK = Timeouts(handler=None, assembly=None)
REGULAR = Policy(heartbeat=Heartbeat(interval=20, timeout=5, jitter=0), timeouts=NO_OTHER_CLOCK)


class Echo(ConnectionActor):
    async def on_message(self, message: str) -> None:
        await self.send(message)


def watched(
    clock: ManualClock, policy: Policy = REGULAR, actor: type[ConnectionActor] = Echo, **limits: Any
) -> AbstractAsyncContextManager[Client]:
    """A connection that its policy is applied to, in virtual time."""
    return tests.witness.watched(actor, policy, clock, **limits)


def pings(client: Client) -> list[bytes]:
    """The payloads of the pings that came."""
    return [bytes(frame.data) for frame in client.frames if frame.opcode == PING]


# -- in virtual time ---------------------------------------------------------------------------


async def test_a_ping_goes_out_every_interval_as_long_as_it_is_answered() -> None:
    clock = ManualClock()

    async with watched(clock) as client:
        client.answers = False
        await clock.advance(0.1)
        for count in range(10):
            await clock.advance(19.8)
            assert len(pings(client)) == count
            await clock.advance(0.2)
            client.feed(encode(PONG, pings(client)[-1]))

        assert len(set(pings(client))) == 10, "each has a payload of its own"
        assert not client.cell.closing


async def test_the_round_trip_is_measured_from_a_ping_to_its_own_pong() -> None:
    clock = ManualClock()

    async with watched(clock) as client:
        client.answers = False
        assert client.actor.round_trip is None
        await clock.advance(20)
        (payload,) = pings(client)
        await clock.advance(0.25)
        client.feed(encode(PONG, b"another"))
        assert client.actor.round_trip is None
        await clock.advance(0.5)
        client.feed(encode(PONG, payload))
        assert client.actor.round_trip == pytest.approx(0.75)
        client.feed(encode(PONG, payload))

        assert client.actor.round_trip == pytest.approx(0.75)


async def test_a_lost_heartbeat_closes_with_1011_after_the_timeout_and_not_before() -> None:
    clock = ManualClock()

    async with watched(clock) as client:
        client.answers = False
        await clock.advance(24.9)
        assert client.report is None
        assert not client.cell.closing
        await clock.advance(0.2)
        assert client.cell.closing
        client.feed(encode_close(1011, "heartbeat lost"))
        await clock.advance(0)
        with anyio.fail_after(5):
            report = await client.ref.wait_closed()

    assert report.sent == (1011, "heartbeat lost")
    assert (report.initiator, report.clean) == (Initiator.LOCAL, True)
    assert report.exit_reason is ExitReason.HEARTBEAT_LOST


async def test_a_peer_that_is_gone_is_dropped_after_the_close_timeout() -> None:
    clock = ManualClock()

    async with watched(clock, close=10.0) as client:
        client.answers = False
        await clock.advance(34.9)
        assert client.ref.alive
        await clock.advance(0.2)

        assert not client.ref.alive
        assert client.report is not None
        assert (client.report.clean, client.report.exit_reason) == (False, ExitReason.HEARTBEAT_LOST)


LIFE = {
    "a message": encode(0x1, b"hello"),
    "a ping": encode(PING, b"are you there?"),
    "an empty pong": encode(PONG),
    "a part of a frame": encode(0x1, b"hello")[:3],
}


@pytest.mark.parametrize("life", LIFE.values(), ids=LIFE)
async def test_any_byte_of_the_peer_is_life(life: bytes) -> None:
    clock = ManualClock()

    async with watched(clock) as client:
        client.answers = False
        await clock.advance(24)
        client.feed(life)
        await clock.advance(15.9)
        assert len(pings(client)) == 1
        await clock.advance(0.2)
        assert len(pings(client)) == 2, "the next one comes an interval after the last one"
        assert not client.cell.closing
        await clock.advance(5)

        assert client.cell.closing


async def test_a_byte_from_before_the_ping_is_no_answer_to_it() -> None:
    clock = ManualClock()

    async with watched(clock) as client:
        client.answers = False
        await clock.advance(19.9)
        client.feed(encode(PONG))
        await clock.advance(5.2)

        assert client.cell.closing


async def test_jitter_spreads_the_pings_within_its_bounds() -> None:
    clock = ManualClock()
    policy = Policy(heartbeat=Heartbeat(interval=20, timeout=5, jitter=0.1), timeouts=NO_OTHER_CLOCK)

    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(watched(clock, policy)) for _ in range(100)]
        await clock.advance(17.9)
        early = sum(len(pings(client)) for client in clients)
        await clock.advance(2.1)
        half = sum(len(pings(client)) for client in clients)
        await clock.advance(2.1)
        all_of_them = [len(pings(client)) for client in clients]

    assert early == 0
    assert 20 < half < 80, "one time in a thousand million with fair dice"
    assert all_of_them == [1] * 100


async def test_without_a_heartbeat_there_is_no_ping() -> None:
    clock = ManualClock()

    async with watched(clock, Policy(heartbeat=None)) as client:
        client.answers = False
        await clock.advance(1000)

        assert pings(client) == []
        assert client.ref.alive


class Held(ConnectionActor):
    """Handles messages when the test lets it."""

    go: ClassVar[anyio.Event]

    async def on_message(self, message: str) -> None:
        await Held.go.wait()


async def test_the_clock_stands_still_while_our_own_mailbox_has_paused_reading() -> None:
    clock, Held.go = ManualClock(), anyio.Event()

    async with watched(clock, actor=Held, bounds=Bounds(inbound_messages=2)) as client:
        client.answers = False
        await clock.advance(20)
        assert len(pings(client)) == 1
        await client.send("one")
        for message in ("two", "three"):
            await client.send(message)
        await settled()
        assert not client.cell.reading
        client.feed(encode(PONG, pings(client)[0]))  # which nobody can see
        await clock.advance(100)
        assert not client.cell.closing, "the peer has answered, and it is us who do not read"

        Held.go.set()
        await settled()
        assert client.cell.reading
        for _ in range(15):
            await clock.advance(4)
            client.feed(encode(PONG))

        assert not client.cell.closing
        assert len(pings(client)) >= 3, "the heartbeat goes on"


async def test_a_peer_has_the_whole_timeout_again_when_reading_goes_on() -> None:
    clock, Held.go = ManualClock(), anyio.Event()

    async with watched(clock, actor=Held, bounds=Bounds(inbound_messages=2)) as client:
        client.answers = False
        for message in ("one", "two", "three"):
            await client.send(message)
        await settled()
        assert not client.cell.reading
        await clock.advance(100)
        assert len(pings(client)) == 1
        assert not client.cell.closing
        Held.go.set()
        await settled()
        assert client.cell.reading
        await clock.advance(4.5)
        assert not client.cell.closing
        await clock.advance(5.6)

        assert client.cell.closing


# -- over sockets ------------------------------------------------------------------------------

QUICK = Policy(heartbeat=Heartbeat(interval=0.02, timeout=15))


async def answer_pings(client: RawClient, count: int) -> list[bytes]:
    """Read and answer ``count`` pings, and nothing but pings."""
    payloads = []
    for _ in range(count):
        frame = await client.frame()
        assert (frame.opcode, frame.fin) == (PING, True)
        payloads.append(frame.payload)
        await client.send_bytes(encode(PONG, frame.payload))
    return payloads


async def test_pings_are_real_frames_and_their_round_trip_is_measured() -> None:
    began = time.monotonic()
    async with serving(Echo, policy=QUICK) as (server, _), raw_client(server) as client:
        (ref,) = server.connections
        payloads = await answer_pings(client, 1)
        while (trip := ref._cell.actor.round_trip) is None:
            payloads += await answer_pings(client, 1)
        took = time.monotonic() - began

    assert len(set(payloads)) == len(payloads) > 0
    assert 0 < trip < took


async def test_a_client_that_answers_lives_and_one_that_does_not_is_closed_with_1011() -> None:
    strict = Policy(heartbeat=Heartbeat(interval=0.02, timeout=0.2))

    async with (
        serving(Echo, policy=QUICK) as (server, _),
        serving(Echo, policy=strict) as (impatient, witness),
        raw_client(server) as alive,
        raw_client(impatient) as silent,
    ):
        await answer_pings(alive, 5)
        ping = await silent.frame()
        close = await silent.answer_close()
        rest = await silent.rest()
        report = (await witness.one_closed()).report
        await answer_pings(alive, 5)
        assert len(server.connections) == 1

    assert ping.opcode == PING
    assert close == (1011, "heartbeat lost")
    assert rest == []
    assert (report.exit_reason, report.clean) == (ExitReason.HEARTBEAT_LOST, True)


async def test_no_ping_follows_our_close_frame() -> None:
    class Closes(ConnectionActor):
        policy = Policy(heartbeat=Heartbeat(interval=0.01, timeout=15), timeouts=Timeouts(close=0.2))

        async def on_message(self, message: str) -> None:
            self.close(4001, "done")

    async with serving(Closes) as (server, _), raw_client(server) as client:
        await answer_pings(client, 2)
        await client.send("close")
        frames = await client.rest()

    pings, close = frames[:-1], frames[-1]
    assert all(frame.opcode == PING for frame in pings)
    assert close.close == (4001, "done")
