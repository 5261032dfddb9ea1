"""Backpressure both ways: who does not keep up holds up the other side, and loses nothing."""

from __future__ import annotations

import select
import socket
from typing import Any, ClassVar

import anyio
import pytest

from actors import ActorRef, CloseReport, ConnectionActor, ConnectionClosing, ExitReason, Initiator
from supervisor import Limits, Policy, Timeouts
from tests.raw import CLOSE, DEADLINE, TEXT, RawClient, encode, raw_client
from tests.witness import serving, until

pytestmark = pytest.mark.every_runtime

KILO = 1024
MORE_THAN_ALL_BUFFERS = 16 * KILO * KILO
"""Bytes that the buffers of the kernel (tcp(7): tcp_rmem, 6 MiB) and this server do not hold together."""


def blocked(client: RawClient) -> bool:
    """Whether a write of the client would block."""
    return not select.select([], [client.sock], [], 0)[1]


# -- a full mailbox ----------------------------------------------------------------------------


class Held(ConnectionActor):
    """Begins to handle messages when the test says so."""

    go: ClassVar[anyio.Event]
    handled: ClassVar[list[int]]

    async def on_message(self, message: str) -> None:
        await self.go.wait()
        self.handled.append(int(message[:8]))


BOUNDS = {
    "messages": (Limits(inbound_messages=4), KILO),
    "bytes": (Limits(inbound_bytes=200 * KILO), 64 * KILO),
    "defaults": (Limits(), 16 * KILO),
}


@pytest.mark.parametrize("bound", BOUNDS)
async def test_a_full_mailbox_holds_up_the_client_and_goes_on_in_order_without_loss(bound: str) -> None:
    limits, size = BOUNDS[bound]
    count = MORE_THAN_ALL_BUFFERS // size
    Held.go, Held.handled = anyio.Event(), []
    written = 0

    async def write(client: RawClient) -> None:
        nonlocal written
        for number in range(count):
            await client.send(f"{number:08}".ljust(size, "x"))
            written += 1

    policy = Policy(limits=limits, timeouts=Timeouts(handler=None), heartbeat=None)
    async with serving(Held, policy=policy) as (server, witness), raw_client(server) as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * KILO)
        (ref,) = server.connections
        cell = ref._cell
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(write, client)
            await until(lambda: not cell.reading and blocked(client))
            held = cell.mailbox.inbound_messages, cell.mailbox.inbound_bytes
            assert written < count
            assert Held.handled == []
            Held.go.set()
        await client.send_close(4001, "all of it")
        frames = await client.rest()
        report = (await witness.one_closed()).report

    one_read = 256 * KILO
    assert held[0] <= limits.inbound_messages + one_read // size
    assert held[1] <= limits.inbound_bytes + one_read
    assert Held.handled == list(range(count))
    assert (report.messages_in, report.undelivered, report.clean) == (count, 0, True)
    assert [frame.close for frame in frames] == [(4001, "all of it")]


async def test_our_close_goes_out_and_the_peers_is_seen_while_the_mailbox_is_full() -> None:
    Held.go, Held.handled = anyio.Event(), []
    policy = Policy(limits=Limits(inbound_messages=2), timeouts=Timeouts(handler=None, teardown=0.1))

    async with serving(Held, policy=policy) as (server, witness), raw_client(server) as client:
        (ref,) = server.connections
        await client.send_bytes(b"".join(encode(TEXT, b"%08d" % number) for number in range(20_000)))
        await until(lambda: not ref._cell.reading)
        ref.close(4001, "enough")
        close = await client.answer_close()
        await client.rest()
        report = (await witness.one_closed()).report

    assert close == (4001, "enough")
    assert report.received == (4001, "enough")
    assert (report.clean, report.initiator) == (True, Initiator.LOCAL)
    assert report.undelivered >= 19_999
    assert Held.handled == []


# -- a full write buffer -----------------------------------------------------------------------


class Flood(ConnectionActor):
    """Sends without end in a task, and answers messages."""

    chunk: ClassVar[bytes] = b"x" * (64 * KILO)

    async def on_connect(self) -> None:
        self.sent = 0
        self.failed: BaseException | None = None
        self.spawn(self.flood)

    async def flood(self) -> None:
        try:
            while True:
                await self.send(self.chunk)
                self.sent += 1
        except ConnectionClosing as error:
            self.failed = error

    async def on_message(self, message: str) -> None:
        self.messages = getattr(self, "messages", 0) + 1

    async def on_info(self, message: Any) -> Any:
        return self.sent, getattr(self, "messages", 0)


class Echo(ConnectionActor):
    async def on_message(self, message: str) -> None:
        await self.send(message)


async def read(client: RawClient, size: int) -> None:
    """Read and forget ``size`` bytes."""
    while len(client.wire) - client._read < size:
        assert await client.receive()
    client._read = len(client.wire)


async def stuck(ref: ActorRef) -> int:
    """Wait until a ``Flood`` sends no more; gives how many of its messages were sent."""
    turns, sent = 0, -1
    with anyio.fail_after(DEADLINE):
        while turns < 50:  # each is a turn of the event loop, and a look at the sockets
            now, _ = await ref.ask("sent")
            turns, sent = (turns + 1 if now == sent else 0), now
    return sent


async def test_a_client_that_does_not_read_blocks_send_and_is_not_read_itself() -> None:
    policy = Policy(limits=Limits(send_stall=None), heartbeat=None)

    async with (
        serving(Flood, policy=policy) as (server, _),
        raw_client(server, receive_buffer=16 * KILO) as client,
    ):
        (ref,) = server.connections
        sent = await stuck(ref)
        buffered = ref._cell.websocket.transport.buffered
        for message in ("trio may be reading already", "nobody reads this"):
            await client.send(message)
            assert await stuck(ref) == sent
        _, messages = await ref.ask("sent")
        assert messages <= 1

        await read(client, (sent + 2) * len(Flood.chunk))
        await until(lambda: ref._cell.actor.sent > sent)
        assert buffered <= policy.limits.send_high_water + len(Flood.chunk) + KILO
        client.reset()


async def test_what_a_client_sends_is_read_while_it_reads_a_flood() -> None:
    policy = Policy(limits=Limits(send_stall=None), heartbeat=None)

    async with serving(Flood, policy=policy) as (server, witness), raw_client(server) as client:
        for _ in range(100):
            await read(client, len(Flood.chunk))
        await client.send("hello")
        await client.send_close(4001, "enough")
        with anyio.fail_after(DEADLINE):
            while await client.receive():
                client.wire, client._read = client.wire[-4096:], 0
        report = (await witness.one_closed()).report

    assert (report.code, report.initiator, report.clean) == (4001, Initiator.PEER, True)
    assert report.messages_in == 1
    assert client.wire.endswith(bytes([0x88, 8]) + (4001).to_bytes(2, "big") + b"enough")


@pytest.mark.parametrize("chunk", [b"x" * (64 * KILO), b"x"], ids=["large", "small"])
async def test_one_who_sends_without_end_holds_up_nobody_also_when_its_peer_is_gone(
    chunk: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Flood, "chunk", chunk)

    async with (
        serving({"/": Flood, "/echo": Echo}) as (server, witness),
        raw_client(server, "/echo") as neighbour,
        raw_client(server) as client,
    ):
        await read(client, 1000 * KILO)
        await neighbour.send("still here?")
        assert (await neighbour.frame()).text == "still here?"
        client.reset()
        report = (await witness.one_closed()).report
        await neighbour.send("and now?")
        assert (await neighbour.frame()).text == "and now?"

    assert (report.code, report.initiator) == (1006, Initiator.TRANSPORT)
    assert witness.crashes == []


async def test_who_answers_each_message_does_not_wait_when_the_kernel_takes_the_answers() -> None:
    waits: list[float | None] = []

    class Answers(Echo):
        async def on_connect(self) -> None:
            cell = self.ref._cell
            cell.on_congested = lambda: waits.append(cell.congested_since)

    policy = Policy(limits=Limits(send_high_water=8 * KILO), heartbeat=None)
    async with serving(Answers, policy=policy) as (server, _), raw_client(server) as client:
        for size in [9 * KILO] * 10 + [5 * KILO] * 10:
            await client.send("x" * size)
            assert (await client.frame()).text == "x" * size

    assert waits == []


@pytest.mark.parametrize("reading", ["at once", "slowly"])
async def test_small_and_large_messages_go_out_in_order_however_the_client_reads(reading: str) -> None:
    sizes = [1, 70_000, 5, 5_000, 300_000, 64 * KILO, 0, 4_096, 4_095, 200_000] * 4
    messages = [bytes([number]) * size for number, size in enumerate(sizes)]

    class Sends(ConnectionActor):
        async def on_message(self, message: str) -> None:
            for one in messages:
                await self.send(one)
            self.close(4001, "all of it")

    buffer = None if reading == "at once" else 4 * KILO
    policy = Policy(limits=Limits(max_message=None), heartbeat=None)
    async with (
        serving(Sends, policy=policy) as (server, witness),
        raw_client(server, receive_buffer=buffer) as client,
    ):
        await client.send("go")
        frames = []
        while not frames or frames[-1].opcode != CLOSE:
            frames.append(await client.frame())
        await client.send_close(4001)
        rest = await client.rest()
        report = (await witness.one_closed()).report

    assert [frame.payload for frame in frames[:-1]] == messages
    assert (frames[-1].close, rest) == ((4001, "all of it"), [])
    assert report.clean


async def test_a_client_that_stops_reading_for_too_long_is_closed_with_1013() -> None:
    policy = Policy(limits=Limits(send_stall=0.2), heartbeat=None)
    reports: list[tuple[CloseReport, BaseException | None]] = []

    class Kept(Flood):
        async def on_close(self, report: CloseReport) -> None:
            reports.append((report, self.failed))

    async with (
        serving(Kept, policy=policy) as (server, witness),
        raw_client(server, receive_buffer=16 * KILO) as client,
    ):
        (ref,) = server.connections
        await until(lambda: ref._cell.closing)
        frames = []
        while not frames or frames[-1].opcode != CLOSE:
            frames.append(await client.frame())
        await client.send_close(1013)
        rest = await client.rest()
        await witness.one_closed()

    ((report, failed),) = reports
    assert {frame.payload for frame in frames[:-1]} == {Flood.chunk}
    assert frames[-1].close == (1013, "reads too slowly")
    assert rest == []
    assert (report.exit_reason, report.clean) == (ExitReason.OVERLOAD, True)
    assert report.messages_out == len(frames) - 1, "not one of them is lost"
    assert isinstance(failed, ConnectionClosing)
    assert failed.code == 1013
    assert witness.crashes == []


async def test_a_client_that_is_slower_than_the_sender_but_reads_is_not_closed() -> None:
    policy = Policy(limits=Limits(send_stall=5), heartbeat=None)

    async with (
        serving(Flood, policy=policy) as (server, _),
        raw_client(server, receive_buffer=16 * KILO) as client,
    ):
        (ref,) = server.connections
        for _ in range(500):
            await read(client, len(Flood.chunk))
            await anyio.sleep(0.001)

        assert not ref._cell.closing
        client.reset()


async def test_a_member_that_does_not_read_is_closed_at_the_hard_limit_and_holds_up_nobody() -> None:
    class Member(ConnectionActor):
        def on_connect(self) -> None:
            self.join("room")

    limits = Limits(send_stall=None, send_limit=256 * KILO)
    policy = Policy(limits=limits, heartbeat=None, timeouts=Timeouts(close=0.5))
    news = "x" * (32 * KILO)

    async with (
        serving(Member, policy=policy) as (server, witness),
        raw_client(server) as reader,
        raw_client(server, receive_buffer=16 * KILO) as sleeper,
    ):
        await witness.opened(2)
        published = 0
        while not witness.closed:
            server.publish("room", news)
            published += 1
            assert (await reader.frame()).text == news
        report = witness.closed[0].report
        assert len(server.connections) == 1
        sleeper.close()

    assert (report.code, report.reason) == (1013, "reads too slowly")
    assert report.exit_reason is ExitReason.OVERLOAD
    assert report.messages_out < published


async def test_senders_that_do_not_wait_for_each_other_fill_no_memory() -> None:
    class Crowd(ConnectionActor):
        async def on_message(self, message: str) -> None:
            for _ in range(1000):
                self.spawn(self.send, b"x" * (64 * KILO))

    policy = Policy(limits=Limits(send_stall=0.2), heartbeat=None, timeouts=Timeouts(close=0.5))
    async with (
        serving(Crowd, policy=policy) as (server, witness),
        raw_client(server, receive_buffer=16 * KILO) as client,
    ):
        (ref,) = server.connections
        await client.send("go")
        most = 0
        with anyio.fail_after(DEADLINE):
            while not witness.closed:
                most = max(most, ref._cell.websocket.transport.buffered)
                await anyio.lowlevel.checkpoint()
        closed = await witness.one_closed()

    assert most <= 4 * 64 * KILO
    assert closed.report.code == 1013
    assert closed.report.exit_reason is ExitReason.OVERLOAD
