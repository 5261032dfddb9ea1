"""Verdicts are about progress: who takes or sends something stays, who does not is ended.

In virtual time over the memory transport, and in short real times over sockets.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from actors import ConnectionActor, ExitReason
from actors.progress import DRIP
from actors.testing import Client, ManualClock, settled
from actors.timers import LATE, Timers
from supervisor import Heartbeat, Limits, Policy, Timeouts
from tests.memory import MemoryServer, serving_in_memory
from tests.raw import BINARY, CLOSE, PING, TEXT, Frame, encode, raw_client
from tests.witness import serving, until, watched

KILO = 1024
MEGA = 1024 * KILO
OFF = Policy(
    timeouts=Timeouts(idle=None, lifetime=None, assembly=None, handler=None),
    heartbeat=None,
    limits=Limits(send_stall=None),
)


def only(**seconds: float | None) -> Policy:
    return Policy(timeouts=Timeouts(**{"handler": None, "assembly": None, **seconds})).over(OFF)


def stall(seconds: float | None, **limits: Any) -> Policy:
    return Policy(limits=Limits(send_stall=seconds, **limits)).over(OFF)


class Sends(ConnectionActor):
    """Sends as many bytes as a message says, in one message."""

    async def on_message(self, message: str) -> None:
        await self.send(bytes(int(message)))


class Member(ConnectionActor):
    def on_connect(self) -> None:
        self.join("news")


# -- a healthy reader gets everything ----------------------------------------------------------


@pytest.mark.every_runtime
@pytest.mark.parametrize("buffer", [None, 16 * KILO, 87 * KILO])
async def test_sixty_senders_at_once_lose_nothing_with_a_peer_that_reads(buffer: int | None) -> None:
    class Crowd(ConnectionActor):
        async def on_message(self, message: str) -> None:
            async with anyio.create_task_group() as task_group:
                for number in range(60):
                    task_group.start_soon(self.send, bytes([number]) * 30_000)
            self.close(4001, "all of them")

    sock = socket.create_server(("127.0.0.1", 0))
    if buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    with sock:
        async with serving(Crowd, sock=sock) as (server, witness), raw_client(server) as client:
            await client.send("go")
            frames = [await client.frame() for _ in range(60)]
            assert await client.answer_close() == (4001, "all of them")
            assert (await witness.one_closed()).report.clean

    assert sorted(frame.payload for frame in frames) == [bytes([number]) * 30_000 for number in range(60)]


@pytest.mark.every_runtime
@pytest.mark.parametrize("sizes", [[3 * MEGA], [700 * KILO] * 8], ids=["one message", "one turn"])
@pytest.mark.parametrize("buffer", [None, 16 * KILO, 87 * KILO])
async def test_what_is_published_at_once_reaches_a_member_that_reads_however_much_it_is(
    sizes: list[int], buffer: int | None
) -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    if buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    with sock:
        async with serving(Member, sock=sock) as (server, witness), raw_client(server) as client:
            await client.send("are you there?")
            (ref,) = server.connections
            await until(lambda: ref._cell.messages_in)
            for size in sizes:
                server.publish("news", bytes(size))
            server.publish("news", "the last")
            got = [len((await client.frame()).payload) for _ in sizes]
            assert await client.frame() == Frame(TEXT, b"the last")
            assert not witness.closed

    assert got == sizes


@pytest.mark.every_runtime
@pytest.mark.parametrize("size", [100, 30_000])
async def test_plain_code_that_sends_much_at_once_loses_nothing_with_a_peer_that_reads(size: int) -> None:
    count = 3 * MEGA // size

    class Plain(ConnectionActor):
        async def on_message(self, message: str) -> None:
            for _ in range(count):
                self._own_cell.send_now(bytes(size))

    async with serving(Plain) as (server, witness), raw_client(server) as client:
        await client.send("go")
        for _ in range(count):
            assert len((await client.frame()).payload) == size
        assert not witness.closed


async def test_a_member_that_takes_nothing_is_closed_a_second_after_its_limit_is_passed() -> None:
    async with serving_in_memory(Member, policy=stall(None, send_limit=100_000)) as memory:
        client = await member(memory)
        client.stall()
        publish(memory, 101_000)
        await memory.clock.advance(50)
        assert not client.cell.closing
        publish(memory, 1)
        await memory.clock.advance(0.9)
        assert not client.cell.closing
        await memory.clock.advance(0.2)
        assert client.cell.closing
        client.unstall()

        assert await client.closed() == (1013, "reads too slowly", True)


async def test_a_member_for_which_more_and_more_is_queued_is_closed_though_it_reads() -> None:
    async with serving_in_memory(Member, policy=stall(None, send_limit=100_000)) as memory:
        client = await member(memory)
        client.stall()
        most = 0
        while not client.cell.closing:
            publish(memory, 10_000)
            await settled()
            most = max(most, client.transport.buffered)
            await memory.clock.advance(0.01)
            client.transport.take(5_000)
        client.unstall()
        await client.closed()

    assert 100_000 < most < 450_000


async def test_a_member_that_catches_up_is_not_closed_however_often_it_falls_behind() -> None:
    async with serving_in_memory(Member, policy=stall(10, send_limit=100_000)) as memory:
        client = await member(memory)
        for _ in range(5):
            client.stall()
            for _ in range(10):
                publish(memory, 100_000)  # in one turn
            for _ in range(20):
                await memory.clock.advance(0.5)
                client.transport.take(50_010)
                publish(memory, 10)
            assert not client.cell.closing
            client.unstall()
            await settled()


async def member(memory: MemoryServer) -> Client:
    client = await memory.connect()
    await memory.clock.advance(0)
    return client


def publish(memory: MemoryServer, size: int) -> None:
    memory.server.publish("news", bytes(size))


# -- a slow line -------------------------------------------------------------------------------


async def test_a_steady_reader_on_a_slow_line_stays_and_one_that_stops_has_the_stall_time_again() -> None:
    clock = ManualClock()

    async with watched(Sends, stall(10), clock) as client:
        client.stall()
        await client.send(str(MEGA))
        for _ in range(60):
            await clock.advance(1)
            client.transport.take(2 * DRIP)
        assert not client.cell.closing
        await clock.advance(8.9)
        assert not client.cell.closing
        await clock.advance(3.7)
        assert client.cell.closing
        client.unstall()

        assert (await client.closed())[:2] == (1013, "reads too slowly")


async def test_a_drip_is_no_progress_for_the_send_stall() -> None:
    clock = ManualClock()

    async with watched(Sends, stall(10), clock) as client:
        client.stall()
        await client.send(str(MEGA))
        for _ in range(99):
            await clock.advance(0.1)
            client.transport.take(1)
        assert not client.cell.closing
        await clock.advance(0.2)
        assert client.cell.closing
        client.unstall()
        await client.closed()


@pytest.mark.every_runtime
async def test_a_large_message_arrives_whole_on_a_line_that_needs_longer_than_every_timeout() -> None:
    class Large(ConnectionActor):
        async def on_message(self, message: str) -> None:
            await self.send(bytes(6 * MEGA))
            self.close(4001, "all of it")

    policy = Policy(
        timeouts=Timeouts(handler=1, close=1),
        heartbeat=Heartbeat(interval=0.5, timeout=0.5),
        limits=Limits(send_stall=1),
    )
    async with (
        serving(Large, policy=policy) as (server, witness),
        raw_client(server, receive_buffer=64 * KILO) as client,
    ):
        await client.send("go")
        began = time.monotonic()
        got = bytearray()
        while len(got) < 6 * MEGA + 10:
            await anyio.wait_readable(client.sock)
            data = client.sock.recv(32 * KILO)
            assert data, "the server ended it"
            got += data
            await anyio.sleep(0.02)
        took = time.monotonic() - began
        client.wire, client._read = got, 0
        (large, *pings) = [await client.frame()]
        while (frame := await client.frame()).opcode == PING:
            pings.append(frame)
        assert frame.close == (4001, "all of it")
        await client.send_close(4001)
        await witness.one_closed()

    assert large == Frame(BINARY, bytes(6 * MEGA))
    assert took > 3, "longer than each of the times"


async def test_a_closing_handshake_goes_on_while_the_peer_takes_what_was_sent_before_the_close() -> None:
    clock = ManualClock()

    async with watched(Sends, OFF, clock, close=10.0) as client:
        client.stall()
        await client.send(str(100 * 2 * DRIP - 20))
        await settled()
        client.ref.close(4001, "behind it")
        for _ in range(98):
            await clock.advance(0.999)
            client.transport.take(2 * DRIP)
        assert client.ref.alive
        client.unstall()

        assert await client.closed() == (4001, "behind it", True)


@pytest.mark.parametrize(("rate", "most"), [(0, 10), (100, 10), (2 * DRIP, 100)], ids=["0", "drip", "steady"])
async def test_a_closing_handshake_without_progress_ends_in_time_and_with_it_after_ten_times_that(
    rate: int, most: float
) -> None:
    clock = ManualClock()

    async with watched(Sends, OFF, clock, close=10.0) as client:
        client.stall()
        await client.send(str(MEGA))
        await settled()
        client.ref.close(4001, "behind it")
        await settled()
        for _ in range(10 * (most // 10) - 1):
            await clock.advance(1)
            client.transport.take(rate)
        await clock.advance(0.9)
        assert not client.transport.aborted
        await clock.advance(0.2)

        assert client.transport.aborted


async def test_a_peer_that_sends_on_behind_our_close_has_the_time_to_end_its_message() -> None:
    clock = ManualClock()

    async with watched(Sends, OFF, clock, close=10.0) as client:
        frame = encode(BINARY, bytes(64 * DRIP))
        client.feed(frame[: 2 * DRIP])
        client.answers = False
        client.ref.close(4001, "enough")
        for start in range(2 * DRIP, len(frame), 2 * DRIP):
            await clock.advance(1)
            client.feed(frame[start : start + 2 * DRIP])
        assert client.ref.alive
        client.feed(encode(CLOSE, b"\x0f\xa1"))
        await settled()

        report = await client.ref.wait_closed()
        assert (report.clean, report.undelivered) == (True, 1)


# -- zombies -----------------------------------------------------------------------------------

BEATING = Policy(heartbeat=Heartbeat(interval=20, timeout=5, jitter=0)).over(OFF)


async def test_a_peer_that_is_gone_with_a_full_queue_is_lost_after_interval_and_timeout() -> None:
    clock = ManualClock()

    async with watched(Sends, BEATING, clock, close=1.0) as client:
        await clock.advance(5)
        client.stall()
        await client.send(str(16 * MEGA))
        await clock.advance(24.9)
        assert not client.cell.closing
        await clock.advance(7)
        assert client.cell.closing

    assert client.cell.exit_reason is ExitReason.HEARTBEAT_LOST


async def test_bytes_taken_are_the_sign_of_life_of_a_congested_peer() -> None:
    clock = ManualClock()

    async with watched(Sends, BEATING, clock, close=1.0) as client:
        client.stall()
        await client.send(str(MEGA))
        for _ in range(100):
            await clock.advance(2)
            client.transport.take(3 * DRIP)
        assert not client.cell.closing
        await clock.advance(32)

        assert client.cell.closing


async def test_a_peer_that_has_caught_up_has_the_timeout_for_its_pong() -> None:
    clock = ManualClock()

    async with watched(Sends, BEATING, clock, close=1.0) as client:
        client.answers = False
        client.stall()
        await client.send(str(MEGA))
        await clock.advance(24)
        assert not client.cell.closing
        client.unstall()
        await clock.advance(4.9)
        assert not client.cell.closing
        await clock.advance(10)

        assert client.cell.closing


# -- idle --------------------------------------------------------------------------------------


async def test_a_hook_at_work_is_not_idle_and_the_time_counts_from_its_end() -> None:
    clock = ManualClock()
    released = anyio.Event()

    class Works(ConnectionActor):
        async def on_message(self, message: str) -> None:
            await released.wait()

    async with watched(Works, only(idle=10), clock) as client:
        await client.send("work")
        await clock.advance(59)
        assert not client.cell.closing
        released.set()
        await clock.advance(9.9)
        assert not client.cell.closing
        await clock.advance(2.7)

        assert (await client.closed())[:2] == (1001, "idle timeout")


@pytest.mark.parametrize(("rate", "stays"), [(2 * DRIP, True), (1, False)], ids=["steady", "drip"])
@pytest.mark.parametrize("way", ["in", "out"])
async def test_data_on_its_way_is_not_idle_but_a_drip_is(way: str, rate: int, stays: bool) -> None:
    clock = ManualClock()

    async with watched(Sends, only(idle=10), clock) as client:
        if way == "in":
            client.feed(encode(BINARY, bytes(MEGA))[:100])
        else:
            client.stall()
            await client.send(str(MEGA))
        for _ in range(40):
            await clock.advance(1)
            if way == "in":
                client.feed(bytes(rate))
            else:
                client.transport.take(rate)

        assert client.cell.closing is not stays


async def test_pings_within_an_upload_do_not_keep_it_from_being_idle() -> None:
    clock = ManualClock()

    async with watched(Sends, only(idle=10), clock) as client:
        client.feed(encode(BINARY, bytes(10), fin=False))
        for _ in range(40):
            await clock.advance(0.4)
            client.feed(encode(PING, bytes(125)) * 4)

        assert client.cell.closing


# -- assembly ----------------------------------------------------------------------------------


def pieces(name: str) -> Callable[[int], bytes]:
    if name == "frame":
        return bytes
    return lambda size: encode(0, bytes(size), fin=False)


@pytest.mark.parametrize("name", ["frame", "fragments"])
async def test_an_upload_over_a_slow_line_is_no_violation_until_ten_times_its_time(name: str) -> None:
    clock = ManualClock()

    async with watched(Sends, only(assembly=10), clock) as client:
        if name == "frame":
            client.feed(encode(BINARY, bytes(MEGA))[:100])
        else:
            client.feed(encode(BINARY, bytes(10), fin=False))
        for _ in range(99):
            await clock.advance(1)
            client.feed(pieces(name)(2 * DRIP))
        assert not client.cell.closing
        await clock.advance(1.1)

        assert client.cell.websocket.sent == (1008, "message took too long to arrive")


@pytest.mark.parametrize("name", ["frame", "fragments"])
async def test_an_upload_that_stops_or_drips_is_a_violation_after_the_time_without_progress(
    name: str,
) -> None:
    clock = ManualClock()

    async with watched(Sends, only(assembly=10), clock) as client:
        client.feed(encode(BINARY, bytes(MEGA))[:100] if name == "frame" else encode(2, b"x", fin=False))
        for _ in range(30):
            await clock.advance(1)
            client.feed(pieces(name)(2 * DRIP))
        for _ in range(7):
            await clock.advance(1)
            client.feed(pieces(name)(10))
        assert not client.cell.closing
        for _ in range(8):
            await clock.advance(1)
            client.feed(pieces(name)(10))

        assert client.cell.websocket.sent == (1008, "message took too long to arrive")


# -- a hook that sends -------------------------------------------------------------------------


@pytest.mark.every_runtime
async def test_what_a_computing_hook_sends_goes_out_while_it_computes() -> None:
    seen: list[list[object]] = []

    class Computes(ConnectionActor):
        async def on_message(self, message: str) -> None:
            for number in range(5):
                time.sleep(0.006)  # noqa: ASYNC251  # it computes
                await self.send(f"{number}")
                seen.append(select.select([client.sock], [], [], 2)[0])
                client.wire += client.sock.recv(100)

    async with serving(Computes) as (server, _), raw_client(server) as client:
        await client.send("go")
        await until(lambda: len(seen) == 5)

    assert seen == [[client.sock]] * 5


@pytest.mark.every_runtime
async def test_what_a_computing_task_sends_goes_out_while_it_computes() -> None:
    seen: list[list[object]] = []

    class Computes(ConnectionActor):
        async def on_message(self, message: str) -> None:
            self.spawn(self.compute)

        async def compute(self) -> None:
            for number in range(5):
                time.sleep(0.006)  # noqa: ASYNC251  # it computes
                await self.send(f"{number}")
                seen.append(select.select([client.sock], [], [], 2)[0])
                client.wire += client.sock.recv(100)

    async with serving(Computes) as (server, _), raw_client(server) as client:
        await client.send("go")
        await until(lambda: len(seen) == 5)

    assert seen == [[client.sock]] * 5


async def test_a_hook_that_goes_on_sending_has_the_handler_timeout_anew_each_time() -> None:
    clock = ManualClock()
    go_on = [anyio.Event() for _ in range(10)]

    class Streams(ConnectionActor):
        async def on_message(self, message: str) -> None:
            for number, event in enumerate(go_on):
                await event.wait()
                await self.send(f"{number}")
            await anyio.Event().wait()

    async with watched(Streams, only(handler=5), clock) as client:
        await client.send("go")
        for event in go_on:
            await clock.advance(4)
            event.set()
        await clock.advance(4.9)
        assert not client.crashes
        await clock.advance(0.2)

        assert len(client.crashes) == 1


async def test_what_others_send_is_no_progress_of_a_hook_that_hangs() -> None:
    clock = ManualClock()

    class Hangs(ConnectionActor):
        async def on_connect(self) -> None:
            self.spawn(self.tick)

        async def tick(self) -> None:
            while True:
                await tick.wait()
                await self.send("tick")

        async def on_message(self, message: str) -> None:
            await anyio.Event().wait()

    async with watched(Hangs, only(handler=5), clock) as client:
        await client.send("go")
        for _ in range(5):
            tick = anyio.Event()
            await clock.advance(0.98)
            tick.set()
        tick = anyio.Event()
        await clock.advance(0.2)

        assert len(client.crashes) == 1


@pytest.mark.parametrize(("rate", "crashes"), [(2 * DRIP, 0), (0, 1)], ids=["slow reader", "no reader"])
async def test_a_hook_that_waits_for_a_slow_reader_is_not_to_blame(rate: int, crashes: int) -> None:
    clock = ManualClock()

    async with watched(Sends, only(handler=5), clock) as client:
        client.stall()
        await client.send(str(MEGA))
        for _ in range(10):
            await clock.advance(1)
            client.transport.take(rate)

        assert len(client.crashes) == crashes


# -- a process that stands still ---------------------------------------------------------------

STOOD_STILL = LATE + 100


@pytest.mark.parametrize("which", ["stall", "zombie", "over the limit", "close"])
async def test_a_process_that_stood_still_blames_nobody_for_not_reading(which: str) -> None:
    clock = ManualClock()
    policy, time_left = {
        "stall": (stall(10), 10),
        "zombie": (BEATING, 25),
        "over the limit": (stall(None), 1),
        "close": (OFF, 10),
    }[which]

    async with watched(Sends, policy, clock, close=10.0, send_limit=10_000) as client:
        client.stall()
        await client.send(str(MEGA))
        await settled()
        if which == "close":
            client.ref.close()
        elif which == "over the limit":
            client.cell.publish_frame(b"\x81\x01x", clock())
        await clock.advance(time_left * 0.4)
        await clock.jump(STOOD_STILL)
        await clock.advance(time_left * 0.98)
        assert not client.transport.aborted
        assert client.cell.closing is (which == "close")
        await clock.advance(time_left * 0.5)

        assert client.transport.aborted if which == "close" else client.cell.closing
        client.unstall()


async def test_a_standstill_between_two_deadlines_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.timers.TICK", 0.01)
    monkeypatch.setattr("actors.timers.LATE", 0.2)
    timers = Timers(time.monotonic)

    async with anyio.create_task_group() as task_group:
        timers.after(1000, lambda: None)
        task_group.start_soon(timers.run)
        await anyio.sleep(0.05)
        before = time.monotonic()
        assert timers.awake_since(before) < before
        time.sleep(0.3)  # noqa: ASYNC251  # nobody can do anything meanwhile
        await anyio.sleep(0.05)

        assert before + 0.3 <= timers.awake_since(time.monotonic()) < time.monotonic()
        task_group.cancel_scope.cancel()
