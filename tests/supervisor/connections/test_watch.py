"""A policy applied to one connection, or to one service, in virtual time: each timeout to the second."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest

from actors import Actor, CloseReport, ConnectionActor, ExitReason, Initiator
from actors.cell.cell import Reaction
from actors.errors import HandlerTimeout
from actors.mailbox import Bounds
from actors.testing import Client, ManualClock, connected, started
from actors.timers import LATE
from supervisor import Heartbeat, Limits, Policy, Timeouts
from supervisor.connections.watch import Watch
from supervisor.handler_watch import HandlerWatch
from tests.raw import PING, PONG, TEXT, encode
from tests.witness import watched

OFF = Policy(
    timeouts=Timeouts(idle=None, lifetime=None, assembly=None, handler=None),
    heartbeat=None,
    limits=Limits(send_stall=None),
)


class Echo(ConnectionActor):
    async def on_message(self, message: str) -> None:
        await self.send(message)


class Waits(ConnectionActor):
    """Never ends a hook by itself."""

    async def on_message(self, message: str) -> None:
        await anyio.sleep_forever()


class Floods(ConnectionActor):
    """Sends what the peer has no room for."""

    async def on_message(self, message: str) -> None:
        await self.send("x" * 100_000)


def timeouts(**seconds: float) -> Policy:
    return Policy(timeouts=Timeouts(**{"handler": None, "assembly": None, **seconds})).over(OFF)


async def how_it_ended(client: Client) -> tuple[int, str, ExitReason]:
    """Wait for the end of a connection that this side closes, and the peer too."""
    code, reason, clean = await client.closed()
    assert clean
    assert client.report is not None
    assert client.report.initiator is Initiator.LOCAL
    return code, reason, client.report.exit_reason


# -- idle --------------------------------------------------------------------------------------


async def test_idle_counts_from_the_last_message_in_either_direction() -> None:
    clock = ManualClock()

    async with watched(Echo, timeouts(idle=10), clock) as client:
        await clock.advance(9.9)
        await client.send("hello")
        assert await client.receive() == "hello"
        await clock.advance(9.9)
        await client.actor.send("are you there?")
        await clock.advance(9.9)
        assert not client.cell.closing
        await clock.advance(0.2)

        assert await how_it_ended(client) == (1001, "idle timeout", ExitReason.IDLE)


async def test_control_frames_are_no_sign_of_use() -> None:
    clock = ManualClock()

    async with watched(Echo, timeouts(idle=10), clock) as client:
        for _ in range(4):
            await clock.advance(2.4)
            client.feed(encode(PING))
        assert not client.cell.closing
        await clock.advance(0.5)

        assert await how_it_ended(client) == (1001, "idle timeout", ExitReason.IDLE)


# -- lifetime ----------------------------------------------------------------------------------


async def test_a_lifetime_ends_within_ten_percent_of_it_however_busy_the_connection_is() -> None:
    clock = ManualClock()

    async with watched(Echo, timeouts(lifetime=100), clock) as client:
        await clock.advance(89.9)
        await client.send("hello")
        assert await client.receive() == "hello"
        assert not client.cell.closing
        await clock.advance(20.2)

        assert await how_it_ended(client) == (1001, "lifetime reached", ExitReason.LIFETIME)


async def test_connections_that_began_together_do_not_end_together() -> None:
    clock = ManualClock()
    ended: list[float] = []

    class Mortal(ConnectionActor):
        def on_close(self, report: CloseReport) -> None:
            ended.append(clock())

    async with anyio.create_task_group() as task_group:

        async def live() -> None:
            async with watched(Mortal, timeouts(lifetime=100), clock) as client:
                open_clients.append(client)
                await client.closed()

        open_clients: list[Client] = []
        for _ in range(8):
            task_group.start_soon(live)
        await clock.advance(0)
        assert len(open_clients) == 8
        await clock.advance(111)

    assert len(set(ended)) >= 3, "looks may come together, but not all of them"
    assert 1090 <= min(ended) < max(ended) <= 1110


# -- handler -----------------------------------------------------------------------------------


async def test_a_hook_that_takes_too_long_is_a_crash_that_says_where_it_waits() -> None:
    clock = ManualClock()

    async with watched(Waits, timeouts(handler=5), clock) as client:
        await clock.advance(100)  # no time between two hooks counts
        await client.send("hello")
        await clock.advance(4.9)
        assert not client.cell.closing
        await clock.advance(0.2)
        ended = await how_it_ended(client)

    assert ended == (1011, "", ExitReason.HANDLER_TIMEOUT)
    (crash,) = client.crashes
    assert isinstance(crash, HandlerTimeout)
    assert "ran for more than 5 s; it waits at " in str(crash)
    assert " in sleep_forever" in str(crash) or " in on_message" in str(crash)


@pytest.mark.parametrize("reaction", [Reaction.RESUME, Reaction.RESTART])
async def test_one_timeout_is_one_crash_and_what_comes_after_it_has_the_whole_time_again(
    reaction: Reaction,
) -> None:
    clock = ManualClock()

    async with watched(Waits, timeouts(handler=5), clock, crash=reaction) as client:
        await client.send("one")
        await clock.advance(5.1)
        assert len(client.crashes) == 1
        await client.send("two")
        await clock.advance(4.9)
        assert len(client.crashes) == 1
        await clock.advance(0.2)

        assert len(client.crashes) == 2
        assert not client.cell.closing


@pytest.mark.parametrize("reaction", [Reaction.RESUME, Reaction.RESTART])
async def test_a_hook_that_swallows_its_cancellation_ends_the_connection_whatever_the_policy(
    reaction: Reaction,
) -> None:
    clock = ManualClock()
    release = anyio.Event()

    class Stubborn(ConnectionActor):
        async def on_message(self, message: str) -> None:
            with anyio.CancelScope(shield=True):
                await release.wait()

    async with watched(Stubborn, timeouts(handler=5), clock, crash=reaction, teardown=2.0) as client:
        await client.send("hello")
        await clock.advance(5.1 + 2.0)
        assert client.cell.closing
        await clock.advance(30)
        code, reason, _ = await client.closed()
        release.set()

    assert (code, reason) == (1011, "")
    assert client.report is not None
    assert client.report.exit_reason is ExitReason.HANDLER_TIMEOUT
    (leak,) = client.cell.leaks
    assert leak.startswith("a hook of ")


async def test_a_service_has_a_handler_timeout_too() -> None:
    clock = ManualClock()

    class Slow(Actor):
        async def on_info(self, message: Any) -> Any:
            await anyio.sleep_forever()

    async with started(Slow, clock=clock) as ref:
        watch = HandlerWatch(ref._cell, 5.0)
        await clock.advance(100)
        ref.tell("hello")
        await clock.advance(4.9)
        assert ref.alive
        await clock.advance(0.2)
        watch.cancel()

        assert not ref.alive
        assert ref._cell.exit_reason is ExitReason.HANDLER_TIMEOUT


# -- assembly ----------------------------------------------------------------------------------

PARTS: list[Callable[[], list[bytes]]] = [
    lambda: [encode(TEXT, b"half")[:-2]],
    lambda: [encode(TEXT, b"one ", fin=False), encode(0, b"two ", fin=False)],
    lambda: [encode(TEXT, b"one ", fin=False), encode(PING)],
    lambda: [b"\x81"],
]


@pytest.mark.parametrize("parts", PARTS, ids=["frame", "fragments", "ping between", "first byte"])
async def test_a_message_that_does_not_end_is_a_violation_however_it_drips(
    parts: Callable[[], list[bytes]],
) -> None:
    clock = ManualClock()

    async with watched(Echo, timeouts(assembly=10), clock) as client:
        await clock.advance(50)
        for part in parts():
            client.feed(part)
            await clock.advance(4)
        await clock.advance(9.9 - 4 * len(parts()))
        assert not client.cell.closing
        await clock.advance(0.2)

        assert client.cell.closing
        assert client.cell.websocket.sent == (1008, "message took too long to arrive")


async def test_a_message_that_is_whole_in_time_starts_nothing() -> None:
    clock = ManualClock()

    async with watched(Echo, timeouts(assembly=10), clock) as client:
        for _ in range(5):
            client.feed(encode(TEXT, b"in ", fin=False))
            await clock.advance(9)
            client.feed(encode(0, b"time"))
            assert await client.receive() == "in time"


# -- heartbeat ---------------------------------------------------------------------------------

BEATING = Policy(heartbeat=Heartbeat(interval=20, timeout=5, jitter=0)).over(OFF)


async def test_a_peer_that_answers_no_ping_is_lost_after_the_timeout() -> None:
    clock = ManualClock()

    async with watched(Echo, BEATING, clock, close=1.0) as client:
        client.answers = False
        await clock.advance(20.5)
        client.feed(encode(PONG))
        await clock.advance(24.4)
        assert not client.cell.closing
        await clock.advance(0.2)
        assert client.cell.closing
        await clock.advance(1)
        await client.closed()

    assert client.report is not None
    assert (client.report.sent, client.report.clean) == ((1011, "heartbeat lost"), False)
    assert client.report.exit_reason is ExitReason.HEARTBEAT_LOST


async def test_the_pings_of_few_connections_go_out_at_the_same_times_and_within_their_jitter() -> None:
    clock = ManualClock()
    policy = Policy(heartbeat=Heartbeat(interval=20, jitter=0.1)).over(OFF)
    sent: list[int] = []

    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(watched(Echo, policy, clock)) for _ in range(8)]

        def pings() -> int:
            return sum(frame.opcode == PING for client in clients for frame in client.frames)

        await clock.advance(17.5)
        for _ in range(9):
            before = pings()
            await clock.advance(31 / 64)
            assert pings() == before
            await clock.advance(1 / 64)
            sent.append(pings() - before)

    assert sum(sent) == 8
    assert max(sent) < 8, "jitter is for that they do not all come together"


# -- send stall --------------------------------------------------------------------------------


async def test_a_peer_that_does_not_read_has_the_time_of_the_send_stall() -> None:
    clock = ManualClock()
    policy = Policy(limits=Limits(send_stall=10)).over(OFF)

    async with watched(Floods, policy, clock, high_water=1000) as client:
        await clock.advance(50)
        client.stall()
        await client.send("go on")
        await clock.advance(9.9)
        assert not client.cell.closing
        await clock.advance(0.2)
        client.unstall()

        assert await how_it_ended(client) == (1013, "reads too slowly", ExitReason.OVERLOAD)


async def test_a_peer_that_reads_again_in_time_stays() -> None:
    clock = ManualClock()
    policy = Policy(limits=Limits(send_stall=10)).over(OFF)

    async with watched(Floods, policy, clock, high_water=1000) as client:
        for _ in range(3):
            client.stall()
            await client.send("go on")
            await clock.advance(9.9)
            client.unstall()
            await clock.advance(5)
            assert len(await client.receive()) == 100_000


# -- nobody is blamed for what he did not do ---------------------------------------------------

STOOD_STILL = LATE + 100


@pytest.mark.parametrize(
    ("policy", "actor", "begin"),
    [
        (BEATING, Echo, b""),
        (timeouts(idle=10), Echo, encode(TEXT, b"hello")),
        (timeouts(assembly=10), Echo, encode(TEXT, b"half")[:-2]),
        (timeouts(handler=10), Waits, encode(TEXT, b"hello")),
    ],
    ids=["heartbeat", "idle", "assembly", "handler"],
)
async def test_a_process_that_stood_still_gives_everybody_the_whole_time_again(
    policy: Policy, actor: type[ConnectionActor], begin: bytes
) -> None:
    clock = ManualClock()

    async with watched(actor, policy, clock) as client:
        client.answers = False
        if begin:
            client.feed(begin)
        await clock.advance(20.1 if policy is BEATING else 5)
        await clock.jump(STOOD_STILL)
        assert not client.cell.closing
        await clock.advance(4.9)
        assert not client.cell.closing
        await clock.advance(5.2)

        assert client.cell.closing


async def test_a_message_that_our_own_pause_holds_up_has_the_whole_time_again() -> None:
    clock = ManualClock()
    released = anyio.Event()

    class Busy(ConnectionActor):
        async def on_message(self, message: str) -> None:
            await released.wait()

    policy = timeouts(assembly=10)
    async with watched(Busy, policy, clock, bounds=Bounds(inbound_messages=1)) as client:
        client.feed(encode(TEXT, b"one") + encode(TEXT, b"two") + encode(TEXT, b"half")[:-2])
        await clock.advance(100)
        assert not client.cell.reading
        assert not client.cell.closing

        released.set()
        await clock.advance(9.9)
        assert client.cell.reading
        assert not client.cell.closing
        await clock.advance(20)

        assert client.cell.closing


# -- the end -----------------------------------------------------------------------------------


async def test_a_cancelled_watch_looks_no_more() -> None:
    clock = ManualClock()

    async with connected(Echo, clock=clock) as client:
        watch = Watch(client.cell, timeouts(idle=10))
        await clock.advance(5)
        watch.cancel()
        await clock.advance(100)

        assert not client.cell.closing
