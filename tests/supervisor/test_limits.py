"""The limits of one connection, over sockets: what is within goes through, one more closes.

The rates have a clock of the test where time decides.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any, ClassVar

import anyio
import pytest
from anyio.lowlevel import checkpoint

from actors import ActorRef, ConnectionActor, MailboxFull
from actors.cell.cell import TURN
from actors.cell.connection_cell import CROWD, SHORT_TURN
from actors.codecs import Codec, JsonCodec, MsgpackCodec
from actors.protocol.fastlane import BATCH
from actors.rates import InboundRate
from actors.testing import ManualClock, connected, settled
from supervisor import Heartbeat, Limits, Overflow, Policy, Route, Server, Timeouts
from tests.raw import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    RawClient,
    encode,
    raw_client,
)
from tests.witness import serving, until

pytestmark = pytest.mark.every_runtime


class Echo(ConnectionActor):
    async def on_message(self, message: str | bytes) -> None:
        await self.send(message)


class Keep(ConnectionActor):
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.got: list[Any] = []

    async def on_message(self, message: Any) -> None:
        self.got.append(message)

    async def on_info(self, message: object) -> list[Any]:
        return self.got


def fragments(*payloads: bytes, opcode: int = BINARY) -> bytes:
    """A message in fragments."""
    last = len(payloads) - 1
    return b"".join(
        encode(CONTINUATION if number else opcode, payload, fin=number == last)
        for number, payload in enumerate(payloads)
    )


@asynccontextmanager
async def one(
    actor: type[ConnectionActor] = Echo,
    *,
    receive_buffer: int | None = None,
    headers: dict[str, str] | None = None,
    timeouts: Timeouts | None = None,
    overflow: Overflow = Overflow.RAISE,
    **limits: Any,
) -> AsyncIterator[tuple[Server, RawClient]]:
    """A server with these limits and one client."""
    policy = Policy(limits=Limits(**limits), timeouts=timeouts or Timeouts(), overflow=overflow)
    async with (
        serving(actor, policy=policy) as (server, _),
        raw_client(server, headers=headers, receive_buffer=receive_buffer) as client,
    ):
        yield server, client


async def closed_with(client: RawClient) -> tuple[int, str]:
    """Read up to the server's Close frame, and answer it; it is the last frame."""
    while (frame := await client.frame()).opcode != CLOSE:
        pass
    await client.send_bytes(encode(CLOSE, frame.payload))
    assert await client.rest() == []
    assert client.over == "eof"
    return frame.close


# -- sizes -------------------------------------------------------------------------------------

WITHIN = [
    encode(BINARY, bytes(1000)),
    fragments(bytes(400), bytes(600)),
    fragments(bytes(1000), b""),
    fragments(b"", bytes(1000)),
]


@pytest.mark.parametrize("message", WITHIN)
async def test_a_message_of_the_size_allowed_goes_through(message: bytes) -> None:
    async with one(max_message=1000) as (_, client):
        await client.send_bytes(message)

        assert await client.frame() == Frame(BINARY, bytes(1000))


@pytest.mark.parametrize(
    "message",
    [
        encode(BINARY, bytes(1001)),
        encode(BINARY, bytes(1001))[:4],  # the header is enough
        struct.pack("!BBQ", 0x82, 0xFF, 2**63 - 1),
        fragments(bytes(400), bytes(601)),
        fragments(bytes(1000), b"x"),
        fragments(b"x", bytes(1000))[:20],
    ],
    ids=["whole", "header", "header of 2**63-1", "fragments", "last byte", "header of a fragment"],
)
async def test_one_byte_more_closes_with_1009(message: bytes) -> None:
    async with one(max_message=1000) as (_, client):
        await client.send_bytes(message)

        assert (await closed_with(client))[0] == 1009


async def test_without_max_message_a_large_one_goes_through() -> None:
    async with one(max_message=None) as (_, client), anyio.create_task_group() as task_group:
        task_group.start_soon(client.send_bytes, encode(BINARY, bytes(3 << 20)))

        assert len((await client.frame()).payload) == 3 << 20


@pytest.mark.parametrize("payload", [b"", b"x"])
async def test_a_message_of_as_many_fragments_as_allowed_goes_through(payload: bytes) -> None:
    async with one(max_fragments=5) as (_, client):
        for _ in range(2):
            await client.send_bytes(fragments(*[payload] * 5))

            assert await client.frame() == Frame(BINARY, payload * 5)


@pytest.mark.parametrize("payload", [b"", b"x"])
async def test_one_fragment_more_closes_with_1009(payload: bytes) -> None:
    async with one(max_fragments=5) as (_, client):
        await client.send_bytes(fragments(*[payload] * 7)[:-6])

        assert await closed_with(client) == (1009, "more than 5 fragments")


async def test_a_control_frame_between_fragments_is_no_fragment() -> None:
    async with one(max_fragments=2) as (_, client):
        await client.send_bytes(
            encode(TEXT, b"a", fin=False) + encode(PING, b"?") + encode(CONTINUATION, b"b")
        )

        assert [await client.frame(), await client.frame()] == [Frame(PONG, b"?"), Frame(TEXT, b"ab")]


@pytest.mark.parametrize(
    "begin",
    [encode(BINARY, bytes(1000))[:-1], encode(BINARY, b"x", fin=False), encode(PING, b"x")[:3]],
    ids=["frame", "message", "ping"],
)
async def test_a_message_that_does_not_end_closes_with_1008(begin: bytes) -> None:
    async with one(timeouts=Timeouts(assembly=0.05)) as (_, client):
        await client.send("echo")
        assert (await client.frame()).text == "echo"

        await client.send_bytes(begin)

        assert (await client.frame()).close == (1008, "message took too long to arrive")


async def test_neither_a_drip_nor_answered_pings_give_a_message_more_time() -> None:
    policy = Policy(
        timeouts=Timeouts(assembly=1.0), heartbeat=Heartbeat(interval=0.02, timeout=5.0, jitter=0)
    )
    async with serving(Echo, policy=policy) as (server, _), raw_client(server) as client:
        await client.send_bytes(encode(TEXT, b"", fin=False))
        pings = 0
        while (frame := await client.frame()).opcode == PING:
            pings += 1
            await client.send_bytes(encode(PONG, frame.payload) + encode(CONTINUATION, b"x", fin=False))

    assert frame.close == (1008, "message took too long to arrive")
    assert pings


# -- rates -------------------------------------------------------------------------------------


@pytest.mark.parametrize("opcode", [PING, PONG])
async def test_control_frames_have_a_rate_and_more_of_them_close_with_1008(opcode: int) -> None:
    async with one(control_rate=0.001, control_burst=40) as (_, client):
        await client.send_bytes(encode(opcode, b"x") * 40)
        await client.send("echo")
        while (frame := await client.frame()).opcode == PONG:
            pass
        assert frame.text == "echo"

        await client.send_bytes(encode(opcode, b"x"))

        assert await closed_with(client) == (1008, "too many control frames")


async def test_the_pongs_that_the_heartbeat_asks_for_are_free() -> None:
    policy = Policy(
        heartbeat=Heartbeat(interval=0.01, timeout=5.0, jitter=0),
        limits=Limits(control_rate=0.001, control_burst=1),
    )
    async with serving(Echo, policy=policy) as (server, _), raw_client(server) as client:
        for _ in range(5):
            ping = await client.frame()
            assert ping.opcode == PING
            await client.send_bytes(encode(PONG, ping.payload))


async def test_without_a_control_rate_any_number_is_answered() -> None:
    async with one(control_rate=None) as (_, client):
        for number in range(200):
            await client.send_bytes(encode(PING, b"%d" % number))
            assert await client.frame() == Frame(PONG, b"%d" % number)


async def test_pings_that_come_together_are_all_answered_and_answers_keep_their_place() -> None:
    async with one(control_rate=None, max_message=1000) as (_, client):
        pings = b"".join(encode(PING, b"%d" % number) for number in range(20))
        await client.send_bytes(pings + encode(BINARY, bytes(1001)))

        for number in range(20):
            assert await client.frame() == Frame(PONG, b"%d" % number)
        assert (await closed_with(client))[0] == 1009


async def test_too_many_messages_pause_reading_first_and_nothing_is_lost() -> None:
    async with one(message_rate=200.0, message_burst=4) as (server, client):
        for number in range(40):
            await client.send(str(number))

        assert [(await client.frame()).text for _ in range(40)] == list(map(str, range(40)))
        assert len(server.connections) == 1


async def test_a_peer_over_its_rate_is_paused_and_closed_with_1008_when_that_does_not_help() -> None:
    clock = ManualClock()
    async with connected(Keep, clock=clock, message_rate=10.0, message_burst=10) as client:
        for number in range(12):
            client.feed(encode(TEXT, b"%d" % number))
        await settled()
        paused = len(client.actor.got)
        await clock.advance(0.26)  # a quarter of the burst
        resumed = len(client.actor.got)
        while client.cell.mailbox.open:
            client.feed(encode(TEXT, b"more"))
            await clock.advance(0.05)

        assert (paused, resumed) == (11, 12)
        assert await client.closed() == (1008, "too many messages", True)
        assert client.report is not None
        assert InboundRate.PATIENCE <= client.report.opened_for < InboundRate.PATIENCE + 1


async def test_a_peer_that_slows_down_is_forgiven() -> None:
    clock = ManualClock()
    async with connected(Keep, clock=clock, message_rate=10.0, message_burst=10) as client:
        for _ in range(5):
            for _ in range(12):
                client.feed(encode(TEXT, b"x"))
            await clock.advance(3.0)

        assert client.cell.mailbox.open
        assert len(client.actor.got) == 60


async def test_a_flood_of_tiny_messages_fills_no_mailbox_and_leaves_turns_to_others() -> None:
    count, seen = 2000, [0]
    async with connected(Keep) as client:
        client.feed(encode(TEXT, b"x") * count)
        queued = len(client.cell.mailbox)
        while seen[-1] < count:
            await checkpoint()
            seen.append(len(client.actor.got) if client.actor else 0)

    assert queued <= BATCH
    assert max(later - earlier for earlier, later in pairwise(seen)) <= 2 * TURN


class BusyClock(ManualClock):
    """Others do much between any two looks."""

    def __call__(self) -> float:
        self._now += 2 * CROWD
        return self._now


async def test_a_flood_of_messages_gets_shorter_turns_while_others_have_much_to_do() -> None:
    count, seen = 400, [0]
    async with connected(Keep, clock=BusyClock()) as client:
        client.feed(encode(TEXT, b"x") * count)
        while seen[-1] < count:
            await checkpoint()
            seen.append(len(client.actor.got) if client.actor else 0)

    behind_the_first_turn = [later - earlier for earlier, later in pairwise(seen) if earlier >= TURN]
    assert 0 < max(behind_the_first_turn) <= 2 * SHORT_TURN


# -- what the peer does not read ---------------------------------------------------------------


class Flood(ConnectionActor):
    """Sends for as long as it can."""

    sent = 0

    async def on_connect(self) -> None:
        self.spawn(self.flood)

    async def flood(self) -> None:
        while True:
            await self.send(bytes(1000))
            type(self).sent += 1


async def test_send_waits_for_a_slow_peer_and_one_that_stands_still_is_closed_with_1013() -> None:
    Flood.sent = 0
    async with one(Flood, receive_buffer=4096, send_high_water=4096, send_stall=0.1) as (server, client):
        await until(lambda: not [ref for ref in server.connections if ref._cell.mailbox.open])

        assert Flood.sent * 1000 < 8 << 20, "what the kernel takes, and no more than the mark"
        assert await closed_with(client) == (1013, "reads too slowly")


async def test_a_slow_peer_that_does_read_stays() -> None:
    async with one(Flood, receive_buffer=4096, send_high_water=4096, send_stall=5.0) as (server, client):
        for _ in range(200):
            assert await client.frame() == Frame(BINARY, bytes(1000))
        assert len(server.connections) == 1


class Member(ConnectionActor):
    async def on_connect(self) -> None:
        self.join("news")
        await self.send("joined")


async def test_what_is_published_to_a_peer_that_does_not_read_is_bounded_and_the_others_get_it_all() -> None:
    policy = Policy(limits=Limits(send_high_water=4096, send_limit=100_000, send_stall=None))
    async with (
        serving(Member, policy=policy) as (server, witness),
        raw_client(server, receive_buffer=4096) as slow,
        raw_client(server) as quick,
    ):
        assert [(await client.frame()).text for client in (slow, quick)] == ["joined"] * 2
        count = 0
        while len([ref for ref in server.connections if ref._cell.mailbox.open]) == 2:
            server.publish("news", bytes(10_000))
            count += 1
            assert await quick.frame() == Frame(BINARY, bytes(10_000))
            for _ in range(3):  # what one turn of the event loop publishes is not judged
                await anyio.lowlevel.checkpoint()
            assert max(ref._cell.websocket.transport.buffered for ref in server.connections) <= 500_000

        assert await closed_with(slow) == (1013, "reads too slowly")
        assert slow.wire.count(bytes(10_000)) < count
        closed = await witness.one_closed()
        assert closed.report.exit_reason.value == "overload"


async def test_a_member_that_stands_still_is_closed_when_its_time_is_over() -> None:
    policy = Policy(limits=Limits(send_high_water=4096, send_limit=None, send_stall=0.1))
    async with serving(Member, policy=policy) as (server, _), raw_client(server, receive_buffer=4096) as slow:
        assert (await slow.frame()).text == "joined"
        server.publish("news", bytes(8 << 20))

        await until(lambda: not [ref for ref in server.connections if ref._cell.mailbox.open])
        assert await closed_with(slow) == (1013, "reads too slowly")


# -- codecs ------------------------------------------------------------------------------------

JSON, MSGPACK = JsonCodec(max_size=100, max_depth=8), MsgpackCodec(max_size=100, max_depth=8)
REFUSED_BY_THE_CODEC: list[tuple[Codec, str | bytes, tuple[int, str]]] = [
    (JSON, "[" * 9 + "]" * 9, (1007, "JSON: nested more than 8 deep")),
    (JSON, '{"":' * 9 + "0" + "}" * 9, (1007, "JSON: nested more than 8 deep")),
    (JSON, " " * 101, (1009, "JSON: longer than 100 characters")),
    (JSON, "[", (1007, "JSON: malformed at character 1")),
    (JSON, b"[]", (1003, "JSON: send a text message, not a binary one")),
    (MSGPACK, b"\x91" * 9 + b"\xc0", (1007, "msgpack: nested more than 8 deep")),
    (MSGPACK, b"\x90" * 101, (1009, "msgpack: longer than 100 bytes")),
    (
        MSGPACK,
        b"\xdd\xff\xff\xff\xff",
        (1007, "msgpack: malformed, incomplete, or a map key that is not a string"),
    ),
    (MSGPACK, "[]", (1003, "msgpack: send a binary message, not a text one")),
    (JsonCodec(), "[" * 100_000, (1007, "JSON: nested too deeply")),
]


@pytest.mark.parametrize(("codec", "message", "close"), REFUSED_BY_THE_CODEC)
async def test_what_the_codec_refuses_never_reaches_the_actor(
    codec: Codec, message: str | bytes, close: tuple[int, str]
) -> None:
    class Coded(Keep):
        async def on_message(self, message: Any) -> None:
            raise AssertionError(f"not reached with {message!r}")

    Coded.codec = codec
    async with one(Coded) as (_, client):
        await client.send(message)

        assert await closed_with(client) == close


@pytest.mark.parametrize("text", ["[" * 8 + "]" * 8, json.dumps("x" * 98)])
async def test_what_is_within_the_limits_of_the_codec_goes_through(text: str) -> None:
    class Coded(Echo):
        codec = JSON

    async with one(Coded) as (_, client):
        await client.send(text)

        assert (await client.frame()).text == text


# -- compression -------------------------------------------------------------------------------

OFFER = {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"}


class Deflate:
    """Compresses the messages of one client (RFC 7692, section 7.2.1)."""

    def __init__(self) -> None:
        self._compress = zlib.compressobj(9, zlib.DEFLATED, -12)

    def payload(self, data: bytes) -> bytes:
        return (self._compress.compress(data) + self._compress.flush(zlib.Z_SYNC_FLUSH))[:-4]

    def frame(self, data: bytes) -> bytes:
        return encode(BINARY, self.payload(data), rsv=0b100)


async def test_compression_is_off_unless_it_is_asked_for() -> None:
    async with one(headers=OFFER) as (_, client):
        assert "sec-websocket-extensions" not in client.headers
        await client.send_bytes(Deflate().frame(b"x"))

        assert (await closed_with(client))[0] == 1002


async def test_compressed_messages_go_through_with_small_windows() -> None:
    deflate = Deflate()
    messages = [b"a" * 60_000, b'{"a": 1}' * 10, b"", bytes(range(256)) * 4]
    async with one(Keep, headers=OFFER, compression=True) as (server, client):
        for message in messages:
            await client.send_bytes(deflate.frame(message))
        (ref,) = server.connections

        async def arrived() -> list[Any]:
            got: list[Any] = await ref.ask("what came?")
            return got

        while len(await arrived()) < len(messages):
            pass

        assert await arrived() == messages
        assert "server_max_window_bits=12" in client.headers["sec-websocket-extensions"]
        assert "client_max_window_bits=12" in client.headers["sec-websocket-extensions"]


BOMB = b"a" * ((1 << 20) + 1)


@pytest.mark.parametrize(
    "wire",
    [
        Deflate().frame(BOMB),
        Deflate().frame(BOMB * 100),
        encode(BINARY, Deflate().payload(BOMB * 100)[:1200], rsv=0b100, fin=False),
    ],
    ids=["by one byte", "by far", "in a fragment"],
)
async def test_a_message_that_inflates_too_much_closes_with_1009(wire: bytes) -> None:
    async with one(Keep, headers=OFFER, compression=True) as (_, client):
        await client.send_bytes(wire)

        assert (await closed_with(client))[0] == 1009


async def test_what_is_no_deflate_closes_with_1002_or_1007() -> None:
    async with one(Keep, headers=OFFER, compression=True) as (_, client):
        await client.send_bytes(encode(BINARY, b"\xff" * 20, rsv=0b100))

        assert (await closed_with(client))[0] in (1002, 1007)


async def test_small_messages_that_inflate_a_lot_stop_being_read_when_the_mailbox_is_full() -> None:
    """A read of 30 KB holds 300 messages of 64 KB: they must not all be unpacked at once."""

    class Slow(ConnectionActor):
        async def on_message(self, message: str | bytes) -> None:
            await anyio.sleep_forever()

    deflate = Deflate()
    frames = b"".join(deflate.frame(b"a" * 64_000) for _ in range(300))
    async with (
        one(Slow, headers=OFFER, compression=True, timeouts=Timeouts(teardown=0.01)) as (server, client),
        anyio.create_task_group() as task_group,
    ):
        task_group.start_soon(client.send_bytes, frames)
        (ref,) = server.connections
        cell: Any = ref._cell
        await until(lambda: not cell.reading)

        assert cell.mailbox.inbound_bytes < 2 * Limits().inbound_bytes + 4 * (1 << 20)
        task_group.cancel_scope.cancel()


# -- told messages -----------------------------------------------------------------------------


class Busy(ConnectionActor):
    """Handles what it is told when it is let go, and sends it."""

    async def on_connect(self) -> None:
        self.go = anyio.Event()
        self.join("busy")

    async def on_message(self, message: str | bytes) -> None:
        await self.send("busy")
        await self.go.wait()

    async def on_info(self, message: object) -> None:
        await self.send(str(message))


@asynccontextmanager
async def busy(overflow: Overflow) -> AsyncIterator[tuple[Server, RawClient, ActorRef]]:
    async with one(Busy, overflow=overflow, mailbox_messages=3) as (server, client):
        await client.send("begin")
        assert (await client.frame()).text == "busy"
        (ref,) = server.connections
        yield server, client, ref


def let_go(ref: ActorRef) -> None:
    cell: Any = ref._cell
    cell.actor.go.set()


@pytest.mark.parametrize(
    ("overflow", "handled"),
    [(Overflow.DROP_NEW, ["0", "1", "2"]), (Overflow.DROP_OLD, ["2", "3", "4"])],
)
async def test_what_does_not_fit_becomes_a_dead_letter_by_policy(
    overflow: Overflow, handled: list[str]
) -> None:
    async with busy(overflow) as (server, client, ref):
        for number in range(5):
            ref.tell(number)
        letters = server.site.runtime.dead_letters.counts["overflow"]
        let_go(ref)

        assert [(await client.frame()).text for _ in range(3)] == handled
        assert letters == 2
        assert len(server.connections) == 1


async def test_by_default_the_teller_is_told_and_the_connection_stays() -> None:
    async with busy(Overflow.RAISE) as (_, client, ref):
        for number in range(3):
            ref.tell(number)
        with pytest.raises(MailboxFull):
            ref.tell(3)
        let_go(ref)

        assert [(await client.frame()).text for _ in range(3)] == ["0", "1", "2"]


async def test_overflow_may_close_with_1013() -> None:
    async with busy(Overflow.CLOSE) as (_, client, ref):
        for number in range(4):
            ref.tell(number)
        let_go(ref)

        assert (await closed_with(client))[0] == 1013


async def test_told_messages_are_bounded_in_bytes_too() -> None:
    async with one(Busy, mailbox_bytes=10) as (server, client):
        await client.send("begin")
        assert (await client.frame()).text == "busy"
        (ref,) = server.connections
        ref.tell("x" * 10)
        with pytest.raises(MailboxFull):
            ref.tell("x")
        ref.tell(1)  # has no size of its own
        let_go(ref)

        assert [(await client.frame()).text for _ in range(2)] == ["x" * 10, "1"]


async def test_a_limit_of_the_class_wins_over_that_of_the_route() -> None:
    class Small(Echo):
        policy = Policy(limits=Limits(max_message=10))

    route = Route(Small, policy=Policy(limits=Limits(max_message=100)))
    async with serving(route) as (server, _), raw_client(server) as client:
        await client.send(bytes(11))

        assert (await closed_with(client))[0] == 1009


# -- the times that timeouts count from --------------------------------------------------------


class Late(ConnectionActor):
    """Waits before it answers, and behind that, and notes what is known of its times."""

    hooks: ClassVar[list[tuple[float, float, float, float]]]

    async def on_message(self, message: str) -> None:
        assert self._cell is not None
        clock, began = self._cell.runtime.clock, self._cell.hook.since
        assert began is not None
        await anyio.sleep(0.01)
        waited = clock()
        await self.send(message)
        sent = self._cell.websocket.last_message
        await anyio.sleep(0.01)
        self.hooks.append((began, waited, sent, clock()))


async def test_each_of_the_messages_that_came_together_has_its_own_times() -> None:
    Late.hooks = []
    async with one(Late) as (_, client):
        await client.send_bytes(encode(TEXT, b"one") + encode(TEXT, b"two") + encode(TEXT, b"three"))
        await until(lambda: len(Late.hooks) == 3)

        assert all(began < waited <= sent < ended for began, waited, sent, ended in Late.hooks)
        assert all(ended <= began for (*_, ended), (began, *_) in pairwise(Late.hooks))
